//! Built instead of `tls.rs` where the feature `tls` is off: `https` addresses and CA files are refused.

use std::path::Path;

use hyper_util::client::legacy::connect::HttpConnector;

pub(super) type Connector = HttpConnector;

pub(super) fn connector(
    http: HttpConnector,
    address: &str,
    ca_file: Option<&Path>,
) -> Result<Connector, (&'static str, String)> {
    let setting = match ca_file {
        Some(_) => "ca_file",
        None if address.to_lowercase().starts_with("https:") => "url",
        None => return Ok(http),
    };
    let what = "https needs the feature `tls`, which this program was built without";
    Err((setting, what.to_owned()))
}
