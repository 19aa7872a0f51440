//! TLS over the connections to upstreams, with the trust that is configured. Without the feature `tls` `no_tls.rs` is
//! built instead.

use std::path::Path;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::unusable;

pub(super) type Connector = HttpsConnector<HttpConnector>;

/// Adds TLS to connections to `https` addresses.
pub(super) fn connector(
    mut http: HttpConnector,
    _: &str,
    ca_file: Option<&Path>,
) -> Result<Connector, (&'static str, String)> {
    let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| ("url", error.to_string()))?
        .with_root_certificates(authorities(ca_file).map_err(|what| ("ca_file", what))?)
        .with_no_client_auth();
    // It would refuse https itself.
    http.enforce_http(false);
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http))
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(file) = ca_file else {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        return Ok(roots.collect());
    };
    let wrong = |error: &dyn std::fmt::Display| unusable(file, error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no certificate (PEM)"));
    }
    Ok(roots)
}
