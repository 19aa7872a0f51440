//! The HTTP contract as OpenAPI 3.1, for `GET /openapi.json`: a file that is checked in. A test compares it with the routes
//! table and, with `UPDATE_OPENAPI=1`, rewrites what follows from the table.

use bytes::Bytes;

/// The whole document, as it is served.
#[must_use]
pub fn document() -> Bytes {
    Bytes::from_static(include_bytes!("openapi.json"))
}
