//! One request to a server on this machine, at an address or by a Unix socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use r3mes_edge::config::Listen;
use tokio::net::{TcpStream, UnixStream};

/// Where a client on this machine reaches a server that listens there: what the lock file tells.
pub(super) fn told(place: &Listen) -> String {
    let Some(address) = place.address() else {
        return place.to_string();
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// The path of the socket that an address names, where it names one.
pub(super) fn socket(address: &str) -> Option<&Path> {
    address.strip_prefix("unix:").map(Path::new)
}

/// Sends a request whose target is a path to `address`, as [`told`] wrote it. Whoever calls sets the deadline.
pub(super) async fn send(
    address: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let host = match socket(address) {
        Some(_) => "localhost".to_owned(),
        None => {
            let address: Uri = address.parse()?;
            address.authority().ok_or("it has no host")?.to_string()
        }
    };
    request.headers_mut().insert(HOST, host.parse()?);
    // The connection lives as long as the answer is read; its own end says nothing more than that does.
    let (mut sender, connection) = match socket(address) {
        Some(path) => {
            let stream = UnixStream::connect(path).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            (sender, tokio::spawn(connection))
        }
        None => {
            let stream = TcpStream::connect(&host).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            (sender, tokio::spawn(connection))
        }
    };
    let answer = sender.send_request(request).await;
    if answer.is_err() {
        connection.abort();
    }
    Ok(answer?)
}
