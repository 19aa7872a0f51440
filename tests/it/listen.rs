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

async fn connect(place: &Listen) -> std::io::Result<Box<dyn Stream>> {
    let stream: Box<dyn Stream> = match place {
        Listen::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        Listen::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    Ok(stream)
}

/// The status and the body of a GET on a connection of its own.
async fn get(place: &Listen, path: &str, headers: &str) -> (u16, Value) {
    let mut stream = connect(place).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn on(places: &[&str]) -> Config {
    let mut config = config();
    config.listen = places.iter().map(|place| place.parse().unwrap()).collect();
    config
}

fn socket(folder: &Path) -> String {
    format!("unix:{}/edge.sock", folder.display())
}

#[tokio::test]
async fn every_listener_leads_to_the_same_server_and_all_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = socket(folder.path());
    let mut config = on(&["127.0.0.1:0", "127.0.0.1:0", &socket]);
    config.limits.connections = 1;
    let mut server = TestServer::start(config).await;
    let places = server.listeners();
    assert_eq!(places.len(), 3);
    assert_eq!(places[2].to_string(), socket);
    for place in &places {
        assert_eq!(get(place, "/readyz", "").await.0, 200, "{place}");
        // A socket is local too: strangers may read.
        assert_eq!(get(place, "/network/stats", "").await.0, 200, "{place}");
    }

    // They share the connections: the one there is, is taken.
    let holder = hold(&places[2]).await.unwrap();
    let waiting = tokio::spawn({
        let place = places[0].clone();
        async move { get(&place, "/livez", "").await.0 }
    });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop(holder);
    assert_eq!(waiting.await.unwrap(), 200);

    let ended = server.begin_shutdown();
    ended.await.unwrap();
    for place in &places {
        assert!(connect(place).await.is_err(), "{place} still answers");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn one_that_cannot_be_bound_names_itself_and_leaves_none_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let socket = socket(folder.path());
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let start = async |config| {
        let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
        let started = EdgeServer::builder(config, Arc::new(store)).start().await;
        started.err().unwrap().to_string()
    };
    let file = format!("unix:{}/file", folder.path().display());
    std::fs::write(folder.path().join("file"), "precious").unwrap();
    for other in [taken.as_str(), &file] {
        let told = start(on(&[&socket, other])).await;
        assert!(
            told.contains(&format!("cannot listen on {other}: ")),
            "{told}"
        );
        assert!(!folder.path().join("edge.sock").exists());
    }
    let told = start(on(&["unix:/nowhere/edge.sock"])).await;
    assert!(told.contains("/nowhere"), "{told}");
    let mut open = config();
    open.auth.trusted_proxies = vec!["0.0.0.0/0".parse().unwrap()];
    let told = start(open).await;
    assert!(told.contains("auth.trusted_proxies: 0.0.0.0/0"), "{told}");
}

#[tokio::test]
async fn whoever_comes_by_a_socket_counts_as_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = on(&["127.0.0.1:0", &socket(folder.path())]);
    config.rates.set(
        RateClass::Health,
        Config::default().rates.get(RateClass::Auth),
    );
    let server = TestServer::start(config).await;
    let places = server.listeners();
    for place in [&places[0], &places[1], &places[1], &places[1], &places[1]] {
        assert_eq!(get(place, "/livez", "").await.0, 200);
    }
    // A made-up address changes nothing, and what was passed on is no local read.
    let made_up = "X-Forwarded-For: 203.0.113.7\r\n";
    for place in &places {
        assert_eq!(get(place, "/livez", made_up).await.0, 429, "{place}");
        assert_eq!(
            get(place, "/network/stats", made_up).await.0,
            401,
            "{place}"
        );
    }
}

/// Takes a connection and keeps it; `None` where the server closed it at once.
async fn hold(place: &Listen) -> Option<Box<dyn Stream>> {
    let mut stream = connect(place).await.unwrap();
    let ask = b"GET /system/time HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // The write of one that was closed may fail, or only what comes after.
    let _ = stream.write_all(ask).await;
    stream.read_u8().await.ok()?;
    Some(stream)
}

#[tokio::test]
async fn connections_of_one_address_are_counted_over_all_listeners_and_those_of_a_proxy_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = on(&["127.0.0.1:0", &socket(folder.path())]);
    config.limits.per_address = 2;
    let server = TestServer::start(config.clone()).await;
    let places = server.listeners();
    let _first = hold(&places[0]).await.unwrap();
    let _second = hold(&places[1]).await.unwrap();
    assert!(hold(&places[0]).await.is_none() && hold(&places[1]).await.is_none());
    drop(server.shutdown().await);

    config.auth.trusted_proxies = vec!["unix".parse().unwrap()];
    let server = TestServer::start(config).await;
    let places = server.listeners();
    let mut held = Vec::new();
    for at in [1, 1, 1, 0, 0] {
        held.push(hold(&places[at]).await.unwrap());
    }
    assert!(hold(&places[0]).await.is_none());
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
    let places = server.listeners();
    let from = async |place, client: &str| {
        let header = format!("X-Forwarded-For: {client}\r\n");
        get(place, "/livez", &header).await.0
    };
    for _ in 0..5 {
        assert_eq!(from(&places[1], "203.0.113.7").await, 200);
    }
    assert_eq!(from(&places[1], "198.51.100.1, 203.0.113.7").await, 429);
    assert_eq!(from(&places[1], "203.0.113.8").await, 200);
    // Who comes by the address is no proxy: what he says of himself changes nothing.
    for client in 1..=5 {
        let client = format!("203.0.113.{client}");
        assert_eq!(from(&places[0], &client).await, 200);
    }
    assert_eq!(from(&places[0], "203.0.113.9").await, 429);
    assert_eq!(get(&places[1], "/network/stats", "").await.0, 401);
}

#[tokio::test]
async fn who_still_sends_what_was_refused_can_end_and_read_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(on(&["127.0.0.1:0", &socket(folder.path())])).await;
    let length = 4 << 20;
    for place in &server.listeners() {
        let mut stream = connect(place).await.unwrap();
        let head =
            format!("POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // The first byte of the refusal is there, and the body has not begun.
        let mut answer = vec![stream.read_u8().await.unwrap()];
        stream.write_all(&vec![0; length]).await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 415 "), "{place}: {answer}");
        assert!(
            answer.contains("unsupported_media_type"),
            "{place}: {answer}"
        );
    }
}

#[tokio::test]
async fn one_listener_that_others_reach_closes_public_reads_on_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start(on(&["0.0.0.0:0", &socket(folder.path())])).await;
    for place in &server.listeners() {
        let (status, refused) = get(place, "/network/stats", "").await;
        assert_eq!(
            (status, &refused["code"]),
            (401, &"missing_credentials".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_a_server_that_has_a_socket_only() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let socket = socket(folder.path());
    let place: Listen = socket.parse().unwrap();
    let server = Process::serve_on(&database, &[&socket], "");
    assert_eq!(server.address, socket);
    let create = ["keys", "create", "--wallet", W1];
    let (code, key) = edge(&database, &create);
    assert_eq!((code, key.trim().len()), (0, 55));
    let header = format!("X-API-Key: {}\r\n", key.trim());
    assert_eq!(get(&place, "/auth/me", &header).await.0, 200);
    assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
    assert_eq!(edge(&database, &["backup", "create"]).0, 0);
    let (_, checks) = edge(&database, &["--json", "doctor"]);
    assert!(checks.contains(&format!("ready at {socket}")), "{checks}");

    // Another server finds the socket taken; what a crash left of it is replaced.
    let other = folder.path().join("other.db");
    let second = ["--listen", &socket, "serve"];
    assert_eq!(edge(&other, &second).0, 1);
    assert_eq!(get(&place, "/livez", "").await.0, 200);
    server.kill();
    assert!(folder.path().join("edge.sock").exists());
    let server = Process::serve_on(&database, &["127.0.0.1:0", &socket], "");
    assert!(server.address.starts_with("http://127.0.0.1:"));
    let also = format!("it also serves on {socket}");
    eventually("both are told", async || {
        let told = server.log().iter().any(|line| line.contains(&also));
        told.then_some(())
    })
    .await;
    assert_eq!(get(&place, "/auth/me", &header).await.0, 200);
    assert_eq!(server.terminate(), Some(0));
    assert!(!folder.path().join("edge.sock").exists());
}

#[test]
fn what_opens_a_door_that_nobody_means_is_wrong_use_and_leaves_no_file() {
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
