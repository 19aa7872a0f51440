//! Several listeners and Unix sockets: the same server behind each, bound together and gone together.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use r3mes_edge::config::Listen;
use r3mes_edge::limits::RateClass;
use r3mes_edge::{Config, EdgeServer, SqliteStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::{Process, TestServer, W1, config, edge, eventually};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(address: &Listen) -> std::io::Result<Box<dyn Stream>> {
    let stream: Box<dyn Stream> = match address {
        Listen::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        Listen::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    Ok(stream)
}

/// The status and the body of a GET on a connection of its own.
async fn get(address: &Listen, path: &str, headers: &str) -> (u16, Value) {
    let mut stream = connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn on(listeners: &[&str]) -> Config {
    let mut config = config();
    config.listen = listeners
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    config
}

fn socket(folder: &Path) -> String {
    format!("unix:{}/edge.sock", folder.display())
}

#[tokio::test]
async fn all_listeners_serve_one_server_and_close_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = socket(folder.path());
    // Addresses of its own, as another test may get a port that this one gave back.
    let mut config = on(&["127.0.86.1:0", "127.0.86.1:0", &socket]);
    config.limits.connections = 1;
    let mut server = TestServer::start(config).await;
    let listeners = server.listeners();
    assert_eq!(listeners.len(), 3);
    assert_eq!(listeners[2].to_string(), socket);
    for address in &listeners {
        assert_eq!(get(address, "/readyz", "").await.0, 200, "{address}");
        // A socket is local too: public reads are open.
        assert_eq!(get(address, "/network/stats", "").await.0, 200, "{address}");
    }

    // They share the limit of connections: the only one is in use.
    let holder = hold(&listeners[2]).await.unwrap();
    let waiting = tokio::spawn({
        let address = listeners[0].clone();
        async move { get(&address, "/livez", "").await.0 }
    });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop(holder);
    assert_eq!(waiting.await.unwrap(), 200);

    let ended = server.begin_shutdown();
    ended.await.unwrap();
    for address in &listeners {
        assert!(connect(address).await.is_err(), "{address} still answers");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_failed_bind_is_named_and_no_other_listener_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let socket = socket(folder.path());
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let in_use = other.local_addr().unwrap().to_string();
    let start = async |config| {
        let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
        let started = EdgeServer::builder(config, Arc::new(store)).start().await;
        started.err().unwrap().to_string()
    };
    let file = format!("unix:{}/file", folder.path().display());
    std::fs::write(folder.path().join("file"), "precious").unwrap();
    for other in [in_use.as_str(), &file] {
        let error = start(on(&[&socket, other])).await;
        assert!(
            error.contains(&format!("cannot listen on {other}: ")),
            "{error}"
        );
        assert!(!folder.path().join("edge.sock").exists());
    }
    let error = start(on(&["unix:/nowhere/edge.sock"])).await;
    assert!(error.contains("/nowhere"), "{error}");
    let mut open = config();
    open.auth.trusted_proxies = vec!["0.0.0.0/0".parse().unwrap()];
    let error = start(open).await;
    assert!(error.contains("auth.trusted_proxies: 0.0.0.0/0"), "{error}");
}

#[tokio::test]
async fn unix_socket_clients_count_as_local() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = on(&["127.0.0.1:0", &socket(folder.path())]);
    config.rates.set(
        RateClass::Health,
        Config::default().rates.get(RateClass::Auth),
    );
    let server = TestServer::start(config).await;
    let listeners = server.listeners();
    for address in [
        &listeners[0],
        &listeners[1],
        &listeners[1],
        &listeners[1],
        &listeners[1],
    ] {
        assert_eq!(get(address, "/livez", "").await.0, 200);
    }
    // A forged address changes nothing, and a proxied request is not a local read.
    let made_up = "X-Forwarded-For: 203.0.113.7\r\n";
    for address in &listeners {
        assert_eq!(get(address, "/livez", made_up).await.0, 429, "{address}");
        assert_eq!(
            get(address, "/network/stats", made_up).await.0,
            401,
            "{address}"
        );
    }
}

/// Holds a connection open; `None` where the server closed it immediately.
async fn hold(address: &Listen) -> Option<Box<dyn Stream>> {
    let mut stream = connect(address).await.unwrap();
    let ask = b"GET /system/time HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Writing to a closed connection may fail at once or only later.
    let _ = stream.write_all(ask).await;
    stream.read_u8().await.ok()?;
    Some(stream)
}

#[tokio::test]
async fn connections_are_counted_per_address_over_all_listeners_except_those_of_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = on(&["127.0.0.1:0", &socket(folder.path())]);
    config.limits.per_address = 2;
    let server = TestServer::start(config.clone()).await;
    let listeners = server.listeners();
    let _first = hold(&listeners[0]).await.unwrap();
    let _second = hold(&listeners[1]).await.unwrap();
    assert!(hold(&listeners[0]).await.is_none() && hold(&listeners[1]).await.is_none());
    drop(server.shutdown().await);

    config.auth.trusted_proxies = vec!["unix".parse().unwrap()];
    let server = TestServer::start(config).await;
    let listeners = server.listeners();
    let mut held = Vec::new();
    for at in [1, 1, 1, 0, 0] {
        held.push(hold(&listeners[at]).await.unwrap());
    }
    assert!(hold(&listeners[0]).await.is_none());
}

#[tokio::test]
async fn behind_a_proxy_on_a_socket_each_client_has_its_own_rate() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = on(&["127.0.0.1:0", &socket(folder.path())]);
    config.auth.trusted_proxies = vec!["unix".parse().unwrap()];
    config.rates.set(
        RateClass::Health,
        Config::default().rates.get(RateClass::Auth),
    );
    let server = TestServer::start(config).await;
    let listeners = server.listeners();
    let from = async |address, client: &str| {
        let header = format!("X-Forwarded-For: {client}\r\n");
        get(address, "/livez", &header).await.0
    };
    for _ in 0..5 {
        assert_eq!(from(&listeners[1], "203.0.113.7").await, 200);
    }
    assert_eq!(from(&listeners[1], "198.51.100.1, 203.0.113.7").await, 429);
    assert_eq!(from(&listeners[1], "203.0.113.8").await, 200);
    // A client at the TCP address is no proxy: its forwarding header changes nothing.
    for client in 1..=5 {
        let client = format!("203.0.113.{client}");
        assert_eq!(from(&listeners[0], &client).await, 200);
    }
    assert_eq!(from(&listeners[0], "203.0.113.9").await, 429);
    assert_eq!(get(&listeners[1], "/network/stats", "").await.0, 401);
}

#[tokio::test]
async fn a_client_still_sending_a_refused_body_can_finish_and_read_the_response() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(on(&["127.0.0.1:0", &socket(folder.path())])).await;
    let length = 4 << 20;
    for address in &server.listeners() {
        let mut stream = connect(address).await.unwrap();
        let head =
            format!("POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The first byte of the refusal is there, and the body has not begun.
        let mut answer = vec![stream.read_u8().await.unwrap()];
        stream.write_all(&vec![0; length]).await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 415 "), "{address}: {answer}");
        assert!(
            answer.contains("unsupported_media_type"),
            "{address}: {answer}"
        );
    }
}

#[tokio::test]
async fn one_reachable_listener_disables_public_reads_on_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(on(&["0.0.0.0:0", &socket(folder.path())])).await;
    for address in &server.listeners() {
        let (status, refused) = get(address, "/network/stats", "").await;
        assert_eq!(
            (status, &refused["code"]),
            (401, &"missing_credentials".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_a_server_that_listens_on_a_unix_socket_only() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let socket = socket(folder.path());
    let address: Listen = socket.parse().unwrap();
    let server = Process::serve_on(&database, &[&socket], "");
    assert_eq!(server.address, socket);
    let create = ["keys", "create", "--wallet", W1];
    let (code, key) = edge(&database, &create);
    assert_eq!((code, key.trim().len()), (0, 55));
    let header = format!("X-API-Key: {}\r\n", key.trim());
    assert_eq!(get(&address, "/auth/me", &header).await.0, 200);
    assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
    assert_eq!(edge(&database, &["backup", "create"]).0, 0);
    let (_, checks) = edge(&database, &["--json", "doctor"]);
    assert!(checks.contains(&format!("ready at {socket}")), "{checks}");

    // Another server finds the socket in use; a stale one is replaced.
    let other = folder.path().join("other.db");
    let second = ["--listen", &socket, "serve"];
    assert_eq!(edge(&other, &second).0, 1);
    assert_eq!(get(&address, "/livez", "").await.0, 200);
    server.kill();
    assert!(folder.path().join("edge.sock").exists());
    let server = Process::serve_on(&database, &["127.0.0.1:0", &socket], "");
    assert!(server.address.starts_with("http://127.0.0.1:"));
    let also = format!("it also serves on {socket}");
    eventually("both are logged", async || {
        let error = server.log().iter().any(|line| line.contains(&also));
        error.then_some(())
    })
    .await;
    assert_eq!(get(&address, "/auth/me", &header).await.0, 200);
    assert_eq!(server.terminate(), Some(0));
    assert!(!folder.path().join("edge.sock").exists());
}

#[test]
fn an_unsafe_listen_configuration_is_a_usage_error_and_creates_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let file = folder.path().join("edge.toml");
    for auth in [
        "trusted_proxies = [\"0.0.0.0/0\"]",
        "trusted_proxies = [\"::/0\"]",
        "cors_origins = [\"*\"]",
        "hosts = [\"*\"]",
    ] {
        std::fs::write(&file, format!("[auth]\n{auth}")).unwrap();
        let file = file.to_str().unwrap();
        let serve = ["--config", file, "--listen", "127.0.0.1:0", "serve"];
        assert_eq!(edge(&database, &serve).0, 2, "{auth}");
        assert!(!database.exists());
    }
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let socket = socket(&open);
    assert_eq!(edge(&database, &["--listen", &socket, "serve"]).0, 2);
}
