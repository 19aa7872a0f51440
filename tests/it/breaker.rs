//! The breaker of an inference server: what opens it, what clients cannot do to it, and what the operator can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use r3mes_edge::Config;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::ops::metrics::metric;
use crate::support::{
    Caller, Process, Scripted, Seen, TestServer, Upstream, W1, W2, W3, config_with_inference,
    config_with_nodes, edge, eventually,
};

/// Which requests an inference server fails.
#[derive(Clone, Copy)]
enum Fails {
    /// Requests that hold the word "odd": an image sent to a server that takes text only, a format it does not support.
    Odd,
    /// Every chat.
    Chats,
    Everything,
}

fn answer(seen: &Seen, kind: &str, fails: Fails) -> Scripted {
    let is_health = matches!(seen.path.as_str(), "/health" | "/v1/models");
    match fails {
        Fails::Everything => Scripted::whole(500, "{}"),
        // A health check is judged by its status, not its body.
        _ if is_health => Scripted::whole(200, "fine"),
        Fails::Odd if !seen.body.contains("odd") => match kind {
            "r3mes" => Scripted::whole(200, "hello"),
            _ => Scripted::words(&["hello"]),
        },
        Fails::Odd | Fails::Chats => Scripted::whole(500, "{}"),
    }
}

async fn upstream(kind: &'static str, fails: Fails) -> Upstream {
    Upstream::start(move |seen| answer(seen, kind, fails)).await
}

/// The model is known, so that nothing but a health check reads `/v1/models`.
fn config(kind: &str, upstream: &Upstream) -> Config {
    let mut config = config_with_inference(kind, upstream);
    config.inference[0].model = "tiny".to_owned();
    config
}

async fn chat(caller: &Caller) {
    let answer = caller.post("/chat", &json!({ "message": "hi" })).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hello\n"[..]));
}

async fn fail(caller: &Caller) {
    let answer = caller.post("/chat", &json!({ "message": "odd" })).await;
    answer.refused(502, "upstream_bad_response");
}

async fn breaker(server: &TestServer) -> Value {
    let health = server.anybody().get("/health").await.expect(200);
    health["breakers"][0].clone()
}

async fn reaches(server: &TestServer, state: &str) -> Value {
    eventually(&format!("the breaker is {state}"), async || {
        let breaker = breaker(server).await;
        (breaker["state"] == state).then_some(breaker)
    })
    .await
}

/// Health checks that passed and that failed.
async fn checks(server: &TestServer) -> (f64, f64) {
    let count = async |result| {
        let labels = [("upstream", "node"), ("result", result)];
        metric(server, "r3mes_breaker_health_checks_total", &labels).await
    };
    (count("passed").await, count("failed").await)
}

async fn checked(server: &TestServer, passed: f64) {
    eventually("the health check passed", async || {
        (checks(server).await == (passed, 0.0)).then_some(())
    })
    .await;
}

/// A server that is not up yet: its port is bound, and refuses connections until it listens.
fn refusing(kind: &str) -> (TcpSocket, Config) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let mut config = config_with_nodes(kind, &[url]);
    config.inference[0].name = "node".to_owned();
    config.inference[0].model = "tiny".to_owned();
    (socket, config)
}

const KINDS: [&str; 2] = ["openai", "r3mes"];

fn health_path(kind: &str) -> &'static str {
    match kind {
        "r3mes" => "/health",
        _ => "/v1/models",
    }
}

#[tokio::test]
async fn failing_requests_of_two_wallets_do_not_open_the_breaker_for_a_third() {
    for kind in KINDS {
        let upstream = upstream(kind, Fails::Odd).await;
        let server = TestServer::start(config(kind, &upstream)).await;
        let (one, two) = (server.payer(W1, 1).await, server.payer(W2, 1).await);
        let third = server.payer(W3, 2).await;
        for failures in 1..=19 {
            fail(if failures % 2 == 0 { &one } else { &two }).await;
            if failures % 5 == 0 {
                checked(&server, f64::from(failures / 5)).await;
            }
        }
        chat(&third).await;
        fail(&one).await;
        chat(&third).await;
        assert_eq!(breaker(&server).await["state"], "CLOSED", "{kind}");
        assert_eq!(upstream.seen(health_path(kind)).len(), 3, "{kind}");
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test]
async fn unsupported_images_and_formats_do_not_open_the_breaker() {
    let upstream = Upstream::inference(|seen| {
        match seen.body.contains("image_url") || seen.body.contains("json_schema") {
            true => Scripted::whole(500, r#"{"error":{"message":"not supported"}}"#),
            false => Scripted::words(&["hello"]),
        }
    })
    .await;
    let server = TestServer::start(config("openai", &upstream)).await;
    let odd = [
        json!({ "messages": [{ "role": "user", "content": [
            { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
        ] }] }),
        json!({ "messages": [{ "role": "user", "content": "hi" }], "response_format": {
            "type": "json_schema", "json_schema": { "name": "x", "schema": { "type": "object" } },
        } }),
    ];
    let callers = [server.payer(W1, 1).await, server.payer(W2, 1).await];
    let third = server.payer(W3, 20).await;
    for round in 0..20 {
        let answer = callers[round % 2]
            .post("/v1/chat/completions", &odd[round / 10])
            .await;
        answer.refused(502, "upstream_bad_response");
        if round % 5 == 4 {
            chat(&third).await;
        }
    }
    assert_eq!(breaker(&server).await["state"], "CLOSED");
}

#[tokio::test]
async fn with_a_failing_health_check_five_failures_open_the_breaker() {
    for kind in KINDS {
        let upstream = upstream(kind, Fails::Everything).await;
        let server = TestServer::start(config(kind, &upstream)).await;
        let caller = server.payer(W1, 1).await;
        for _ in 0..5 {
            fail(&caller).await;
        }
        let breaker = reaches(&server, "OPEN").await;
        assert_eq!(breaker["reason"], "5 failures in a row");
        assert_eq!(breaker["forced"], false);
        assert_eq!(checks(&server).await, (0.0, 1.0));
        assert_eq!(upstream.seen(health_path(kind)).len(), 1);
        let refused = caller.post("/chat", &json!({ "message": "hi" })).await;
        refused.refused(503, "circuit_open");
        server.clock.advance(Duration::from_secs(30));
        assert_eq!(upstream.seen(health_path(kind)).len(), 1, "it is reachable");
    }
}

#[tokio::test]
async fn with_a_passing_health_check_twenty_failures_open_the_breaker() {
    for kind in KINDS {
        let upstream = upstream(kind, Fails::Chats).await;
        let server = TestServer::start(config(kind, &upstream)).await;
        let callers = [server.payer(W1, 1).await, server.payer(W2, 1).await];
        for failures in 1..=20 {
            assert_eq!(breaker(&server).await["state"], "CLOSED", "{failures}");
            fail(&callers[failures % 2]).await;
            if failures % 5 == 0 && failures < 20 {
                checked(&server, (failures / 5) as f64).await;
            }
        }
        let breaker = breaker(&server).await;
        assert_eq!(
            (&breaker["state"], &breaker["reason"]),
            (&json!("OPEN"), &json!("20 failures in a row"))
        );
        let to = |to| [("upstream", "node"), ("to", to)];
        let name = "r3mes_breaker_transitions_total";
        assert_eq!(metric(&server, name, &to("open")).await, 1.0);
        server.clock.advance(Duration::from_secs(67));
        fail(&callers[0]).await;
        assert_eq!(self::breaker(&server).await["state"], "OPEN");
        assert_eq!(metric(&server, name, &to("half_open")).await, 1.0);
        assert_eq!(upstream.seen(health_path(kind)).len(), 3);
    }
}

#[tokio::test]
async fn a_server_that_refused_its_connections_is_back_within_five_seconds_without_a_paid_request()
{
    for kind in KINDS {
        let (socket, config) = refusing(kind);
        let server = TestServer::start(config).await;
        let caller = server.payer(W1, 1).await;
        for _ in 0..5 {
            fail(&caller).await;
        }
        assert_eq!(breaker(&server).await["state"], "OPEN");
        server.clock.advance(Duration::from_secs(5));
        eventually("a health check failed", async || {
            (checks(&server).await == (0.0, 1.0)).then_some(())
        })
        .await;
        assert_eq!(breaker(&server).await["state"], "OPEN");
        let listener = socket.listen(64).unwrap();
        let upstream = Upstream::on(listener, None, move |seen| answer(seen, kind, Fails::Odd));
        server.clock.advance(Duration::from_secs(5));
        reaches(&server, "CLOSED").await;
        assert_eq!(upstream.seen("/").len(), 1);
        assert_eq!(upstream.seen(health_path(kind)).len(), 1);
        chat(&caller).await;
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test]
async fn health_checks_do_not_close_a_breaker_opened_by_an_admin() {
    let (socket, config) = refusing("openai");
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 1).await;
    for _ in 0..5 {
        fail(&caller).await;
    }
    let open = json!({ "state": "open" });
    server
        .admin()
        .post("/admin/breakers/node", &open)
        .await
        .expect(200);
    let upstream = Upstream::on(socket.listen(64).unwrap(), None, |_| {
        Scripted::whole(200, "")
    });
    server.clock.advance(Duration::from_secs(1_000));
    assert_eq!(breaker(&server).await["forced"], true);
    assert_eq!(checks(&server).await, (0.0, 0.0));
    assert!(upstream.seen("/").is_empty());
}

#[tokio::test]
async fn the_log_names_the_node_its_failures_and_the_passed_health_check_in_one_line() {
    let upstream = upstream("r3mes", Fails::Odd).await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[[inference]]\nname = \"node\"\nkind = \"r3mes\"\nurl = \"{}\"",
        upstream.url()
    );
    let server = Process::serve(&folder.path().join("edge.db"), &config);
    let admin = server.admin();
    server.grant(W1, 1).await;
    let odd = json!({ "message": "odd", "wallet_address": W1 });
    for _ in 0..9 {
        admin.post("/chat", &odd).await.expect(502);
    }
    let lines = || {
        let log = server.log().into_iter();
        log.filter(|line| line.contains("health check")).collect()
    };
    let lines: Vec<String> = eventually("the health check is logged", async || {
        Some(lines()).filter(|lines: &Vec<String>| !lines.is_empty())
    })
    .await;
    let wanted = "failures in a row, but the health check passed: it stays closed";
    assert!(
        lines.len() == 1 && lines[0].contains("breaker node: "),
        "{lines:?}"
    );
    assert!(lines[0].contains(wanted), "{lines:?}");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn after_a_failed_probe_the_health_check_decides() {
    let healthy = Arc::new(AtomicBool::new(false));
    let upstream = {
        let healthy = Arc::clone(&healthy);
        Upstream::start(move |seen| {
            let fails = match healthy.load(Ordering::SeqCst) {
                true => Fails::Odd,
                false => Fails::Everything,
            };
            answer(seen, "openai", fails)
        })
        .await
    };
    let server = TestServer::start(config("openai", &upstream)).await;
    let (one, other) = (server.payer(W1, 1).await, server.payer(W2, 1).await);
    for _ in 0..5 {
        fail(&one).await;
    }
    reaches(&server, "OPEN").await;
    healthy.store(true, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(67));
    // The probe is an odd request again.
    fail(&one).await;
    reaches(&server, "CLOSED").await;
    chat(&other).await;
}

#[tokio::test]
async fn an_admin_opens_a_breaker_until_it_is_reset() {
    let upstream = upstream("openai", Fails::Odd).await;
    let server = TestServer::start(config("openai", &upstream)).await;
    let (admin, payer) = (server.admin(), server.payer(W1, 1).await);
    let hi = json!({ "message": "hi" });
    let opened = admin
        .post("/admin/breakers/node", &json!({ "state": "open" }))
        .await
        .expect(200);
    let wanted = json!({
        "name": "node", "state": "OPEN", "forced": true, "reason": "forced by the operator",
        "retry_after_seconds": null,
    });
    assert_eq!(opened, wanted);
    for _ in 0..2 {
        payer.post("/chat", &hi).await.refused(503, "circuit_open");
        server.clock.advance(Duration::from_secs(100_000));
    }
    assert_eq!(breaker(&server).await, wanted);
    let listed = admin.get("/admin/breakers").await.expect(200);
    assert_eq!(listed, json!({ "breakers": [wanted] }));
    let node = [("upstream", "node")];
    assert_eq!(metric(&server, "r3mes_breaker_forced", &node).await, 1.0);
    assert_eq!(metric(&server, "r3mes_breaker_state", &node).await, 2.0);
    assert_eq!(upstream.seen("/v1/chat").len(), 0);

    let reset = json!({ "state": "reset" });
    let closed = admin.post("/admin/breakers/node", &reset).await.expect(200);
    assert_eq!(
        (&closed["state"], &closed["forced"]),
        (&json!("CLOSED"), &json!(false))
    );
    assert_eq!(payer.post("/chat", &hi).await.status, 200);
    assert_eq!(metric(&server, "r3mes_breaker_forced", &node).await, 0.0);
}

#[tokio::test]
async fn a_breaker_is_set_by_an_admin_by_its_name_and_to_what_there_is() {
    let upstream = upstream("openai", Fails::Odd).await;
    let server = TestServer::start(config("openai", &upstream)).await;
    let (admin, payer) = (server.admin(), server.payer(W1, 1).await);
    let (path, open) = ("/admin/breakers/node", json!({ "state": "open" }));
    payer.post(path, &open).await.refused(403, "forbidden");
    payer.get("/admin/breakers").await.refused(403, "forbidden");
    server
        .anybody()
        .post(path, &open)
        .await
        .refused(401, "missing_credentials");
    admin
        .post("/admin/breakers/unknown", &open)
        .await
        .refused(404, "not_found");
    for body in [
        json!({ "state": "half_open" }),
        json!({ "state": 1 }),
        json!({}),
    ] {
        let refused = admin.post(path, &body).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], "/state", "{refused}");
    }
    assert_eq!(breaker(&server).await["state"], "CLOSED");
}

#[tokio::test]
async fn the_command_line_lists_opens_and_resets_the_breakers_of_the_running_server() {
    let upstream = upstream("openai", Fails::Odd).await;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let config = format!(
        "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"",
        upstream.url()
    );
    let server = Process::serve(&database, &config);
    let breaker = |arguments: &[&str]| edge(&database, &[&["breaker"], arguments].concat());
    assert_eq!(
        breaker(&["list"]),
        (
            0,
            "UPSTREAM          STATE      RETRY IN (S)  REASON\nnode              CLOSED\n"
                .to_owned()
        )
    );
    assert_eq!(
        breaker(&["open", "node"]),
        (
            0,
            "name                node\nstate               OPEN\nforced              true\nreason              forced by the operator\nretry_after_seconds -\n".to_owned()
        )
    );
    let (code, listed) = breaker(&["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (code, &listed),
        (0, &server.admin().get("/admin/breakers").await.expect(200))
    );
    assert_eq!(listed["breakers"][0]["forced"], true);
    assert_eq!(breaker(&["reset", "node"]).0, 0);
    let health = server.admin().get("/health").await.expect(200);
    assert_eq!(health["breakers"][0]["state"], "CLOSED");
    assert_eq!(breaker(&["open", "unknown"]).0, 3);
    assert_eq!(breaker(&["open", "no/body"]).0, 2);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(breaker(&["list"]), (5, String::new()));
    assert_eq!(breaker(&["open", "node"]).0, 5);
}
