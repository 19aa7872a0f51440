//! The HTTP contract as OpenAPI 3.1, for `GET /openapi.json`: a file that is checked in. A test compares it with the routes
//! table and, with `UPDATE_OPENAPI=1`, rewrites what follows from the table.

/// The whole document, as it is served.
pub const DOCUMENT: &[u8] = include_bytes!("openapi.json");
