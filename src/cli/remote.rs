//! The server that `--url` names, on this machine or another one: whether a key may be sent to it, and how it is reached.

use std::error::Error;
use std::path::{Path, PathBuf};

use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::rt::{Read, Write};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use r3mes_edge::upstream;
use tokio::net::UnixStream;

use super::address::socket_path;
use super::{Failure, GlobalArgs, Result};

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// A server that is not found by the database.
pub(super) struct Remote {
    /// `https://edge.example`, `http://127.0.0.1:8000/edge` or `unix:PATH`.
    pub(super) address: String,
    /// The authorities that are trusted instead of those of browsers.
    pub(super) ca_file: Option<PathBuf>,
}

impl Remote {
    /// What the arguments name, if they name one.
    ///
    /// Every request has a key, so `http` to another machine is refused unless it is asked for: anyone who reads the network
    /// would have the key.
    pub(super) fn new(global: &GlobalArgs) -> Result<Option<Self>> {
        let Some(address) = global.url.clone() else {
            return match global.ca_file.is_some() || global.plain_http {
                true => Err(Failure::Usage(
                    "--ca-file and --plain-http are for --url, which is missing".to_owned(),
                )),
                false => Ok(None),
            };
        };
        if let Some(host) = unsafe_host(&address)
            && !global.plain_http
        {
            return Err(Failure::Usage(format!(
                "--url: the key would cross the network to {host} unencrypted: use https, or add --plain-http if that network is private (a VPN, say)"
            )));
        }
        let ca_file = global.ca_file.clone();
        Ok(Some(Self { address, ca_file }))
    }
}

/// The host of an `http` address on another machine.
fn unsafe_host(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse::<std::net::IpAddr>();
    let is_here = match ip {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    (uri.scheme_str() == Some("http") && !is_here).then(|| host.to_owned())
}

/// The argument of `--url`.
pub(super) fn parse_url(text: &str) -> Result<String, String> {
    const USE: &str =
        "use https://edge.example, http://127.0.0.1:8000 or unix:/run/r3mes-edge/edge.sock";
    if let Some(path) = socket_path(text) {
        return match path.is_absolute() {
            true => Ok(text.to_owned()),
            false => Err(format!("is not the whole path of a socket; {USE}")),
        };
    }
    let uri: Uri = text.parse().map_err(|_| format!("is no address; {USE}"))?;
    let authority = uri.authority().map_or("", Authority::as_str);
    match uri.scheme_str() {
        // The path that a proxy adds may be there: https://example.org/edge.
        Some("http" | "https")
            if !authority.contains('@') && uri.query().is_none() && !text.contains('#') =>
        {
            Ok(text.trim_end_matches('/').to_owned())
        }
        Some("http" | "https") => Err(format!("must have no user name, query or fragment; {USE}")),
        _ => Err(format!("must begin with https:// or http://; {USE}")),
    }
}

/// Sends a request to the server at `address`, and waits for the head of its answer. The deadline is the caller's.
pub(super) async fn open(
    address: &str,
    ca_file: Option<&Path>,
    mut request: Request<String>,
) -> Result<Response<Incoming>, BoxError> {
    if let Some(path) = socket_path(address) {
        let stream = TokioIo::new(UnixStream::connect(path).await?);
        return exchange(stream, "localhost", request).await;
    }
    let base: Uri = address.parse()?;
    let host = base.authority().map_or("", Authority::as_str);
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let path = format!("{}{path}", base.path().trim_end_matches('/'));
    *request.uri_mut() = path.parse()?;
    let ca_file = ca_file.map(Path::to_owned);
    exchange(
        upstream::connect(base.clone(), ca_file).await?,
        host,
        request,
    )
    .await
}

/// Sends a request over a connection.
pub(super) async fn exchange(
    stream: impl Read + Write + Send + Unpin + 'static,
    host: &str,
    mut request: Request<String>,
) -> Result<Response<Incoming>, BoxError> {
    let headers = request.headers_mut();
    headers.insert(HOST, host.parse()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (mut sender, connection) = handshake(stream).await?;
    // It ends with the sender and the body.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_server_is_taken_whole_or_refused_with_the_right_form() {
        for (text, address) in [
            ("https://edge.example/", "https://edge.example"),
            ("https://example.org/edge/", "https://example.org/edge"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("unix:/run/edge.sock", "unix:/run/edge.sock"),
        ] {
            assert_eq!(parse_url(text).as_deref(), Ok(address));
        }
        for text in [
            "edge.example",
            "127.0.0.1:8000",
            "ftp://edge.example",
            "https://user:word@edge.example",
            "https://edge.example/?a=b",
            "https://edge.example/#a",
            "unix:edge.sock",
            "",
        ] {
            assert!(parse_url(text).unwrap_err().contains("https://"), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_asked_without_encryption() {
        for address in [
            "http://127.0.0.1:8000",
            "http://[::1]:8000",
            "http://[::ffff:127.0.0.2]",
            "http://LocalHost",
            "https://edge.example",
            "unix:/run/edge.sock",
        ] {
            assert_eq!(unsafe_host(address), None, "{address}");
        }
        for (address, host) in [
            ("http://192.168.1.2:8000", "192.168.1.2"),
            ("http://edge.example", "edge.example"),
            ("http://127.0.0.1.example", "127.0.0.1.example"),
            ("http://[::]:8000", "[::]"),
        ] {
            assert_eq!(unsafe_host(address).as_deref(), Some(host));
        }
    }
}
