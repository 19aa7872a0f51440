//! The server embedded in another program.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use r3mes_edge::auth::{IssuedKey, KeyRequest, PlainKey, Scope, Scopes};
use r3mes_edge::config::{Listen, parse_duration};
use r3mes_edge::limits::{Rate, RateClass};
use r3mes_edge::model::{Credits, HashrateUnit, ParseError, Period, Sample, Timestamp, Wallet};
use r3mes_edge::store::{Actor, Earning, LedgerEntry, StoreError, issue_key};
use r3mes_edge::{
    AuthError, Caller as Asking, Clock, EdgeServer, Repository, SqliteStore, StartError,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{Caller, TestServer, W1, W2, config, eventually, wallet};

fn open(folder: &Path, name: &str) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&folder.join(name), true).unwrap())
}

async fn serve(store: &Arc<SqliteStore>) -> (EdgeServer, Caller) {
    let builder = EdgeServer::builder(config(), Arc::clone(store) as _);
    let server = builder.start().await.unwrap();
    let caller = Caller::new(&format!("http://{}", server.local_addr()), None);
    (server, caller)
}

fn key_of(wallet_address: Option<&str>, scopes: Scopes) -> KeyRequest {
    KeyRequest {
        wallet: wallet_address.map(wallet),
        name: "embedding".to_owned(),
        scopes,
        expires_at: None,
        login: false,
        limits: None,
    }
}

#[tokio::test]
async fn two_servers_in_one_process_are_independent() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [open(folder.path(), "one.db"), open(folder.path(), "two.db")];
    let (one, ask_one) = serve(&stores[0]).await;
    let (two, ask_two) = serve(&stores[1]).await;
    let now = Clock::default().now();
    one.repository()
        .create_user(wallet(W1), Actor::local(now), None)
        .await
        .unwrap();
    ask_one.get(&format!("/users/{W1}")).await.expect(200);
    ask_two
        .get(&format!("/users/{W1}"))
        .await
        .refused(404, "user_not_found");
    // Stopping one does not stop the other.
    one.shutdown().await;
    assert!(stores[0].user(wallet(W1)).await.is_err());
    ask_two.get("/readyz").await.expect(200);
    two.shutdown().await;
}

#[tokio::test]
async fn two_servers_over_one_store_both_observe_its_changes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (one, ask_one) = serve(&store).await;
    let (_two, ask_two) = serve(&store).await;
    let users = async |caller: &Caller| {
        let stats = caller.get("/network/stats").await.expect(200);
        stats["total_users"].clone()
    };
    assert_eq!(
        (users(&ask_one).await, users(&ask_two).await),
        (json!(0), json!(0))
    );
    let now = Clock::default().now();
    store
        .create_user(wallet(W1), Actor::local(now), None)
        .await
        .unwrap();
    assert_eq!(
        (users(&ask_one).await, users(&ask_two).await),
        (json!(1), json!(1))
    );
    // A dropped server observes nothing more, the other still does.
    drop(one);
    store
        .create_user(wallet(W2), Actor::local(now), None)
        .await
        .unwrap();
    assert_eq!(users(&ask_two).await, 2);
}

#[tokio::test]
async fn a_dropped_server_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (server, caller) = serve(&store).await;
    let address = server.local_addr();
    // A connection that its client holds open.
    caller.get("/livez").await.expect(200);
    assert!(Arc::strong_count(&store) > 1);
    drop(server);
    eventually("the port is closed", async || {
        TcpStream::connect(address).await.err()
    })
    .await;
    // Every task of the server holds the store through what they share: none is left.
    eventually("the tasks are gone", async || {
        (Arc::strong_count(&store) == 1).then_some(())
    })
    .await;
    store.close();
    // And with it the lock of the file.
    let (again, caller) = serve(&open(folder.path(), "edge.db")).await;
    caller.get("/readyz").await.expect(200);
    again.shutdown().await;
}

#[tokio::test]
async fn one_task_stops_the_server_while_others_wait_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (server, caller) = serve(&store).await;
    let server = Arc::new(server);
    caller.get("/livez").await.expect(200);
    // Waiting stops nothing.
    let early = tokio::time::timeout(Duration::ZERO, server.stopped()).await;
    assert!(early.is_err());
    caller.get("/livez").await.expect(200);
    let [one, two] = [(); 2].map(|()| {
        let (server, store) = (Arc::clone(&server), Arc::clone(&store));
        tokio::spawn(async move {
            server.stopped().await;
            store.user(wallet(W1)).await
        })
    });
    tokio::join!(server.shutdown(), server.shutdown());
    for waiting in [one, two] {
        // It returned after the storage was closed.
        let read = waiting.await.unwrap();
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    }
    assert!(TcpStream::connect(server.local_addr()).await.is_err());
    // Calls that come too late return at once.
    server.shutdown().await;
    server.stopped().await;
}

#[tokio::test]
async fn a_shutdown_whose_future_was_dropped_goes_on_with_the_next_call() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, finishes) = (Arc::clone(&begun), Arc::clone(&finish));
    let server = EdgeServer::builder(config(), Arc::clone(&store) as _)
        .own_routes("/own", move |_| {
            let (begins, finishes) = (Arc::clone(&begins), Arc::clone(&finishes));
            async move {
                begins.notify_one();
                finishes.notified().await;
                Response::new(Full::<Bytes>::from("whole"))
            }
        })
        .start()
        .await
        .unwrap();
    let caller = Caller::new(&format!("http://{}", server.local_addr()), None);
    let asking = tokio::spawn(async move {
        let (status, _, body) = caller.open(Method::GET, "/own", &[], "").await;
        (status, body.collect().await.unwrap().to_bytes())
    });
    begun.notified().await;
    let given_up = tokio::time::timeout(Duration::ZERO, server.shutdown()).await;
    assert!(given_up.is_err());
    let read = store.user(wallet(W1)).await;
    assert_eq!(read, Err(StoreError::UserNotFound), "it is open still");
    finish.notify_one();
    server.shutdown().await;
    assert_eq!(asking.await.unwrap(), (200, "whole".into()));
    let read = store.user(wallet(W1)).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn issue(store: &SqliteStore, request: KeyRequest) -> IssuedKey {
    let actor = Actor::local(Clock::default().now());
    issue_key(store, request, 10, actor, None).await.unwrap()
}

#[tokio::test]
async fn a_key_at_the_hosts_own_listener_is_accepted_as_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (server, anybody) = serve(&store).await;
    let issued = issue(&store, key_of(Some(W1), Scopes::DEFAULT)).await;
    let key = issued.key.reveal();
    for scope in [None, Some(Scope::Read), Some(Scope::Chat)] {
        let caller = server.authenticate(key, scope, CLIENT).await.unwrap();
        assert_eq!(caller.key_id, issued.record.id);
        assert_eq!(caller.wallet, Some(wallet(W1)));
        assert_eq!((caller.scopes, caller.is_blocked), (Scopes::DEFAULT, false));
    }
    let refused = server.authenticate(key, Some(Scope::Miner), CLIENT).await;
    assert_eq!(refused, Err(AuthError::MissingScope(Scope::Miner)));
    // An admin may do anything, for no wallet in particular.
    let admin = issue(&store, key_of(None, Scopes::ADMIN)).await;
    let admin = admin.key.reveal();
    for scope in [None, Some(Scope::Admin), Some(Scope::Chat)] {
        let caller = server.authenticate(admin, scope, CLIENT).await.unwrap();
        assert!(caller.is_admin() && caller.wallet.is_none());
    }
    // Revoked over HTTP, refused here from then on.
    let admin = anybody.with_key(admin);
    let path = format!("/api/keys/{}", issued.record.id);
    assert!(admin.delete(&path).await.status < 300);
    let refused = server.authenticate(key, None, CLIENT).await;
    assert_eq!(refused, Err(AuthError::Revoked));
}

#[tokio::test]
async fn a_key_that_is_not_valid_is_refused_with_the_reason_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (server, anybody) = serve(&store).await;
    let refused = async |key: &str| server.authenticate(key, None, CLIENT).await.unwrap_err();
    let key = issue(&store, key_of(Some(W1), Scopes::DEFAULT)).await;
    let mistyped = format!("{}_", &key.key.reveal()[..PlainKey::LENGTH - 1]);
    for malformed in ["", "sk-123", &mistyped] {
        assert_eq!(
            refused(malformed).await,
            AuthError::Malformed,
            "{malformed:?}"
        );
    }
    let unknown = PlainKey::generate().unwrap();
    assert_eq!(refused(unknown.reveal()).await, AuthError::Unknown);
    let expired = KeyRequest {
        expires_at: Some(Clock::default().now().minus(Duration::from_secs(1))),
        ..key_of(Some(W1), Scopes::DEFAULT)
    };
    let expired = issue(&store, expired).await;
    assert_eq!(refused(expired.key.reveal()).await, AuthError::Expired);
    let counted = anybody.with_key(
        issue(&store, key_of(None, Scopes::ADMIN))
            .await
            .key
            .reveal(),
    );
    let metrics = String::from_utf8(counted.get("/metrics").await.body.to_vec()).unwrap();
    let failures = metrics
        .lines()
        .find_map(|line| line.strip_prefix("r3mes_auth_failures_total "));
    assert_eq!(failures, Some("5"), "{metrics}");
    // A storage that cannot tell is no refusal of the key.
    server.shutdown().await;
    let error = refused(key.key.reveal()).await;
    assert!(matches!(
        error,
        AuthError::Store(StoreError::Unavailable(_))
    ));
}

#[tokio::test]
async fn the_key_of_a_blocked_account_may_read_but_not_pay_from_the_block_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let (server, _) = serve(&store).await;
    let issued = issue(&store, key_of(Some(W1), Scopes::DEFAULT)).await;
    let ask = async |scope| {
        server
            .authenticate(issued.key.reveal(), Some(scope), CLIENT)
            .await
    };
    for blocked in [false, true, false] {
        let actor = Actor::local(Clock::default().now());
        store.set_blocked(wallet(W1), blocked, actor).await.unwrap();
        assert_eq!(ask(Scope::Read).await.unwrap().is_blocked, blocked);
        let paying = ask(Scope::Chat).await.map(|caller| caller.is_blocked);
        let expected = if blocked {
            Err(AuthError::Blocked)
        } else {
            Ok(false)
        };
        assert_eq!(paying, expected);
    }
}

#[tokio::test]
async fn guesses_at_the_hosts_own_listener_and_over_http_share_one_limit() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let mut config = config();
    let rate = Rate {
        count: 2.try_into().unwrap(),
        per: Duration::from_secs(60),
    };
    config.rates.set(RateClass::Failures, Some(rate));
    let builder = EdgeServer::builder(config, Arc::clone(&store) as _);
    let server = builder.start().await.unwrap();
    let issued = issue(&store, key_of(Some(W1), Scopes::DEFAULT)).await;
    let ask = async |client| {
        let key = PlainKey::generate().unwrap();
        server.authenticate(key.reveal(), None, client).await
    };
    assert_eq!(ask(CLIENT).await, Err(AuthError::Unknown));
    let guessed = PlainKey::generate().unwrap();
    let caller = Caller::new(
        &format!("http://{}", server.local_addr()),
        Some(guessed.reveal()),
    );
    caller.get("/auth/me").await.refused(401, "invalid_api_key");
    let limited = ask(CLIENT).await;
    let Err(AuthError::RateLimited { retry_after }) = limited else {
        panic!("{limited:?}");
    };
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(30));
    caller.get("/auth/me").await.refused(429, "rate_limited");
    // Another address is not affected, and neither is a key in use.
    let other = [192, 0, 2, 1].into();
    assert_eq!(ask(other).await, Err(AuthError::Unknown));
    let valid = issued.key.reveal();
    assert!(server.authenticate(valid, None, other).await.is_ok());
    assert!(server.authenticate(valid, None, CLIENT).await.is_ok());
}

/// The text of the error of a type, which is one.
fn refused<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> String {
    let error: Box<dyn std::error::Error + Send + Sync> = match text.parse::<T>() {
        Ok(_) => panic!("{text} was accepted"),
        Err(error) => error.into(),
    };
    error.to_string()
}

#[test]
fn every_type_that_is_read_from_a_text_has_an_error_that_is_one() {
    for (error, part) in [
        (refused::<Wallet>("remes1"), "44 characters"),
        (refused::<Credits>("1e3"), "plain decimal number"),
        (refused::<Listen>("localhost:80"), "use 127.0.0.1:8000"),
        (refused::<Period>("year"), "day, week, month or total"),
        (refused::<Scopes>("chat,root"), "chat, read, miner"),
        (refused::<Timestamp>("soon"), "RFC 3339"),
    ] {
        assert!(error.contains(part), "{error}");
    }
    let functions: [Result<(), ParseError>; 4] = [
        parse_duration("soon").map(drop),
        LedgerEntry::reason("mining").map(drop),
        LedgerEntry::reference("").map(drop),
        KeyRequest::name("\n").map(drop),
    ];
    for refused in functions {
        let error: Box<dyn std::error::Error + Send + Sync> = refused.unwrap_err().into();
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(W1.parse(), Ok(wallet(W1)));
    assert_eq!("0.25".parse(), Ok(Credits::from_micro(250_000)));
}

#[test]
fn the_guide_has_the_options_of_sqlite_that_this_program_is_built_with() {
    let lines = include_str!("../../src/lib.rs").lines();
    let guide = lines.filter_map(|line| line.strip_prefix("//!"));
    let guide: Vec<_> = guide
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let guide = guide.join("\n");
    let (_, options) = include_str!("../../.cargo/config.toml")
        .split_once("[env]\n")
        .unwrap();
    let block = format!("```toml\n[env]\n{}\n```", options.trim_end());
    assert!(guide.contains(&block), "the guide lacks\n{block}");
    // And they took effect here.
    let compiled = r3mes_edge::store::sqlite_compile_options().unwrap();
    let has = |name: &str| compiled.iter().any(|option| option.starts_with(name));
    for set in ["DEFAULT_MEMSTATUS=0", "OMIT_JSON", "OMIT_LOAD_EXTENSION"] {
        assert!(has(set), "{set} in {compiled:?}");
    }
    for unset in ["ENABLE_MEMORY_MANAGEMENT", "ENABLE_FTS", "ENABLE_RTREE"] {
        assert!(!has(unset), "{unset} in {compiled:?}");
    }
}

#[test]
fn the_server_runs_in_any_runtime() {
    for mut builder in [
        tokio::runtime::Builder::new_current_thread(),
        tokio::runtime::Builder::new_multi_thread(),
    ] {
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let server = TestServer::start(config()).await;
            let body = json!({"wallet_address": W1, "hashrate": 1});
            server.admin().post("/miner/stats", &body).await.expect(201);
            let stats = server.anybody().get(&format!("/miner/stats/{W1}")).await;
            assert_eq!(stats.expect(200)["hashrate"], 1.0);
            server
                .admin()
                .post("/admin/backup", &json!({}))
                .await
                .expect(201);
            server.shutdown().await;
        });
    }
}

#[tokio::test]
async fn the_listener_of_the_host_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = config();
    // Binding this address again would fail.
    config.listen = vec![r3mes_edge::config::Listen::Tcp(address)];
    let store = open(folder.path(), "edge.db");
    let builder = EdgeServer::builder(config, store).listener(listener);
    let server = builder.start().await.unwrap();
    assert_eq!(server.local_addr(), address);
    let caller = Caller::new(&format!("http://{address}"), None);
    caller.get("/livez").await.expect(200);
    server.shutdown().await;
}

#[test]
fn a_configuration_made_in_code_can_be_validated_too() {
    let mut config = config();
    config.validate().unwrap();
    config.chat.price = Credits::from_micro(-1).into();
    assert_eq!(config.validate().unwrap_err().key, "chat.price");
    config.limits.in_flight = usize::MAX;
    assert_eq!(config.validate().unwrap_err().key, "limits.in_flight");
}

#[tokio::test]
async fn changes_by_the_host_in_the_store_show_over_http_immediately() {
    let server = TestServer::start(config()).await;
    let (store, anybody) = (Arc::clone(&server.store), server.anybody());
    let network = async || anybody.get("/network/stats").await.expect(200);
    let figure = async |name: &str| {
        let text = anybody.get("/metrics").await.body;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(network().await["total_users"], 0);
    let now = server.clock.now();
    // A first sample makes the account and a miner of it.
    let sample = Sample::new(wallet(W1), now, 42.5, HashrateUnit::GradientsPerHour);
    store.record_samples(vec![sample], 1000, now).await.unwrap();
    let stats = anybody.get(&format!("/miner/stats/{W1}")).await.expect(200);
    assert_eq!(stats["hashrate"], 42.5);
    let shown = network().await;
    assert_eq!(
        (&shown["total_users"], &shown["active_miners"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(figure("r3mes_miner_samples_total").await, "1");
    // A grant and an earning.
    let five = Credits::from_micro(5_000_000);
    store
        .grant(
            wallet(W1),
            five,
            "welcome".to_owned(),
            None,
            Actor::local(now),
            None,
        )
        .await
        .unwrap();
    assert_eq!(network().await["total_credits"], 5);
    let earning = Earning {
        wallet: wallet(W1),
        earnings: five,
        source_id: "block-1".to_owned(),
        recorded_at: now,
    };
    store
        .record_earning(earning.clone(), Actor::local(now), None)
        .await
        .unwrap();
    assert_eq!(network().await["total_credits"], 10);
    assert_eq!(
        figure("credits_distributed_total{reason=\"grant\"}").await,
        "5.0"
    );
    assert_eq!(
        figure("credits_distributed_total{reason=\"mining\"}").await,
        "5.0"
    );
    // Counted once, as over HTTP.
    store
        .record_earning(earning, Actor::local(now), None)
        .await
        .unwrap();
    assert_eq!(
        figure("credits_distributed_total{reason=\"mining\"}").await,
        "5.0"
    );
}

#[tokio::test]
async fn a_key_revoked_by_the_host_is_refused_immediately() {
    let server = TestServer::start(config()).await;
    let (store, now) = (&*server.store, server.clock.now());
    let issued = issue_key(
        store,
        key_of(Some(W1), Scopes::DEFAULT),
        10,
        Actor::local(now),
        None,
    )
    .await
    .unwrap();
    let caller = server.with_key(issued.key.reveal());
    // Known to the server from here on.
    caller.get("/auth/me").await.expect(200);
    let (_, retired) =
        r3mes_edge::store::rotate_key(store, &issued.record, now, None, 10, Actor::local(now))
            .await
            .unwrap();
    assert_eq!(retired.id, issued.record.id);
    caller.get("/auth/me").await.refused(401, "invalid_api_key");
    let other = issue_key(
        store,
        key_of(Some(W2), Scopes::DEFAULT),
        10,
        Actor::local(now),
        None,
    )
    .await
    .unwrap();
    let caller = server.with_key(other.key.reveal());
    caller.get("/auth/me").await.expect(200);
    // The future is dropped before its result, as by a time-out of the host: the write completes and is observed.
    let revoking = store.revoke_key(other.record.id.clone(), None, Actor::local(now));
    drop(tokio::time::timeout(Duration::ZERO, revoking).await);
    eventually("the key is refused", async || {
        (caller.get("/auth/me").await.status == 401).then_some(())
    })
    .await;
}

/// The host routes of these tests.
async fn own(seen: Arc<Mutex<Vec<Asking>>>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asking = request.extensions().get::<Asking>().unwrap().clone();
    seen.lock().unwrap().push(asking);
    match request.uri().path() {
        "/own/panic" => panic!("the host's own fault"),
        "/own/late" => std::future::pending().await,
        _ => {
            let method = request.method().clone();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let text = format!("{method} {}", String::from_utf8_lossy(&body));
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            response.headers_mut().insert("age", 7.into());
            response
        }
    }
}

/// A server with own routes, an admin's key, and what the host's handler saw.
async fn serve_own(
    change: impl FnOnce(&mut r3mes_edge::Config),
) -> (
    EdgeServer,
    Caller,
    Caller,
    Arc<Mutex<Vec<Asking>>>,
    tempfile::TempDir,
) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), "edge.db");
    let now = Clock::default().now();
    let admin = issue_key(
        &*store,
        key_of(None, Scopes::ADMIN),
        10,
        Actor::local(now),
        None,
    );
    let admin = admin.await.unwrap();
    let seen: Arc<Mutex<Vec<Asking>>> = Arc::default();
    let mut config = config();
    change(&mut config);
    let watching = Arc::clone(&seen);
    let server = EdgeServer::builder(config, store)
        .own_routes("/own", move |request| own(Arc::clone(&watching), request))
        .own_routes("/users", |_| async {
            Response::new(Full::<Bytes>::from("theirs"))
        })
        .own_routes("/broken", |_| async { Response::new(Broken(vec!["half"])) })
        .start()
        .await
        .unwrap();
    let base = format!("http://{}", server.local_addr());
    let anybody = Caller::new(&base, None);
    let admin = Caller::new(&base, Some(admin.key.reveal()));
    (server, anybody, admin, seen, folder)
}

/// A body that fails after its chunks.
struct Broken(Vec<&'static str>);

impl Body for Broken {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.0.pop().map(|piece| Frame::data(Bytes::from(piece)));
        Poll::Ready(Some(piece.ok_or("no more")))
    }
}

#[tokio::test]
async fn host_routes_pass_the_same_checks_as_ours() {
    let (_server, anybody, admin, seen, _folder) = serve_own(|_| {}).await;
    // Open, so that the shape is the host's.
    let (status, headers, body) = anybody
        .open(
            Method::PATCH,
            "/own/a?b=c",
            &[("x-request-id", "mine")],
            "hello",
        )
        .await;
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!((status, &body[..]), (418, &b"PATCH hello"[..]));
    for (name, value) in [
        ("x-request-id", "mine"),
        ("age", "7"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let (status, ..) = admin.open(Method::GET, "/own", &[], "").await;
    assert_eq!(status, 418);
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0].request_id, "mine");
        assert!(seen[0].principal.is_none() && seen[0].address.is_loopback());
        assert!(seen[1].principal.as_ref().unwrap().is_admin());
    }
    // Built-in routes win, for any method.
    anybody
        .get(&format!("/users/{W1}"))
        .await
        .refused(404, "user_not_found");
    anybody
        .delete(&format!("/users/{W1}"))
        .await
        .refused(405, "method_not_allowed");
    let (status, _, body) = anybody.open(Method::GET, "/users/a/b", &[], "").await;
    assert_eq!(
        (status, &body.collect().await.unwrap().to_bytes()[..]),
        (200, &b"theirs"[..])
    );
    anybody.get("/owner").await.refused(404, "not_found");
    // Common checks apply before the host is called.
    let asked = seen.lock().unwrap().len();
    anybody
        .get("/own?api_key=x")
        .await
        .refused(400, "key_in_query");
    let wrong = anybody
        .send(Method::GET, "/own", &[("x-api-key", "r3mes_wrong")], "")
        .await;
    wrong.refused(401, "invalid_api_key");
    let elsewhere = anybody
        .send(
            Method::GET,
            "/own",
            &[("origin", "http://evil.example")],
            "",
        )
        .await;
    elsewhere.refused(403, "forbidden");
    assert_eq!(seen.lock().unwrap().len(), asked);
}

#[tokio::test]
async fn a_panic_in_a_host_route_is_a_500_and_nothing_else_ends() {
    let (_server, anybody, admin, _seen, _folder) = serve_own(|_| {}).await;
    let error = anybody.get("/own/panic").await.refused(500, "internal");
    assert!(!error.to_string().contains("fault"), "{error}");
    // A body that fails is aborted, so that it does not look complete.
    let cut = match anybody.try_open(Method::GET, "/broken", &[], "").await {
        Some((_, _, body)) => body.collect().await.is_err(),
        // Even its head may not have left yet.
        None => true,
    };
    assert!(cut, "half an answer looked whole");
    anybody.get("/livez").await.expect(200);
    // One label for all of them, whatever their paths.
    let metrics = admin.get("/metrics").await.body;
    let metrics = String::from_utf8_lossy(&metrics);
    let own: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("r3mes_http_requests_total{route=\"own\""))
        .filter(|line| !line.ends_with(" 0"))
        .collect();
    assert_eq!(own.len(), 2, "{own:?} of {metrics}");
    assert!(!metrics.contains("/own"), "a path became a label");
}

#[tokio::test]
async fn host_routes_are_bounded_by_rates_permits_and_time() {
    let (_server, anybody, _admin, _seen, _folder) = serve_own(|config| {
        config.limits.request_timeout = Duration::from_millis(200);
        config.limits.in_flight = 1;
        config.rates = r3mes_edge::Config::read("rates.read = \"4/min\"", [])
            .unwrap()
            .rates;
    })
    .await;
    let late = tokio::spawn({
        let anybody = anybody.clone();
        async move { anybody.get("/own/late").await.refused(503, "overloaded") }
    });
    late.await.unwrap();
    let (status, ..) = anybody.open(Method::GET, "/own", &[], "").await;
    assert_eq!(status, 418, "the permit is back");
    for _ in 0..2 {
        let _ = anybody.open(Method::GET, "/own", &[], "").await;
    }
    anybody.get("/own").await.refused(429, "rate_limited");
}

#[tokio::test]
async fn an_invalid_route_prefix_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let started = EdgeServer::builder(config(), open(folder.path(), "edge.db"))
        .own_routes("own", |_| async { Response::new(Full::<Bytes>::default()) })
        .start()
        .await;
    assert!(matches!(started, Err(StartError::Config(what)) if what.contains("own_routes")));
}
