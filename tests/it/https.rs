//! Upstreams over TLS: trusted authorities, credentials, redirects.

use std::path::Path;
use std::sync::Arc;

use r3mes_edge::config::RatesConfig;
use r3mes_edge::{Config, EdgeServer, SqliteStore, StartError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::chat::whole;
use crate::secrets::captured_log;
use crate::support::{
    RawAnswer, RawUpstream, Scripted, TestServer, Then, Upstream, W1, config_with_inference,
    fixture, next_text,
};

/// A test certificate authority with a certificate for `localhost`; its own certificate goes to `ca_file`.
pub(crate) fn authority(ca_file: &Path) -> TlsAcceptor {
    let mut own = CertificateParams::new([]).unwrap();
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own_key = KeyPair::generate().unwrap();
    std::fs::write(ca_file, own.self_signed(&own_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(own, own_key);
    let key = KeyPair::generate().unwrap();
    let host = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let chain = vec![host.signed_by(&key, &issuer).unwrap().der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let tls = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(tls))
}

fn quiet(text: &str) -> Config {
    let mut config = Config::read(
        &format!("listen = \"127.0.0.1:0\"\ndiscover = false\n{text}"),
        [],
    )
    .unwrap();
    config.rates = RatesConfig::off();
    config
}

#[tokio::test]
async fn an_upstream_with_the_right_certificate_receives_its_key_which_is_never_logged() {
    let log = captured_log();
    let folder = tempfile::tempdir().unwrap();
    let (ca, key) = (folder.path().join("ca.pem"), folder.path().join("node.key"));
    std::fs::write(&key, "sk-of-the-upstream\nanother line\n").unwrap();
    let upstream = Upstream::start_with(Some(authority(&ca)), |seen| match seen.path.as_str() {
        "/v1/models" => Scripted::whole(200, r#"{"object":"list","data":[{"id":"tiny"}]}"#),
        _ => Scripted::words(&["over", "TLS"]),
    })
    .await;
    let server = TestServer::start(quiet(&format!(
        "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"https://localhost:{}\"\nca_file = {ca:?}\napi_key_file = {key:?}",
        upstream.port()
    )))
    .await;
    let caller = server.payer(W1, 1).await;
    let (status, _, mut body) = caller.chat("hello").await;
    assert_eq!(status, 200);
    let mut text = String::new();
    while let Some(piece) = next_text(&mut body).await {
        text += &piece.unwrap();
    }
    assert_eq!(text, "overTLS\n");
    for path in ["/v1/models", "/v1/chat/completions"] {
        let seen = upstream.seen(path);
        assert_eq!(
            seen[0].headers["authorization"],
            "Bearer sk-of-the-upstream"
        );
        assert!(!seen[0].headers.contains_key("x-api-key"));
    }
    server.shutdown().await;
    assert!(log.lock().unwrap().contains("POST /chat 200"));
    assert!(!log.lock().unwrap().contains("sk-of-the-upstream"));
}

#[tokio::test]
async fn an_r3mes_node_over_tls_may_answer_http_1_0_with_chunks_too() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let upstream = RawUpstream::start_with(Some(authority(&ca)), |_| {
        RawAnswer::chunked("HTTP/1.0 200 OK", &["over ", "TLS"], Then::Close)
    })
    .await;
    let server = TestServer::start(quiet(&format!(
        "[[inference]]\nname = \"node\"\nkind = \"r3mes\"\nurl = \"https://localhost:{}\"\nca_file = {ca:?}",
        upstream.port()
    )))
    .await;
    let caller = server.payer(W1, 2).await;
    for _ in 0..2 {
        let (status, _, body) = caller.chat("hello").await;
        assert_eq!(
            (status, whole(body).await.unwrap().as_str()),
            (200, "over TLS\n")
        );
    }
    for (connection, request) in upstream.seen("POST /chat").iter().enumerate() {
        assert_eq!((request.connection, request.on_connection), (connection, 0));
        assert!(
            request.head.to_lowercase().contains("connection: close"),
            "{}",
            request.head
        );
    }
}

#[tokio::test]
async fn an_unknown_authority_and_a_wrong_host_get_no_connection_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (
        folder.path().join("ca.pem"),
        folder.path().join("other.pem"),
    );
    let upstream = Upstream::start_with(Some(authority(&ca)), |_| Scripted::words(&["x"])).await;
    authority(&other);
    let unknown = format!("url = \"https://localhost:{}\"", upstream.port());
    for url in [
        format!(
            "url = \"https://127.0.0.1:{}\"\nca_file = {ca:?}",
            upstream.port()
        ),
        format!("{unknown}\nca_file = {other:?}"),
        unknown,
    ] {
        let server = TestServer::start(quiet(&format!(
            "[[inference]]\nname = \"node\"\nkind = \"r3mes\"\n{url}"
        )))
        .await;
        let caller = server.payer(W1, 1).await;
        let chat = caller.post("/chat", &json!({"message":"hi"})).await;
        chat.refused(502, "upstream_bad_response");
        assert_eq!(server.balance(W1).await.micro(), 1_000_000);
    }
    assert_eq!(upstream.seen("/").len(), 0);
}

#[tokio::test]
async fn the_chain_is_read_over_tls_too() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let script = |_: &_| Scripted::whole(200, fixture("cometbft-status.json"));
    let upstream = Upstream::start_with(Some(authority(&ca)), script).await;
    let chain = format!(
        "[chain]\nrpc = \"https://localhost:{}\"\nca_file = {ca:?}",
        upstream.port()
    );
    let server = TestServer::start(quiet(&chain)).await;
    server.anybody().get("/chain/status").await.expect(200);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_stops_the_start_and_its_setting_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let node = "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"https://localhost\"\n";
    for (text, named) in [
        (
            format!("{node}ca_file = {empty:?}"),
            "inference[0].ca_file: ",
        ),
        (
            format!("{node}ca_file = \"/nowhere.pem\""),
            "inference[0].ca_file: ",
        ),
        (
            format!("{node}api_key_file = {empty:?}"),
            "inference[0].api_key_file: ",
        ),
        (
            format!("[chain]\nrpc = \"https://localhost\"\nca_file = {empty:?}"),
            "chain.ca_file",
        ),
        (
            format!("[miner]\nurl = \"https://localhost\"\nca_file = {empty:?}"),
            "miner.ca_file",
        ),
    ] {
        let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
        match EdgeServer::builder(quiet(&text), Arc::new(store))
            .start()
            .await
        {
            Err(StartError::Config(what)) => assert!(what.starts_with(named), "{what}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it started with {text}"),
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let elsewhere = other.url();
    let upstream =
        Upstream::inference(move |seen| Scripted::redirect(format!("{elsewhere}{}", seen.path)))
            .await;
    let mut config = config_with_inference("openai", &upstream);
    config.chain = Config::read(&format!("[chain]\nrpc = \"{}\"", upstream.url()), [])
        .unwrap()
        .chain;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    let chat = caller.post("/chat", &json!({"message":"hi"})).await;
    chat.refused(502, "upstream_bad_response");
    server
        .anybody()
        .get("/chain/status")
        .await
        .refused(502, "upstream_bad_response");
    assert_eq!(other.seen("/").len(), 0);
    assert_eq!(server.balance(W1).await.micro(), 1_000_000);
}
