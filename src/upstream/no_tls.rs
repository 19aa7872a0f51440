//! Built instead of `tls.rs` where the feature `tls` is off: `https` addresses and CA files are refused.

use std::path::Path;

use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper_util::client::legacy::connect::HttpConnector;

pub(super) type Connector = HttpConnector;

pub(super) fn connector(http: HttpConnector, ca_file: Option<&Path>) -> Result<Connector, String> {
    match ca_file {
        Some(file) => Err(format!("ca_file {}: {NEEDED}", file.display())),
        None => Ok(http),
    }
}

/// Whether this build can connect to an address; else why not.
pub(super) fn check(address: &Uri) -> Result<(), &'static str> {
    if address.scheme() == Some(&Scheme::HTTPS) {
        return Err(NEEDED);
    }
    Ok(())
}

const NEEDED: &str = "https needs the feature `tls`, which this program was built without";
