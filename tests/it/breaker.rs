//! The breaker before an inference server: what opens it, what one wallet alone cannot do, and what the operator can.

use std::time::Duration;

use http_body_util::BodyExt;
use r3mes_edge::Config;
use serde_json::{Value, json};

use crate::ops::metrics::metric;
use crate::support::{
    Caller, Process, Scripted, Seen, TestServer, Upstream, W1, W2, config_with_inference, edge,
    eventually,
};

/// A server before an upstream whose model is known, so that its page is asked for nothing but a second look.
fn before(upstream: &Upstream) -> Config {
    let mut config = config_with_inference("openai", upstream);
    config.inference[0].model = "tiny".to_owned();
    config
}

/// Fails whatever holds the word poison.
fn fails_on_poison(seen: &Seen) -> Scripted {
    if seen.body.contains("poison") {
        Scripted::whole(500, "{}")
    } else {
        Scripted::words(&["well"])
    }
}

async fn fail(caller: &Caller) {
    let poison = json!({ "message": "poison" });
    let answer = caller.post("/chat", &poison).await;
    answer.refused(502, "upstream_bad_response");
}

async fn breaker(server: &TestServer) -> Value {
    let health = server.anybody().get("/health").await.expect(200);
    health["breakers"][0].clone()
}

async fn looks(server: &TestServer, found: &str) -> f64 {
    let labels = [("upstream", "node"), ("found", found)];
    metric(server, "r3mes_breaker_looks_total", &labels).await
}

#[tokio::test]
async fn one_wallets_poison_prompts_do_not_shut_the_door_for_another() {
    let upstream = Upstream::inference(fails_on_poison).await;
    let server = TestServer::start(before(&upstream)).await;
    let (poisoner, other) = (server.payer(W1, 1).await, server.payer(W2, 3).await);
    for round in 1..=3 {
        for _ in 0..5 {
            fail(&poisoner).await;
        }
        eventually("the node's page was asked", async || {
            (looks(&server, "well").await == f64::from(round)).then_some(())
        })
        .await;
        assert_eq!(upstream.seen("/v1/models").len(), round as usize);
        let answer = other.post("/chat", &json!({ "message": "hi" })).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"well\n"[..]));
    }
    assert_eq!(breaker(&server).await["state"], "CLOSED");
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn one_wallets_failures_open_it_where_the_page_does_not_answer_either() {
    let upstream = Upstream::start(|_| Scripted::whole(500, "{}")).await;
    let server = TestServer::start(before(&upstream)).await;
    let caller = server.payer(W1, 1).await;
    for _ in 0..5 {
        fail(&caller).await;
    }
    let breaker = eventually("it opened", async || {
        let breaker = breaker(&server).await;
        (breaker["state"] == "OPEN").then_some(breaker)
    })
    .await;
    assert_eq!(breaker["reason"], "5 failures in a row");
    assert_eq!(breaker["forced"], false);
    assert_eq!(looks(&server, "down").await, 1.0);
    assert_eq!(upstream.seen("/v1/models").len(), 1);
}

#[tokio::test]
async fn failures_of_two_wallets_open_it_at_once_and_no_page_is_asked() {
    let upstream = Upstream::inference(fails_on_poison).await;
    let server = TestServer::start(before(&upstream)).await;
    let (one, other) = (server.payer(W1, 1).await, server.payer(W2, 1).await);
    for _ in 0..4 {
        fail(&one).await;
    }
    fail(&other).await;
    let refused = one.post("/chat", &json!({ "message": "hi" })).await;
    refused.refused(503, "circuit_open");
    assert_eq!(upstream.seen("/v1/models").len(), 0);
    let to = |to| [("upstream", "node"), ("to", to)];
    let name = "r3mes_breaker_transitions_total";
    assert_eq!(metric(&server, name, &to("open")).await, 1.0);
    server.clock.advance(Duration::from_secs(67));
    let answer = one.post("/chat", &json!({ "message": "hi" })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(breaker(&server).await["state"], "CLOSED");
    assert_eq!(metric(&server, name, &to("half_open")).await, 1.0);
    assert_eq!(metric(&server, name, &to("closed")).await, 1.0);
}

#[tokio::test]
async fn a_node_that_is_slow_to_the_first_text_of_every_call_is_given_a_rest() {
    let (answers, held) = std::sync::mpsc::channel();
    let upstream = Upstream::inference(move |_| {
        let (scripted, frames) = Scripted::held();
        answers.send(frames).unwrap();
        scripted
    })
    .await;
    let mut config = before(&upstream);
    config.breaker.slow = Some(Duration::from_secs(20));
    config.breaker.last_calls = 4;
    let server = TestServer::start(config).await;
    let callers = [server.payer(W1, 2).await, server.payer(W2, 2).await];
    for (call, waits) in [21, 1, 19, 21].into_iter().enumerate() {
        assert_eq!(breaker(&server).await["state"], "CLOSED", "call {call}");
        let caller = callers[call % 2].clone();
        let chat = tokio::spawn(async move { caller.chat("hi").await });
        let frames = eventually("the node was asked", async || held.try_recv().ok()).await;
        server.clock.advance(Duration::from_secs(waits));
        frames.send_word("slow");
        let (status, _, body) = chat.await.unwrap();
        // However long the rest takes.
        server.clock.advance(Duration::from_secs(1_000));
        frames.send_done();
        body.collect().await.unwrap();
        assert_eq!(status, 200);
    }
    let breaker = eventually("it opened", async || {
        let breaker = breaker(&server).await;
        (breaker["state"] == "OPEN").then_some(breaker)
    })
    .await;
    assert_eq!(breaker["reason"], "2 of the last 4 calls were slow");
}

#[tokio::test]
async fn an_admin_opens_a_breaker_until_it_is_reset() {
    let upstream = Upstream::inference(fails_on_poison).await;
    let server = TestServer::start(before(&upstream)).await;
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
    let upstream = Upstream::inference(fails_on_poison).await;
    let server = TestServer::start(before(&upstream)).await;
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
        .post("/admin/breakers/nobody", &open)
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
    let upstream = Upstream::inference(fails_on_poison).await;
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
        (0, "node              CLOSED\n".to_owned())
    );
    assert_eq!(
        breaker(&["open", "node"]),
        (
            0,
            "node              OPEN       forced by the operator\n".to_owned()
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
    assert_eq!(breaker(&["open", "nobody"]).0, 3);
    assert_eq!(breaker(&["open", "no/body"]).0, 2);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(breaker(&["list"]), (5, String::new()));
    assert_eq!(breaker(&["open", "node"]).0, 5);
}
