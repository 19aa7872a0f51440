//! Kinds of answers that are no failure of the chain, and how often it is asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{config_with_chain, documented, heights, meta};
use crate::support::{
    Caller, RawAnswer, RawUpstream, Scripted, TestServer, Then, Upstream, config, eventually,
    fixture,
};

const HEIGHT: i64 = 1_262_196;

fn rpc_error(data: &str) -> Scripted {
    let error = json!({ "code": -32603, "message": "Internal error", "data": data });
    let body = json!({ "jsonrpc": "2.0", "id": -1, "error": error });
    Scripted::whole(500, body.to_string())
}

fn rpc_result(result: Value) -> Scripted {
    let body = json!({ "jsonrpc": "2.0", "id": -1, "result": result });
    Scripted::whole(200, body.to_string())
}

fn blocks(last_height: i64, metas: impl Iterator<Item = Value>) -> Scripted {
    let metas: Vec<_> = metas.collect();
    rpc_result(json!({ "last_height": last_height.to_string(), "block_metas": metas }))
}

fn block(height: i64) -> Value {
    meta(height, |number| json!(number.to_string()))
}

async fn breaker(caller: &Caller) -> Value {
    let health = caller.get("/health").await.expect(200);
    health["breakers"][0]["state"].clone()
}

#[tokio::test]
async fn a_chain_without_a_block_has_an_empty_list_and_is_neither_failed_nor_halted() {
    for catching_up in [true, false] {
        let chain = Upstream::start(move |seen| match seen.path.as_str() {
            "/status" => rpc_result(json!({
                "node_info": { "network": "remes-1" },
                "sync_info": {
                    "latest_block_height": "0", "latest_block_time": "0001-01-01T00:00:00Z",
                    "earliest_block_height": "0", "catching_up": catching_up,
                },
            })),
            _ => rpc_error("min height 1 can't be greater than max height 0"),
        })
        .await;
        let server = TestServer::start(config_with_chain(&chain)).await;
        let caller = server.anybody();
        for _ in 0..30 {
            server.clock.advance(Duration::from_secs(3));
            let none = caller.get("/blocks?limit=5").await.expect(200);
            assert_eq!(none, json!({ "blocks": [], "limit": 5, "total": 0 }));
        }
        let status = caller.get("/chain/status").await.expect(200);
        assert_eq!(
            (&status["stale"], &status["halted"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(breaker(&caller).await, "CLOSED");
    }
}

#[tokio::test]
async fn blocks_that_were_pruned_end_the_list() {
    // The lowest block that is left, and how the node answers for those below.
    let range = || rpc_error("invalid request: min height 91 can't be greater than max height 90");
    let height = || rpc_error("height 90 is not available, lowest height is 91");
    let none = || rpc_result(json!({ "last_height": "110", "block_metas": null }));
    let empty = || blocks(110, std::iter::empty());
    let answers: [fn() -> Scripted; 4] = [range, height, none, empty];
    for below in answers {
        let chain = Upstream::start(move |seen| match seen.path.as_str() {
            "/blockchain" => blocks(110, (91..=110).rev().map(block)),
            _ => below(),
        })
        .await;
        let server = TestServer::start(config_with_chain(&chain)).await;
        let caller = server.anybody();
        for _ in 0..12 {
            server.clock.advance(Duration::from_secs(3));
            let answer = caller.get("/blocks?limit=100").await.expect(200);
            assert_eq!(heights(&answer), (91..=110).rev().collect::<Vec<_>>());
            assert_eq!(answer["total"], 110);
        }
        assert_eq!(breaker(&caller).await, "CLOSED");
    }
}

#[tokio::test]
async fn a_block_that_was_pruned_meanwhile_costs_only_itself() {
    let chain = Upstream::start(|_| {
        let metas = [block(9), Value::Null, block(7), Value::Null].into_iter();
        blocks(9, metas)
    })
    .await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let answer = server.anybody().get("/blocks").await.expect(200);
    assert_eq!(heights(&answer), [9, 7]);
}

#[tokio::test]
async fn another_error_of_the_chain_is_a_failure() {
    let chain = Upstream::start(|_| rpc_error("the block store is closed")).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    for _ in 0..5 {
        server.clock.advance(Duration::from_secs(2));
        let refused = server.anybody().get("/blocks").await;
        let refused = refused.refused(502, "upstream_bad_response");
        assert!(
            !refused.to_string().contains("store is closed"),
            "{refused}"
        );
    }
    assert_eq!(breaker(&server.anybody()).await, "OPEN");
}

#[tokio::test]
async fn members_that_are_not_used_may_be_anything() {
    let chain = Upstream::start(|_| {
        let body = r#"{"node_info":{"network":"remes-1","moniker":"\ud800","x":NaN},"sync_info":{"latest_block_height":"7","latest_block_time":"2026-11-24T03:00:00Z","catching_up":true,"took":1e999},"validator_info":{"voting_power":Infinity}}"#;
        Scripted::whole(200, body)
    })
    .await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let status = server.anybody().get("/chain/status").await.expect(200);
    assert_eq!(
        (&status["latest_block_height"], &status["network"]),
        (&json!(7), &json!("remes-1"))
    );
}

/// A chain that answers as documented until its status is set, and then with that and `Retry-After`.
async fn limiting_chain(retry_after: &'static str) -> (RawUpstream, Arc<Mutex<Option<u16>>>) {
    let status = Arc::new(Mutex::new(None));
    let shared = Arc::clone(&status);
    let chain = RawUpstream::start(move |_| {
        let (status, body) = match *shared.lock().unwrap() {
            Some(status) => (status, b"<h1>Too Many Requests</h1>".to_vec()),
            None => (200, fixture("cometbft-status.json")),
        };
        let length = body.len();
        let mut answer = format!("HTTP/1.1 {status} S\r\nContent-Length: {length}\r\n");
        if status != 200 && !retry_after.is_empty() {
            answer += &format!("Retry-After: {retry_after}\r\n");
        }
        RawAnswer::new([answer.as_bytes(), b"\r\n", &body].concat(), Then::Keep)
    })
    .await;
    (chain, status)
}

#[tokio::test]
async fn a_chain_that_limits_its_requests_is_left_alone_for_as_long_as_it_asks() {
    for (code, retry_after, wait) in [
        (429, "30", 30),
        (429, "", 10),
        (403, "40", 40),
        (403, "", 60),
        (503, "20", 20),
        (429, "Fri, 01 Jan 2100 00:00:00 GMT", 3600),
        (429, "999999999", 3600),
    ] {
        let (chain, status) = limiting_chain(retry_after).await;
        let mut config = config();
        config.chain.rpc = Some(chain.url());
        let server = TestServer::start(config).await;
        let caller = server.anybody();
        // From the start.
        *status.lock().unwrap() = Some(code);
        for path in [
            "/chain/status",
            "/blocks",
            "/blocks?limit=7",
            "/chain/status",
        ] {
            let refused = caller.get(path).await;
            let after: u64 = refused.header("retry-after").parse().unwrap();
            assert!(
                (wait - 9..=wait).contains(&after),
                "{code} {retry_after}: {after}"
            );
            refused.refused(503, "overloaded");
        }
        server.clock.advance(Duration::from_secs(wait - 8));
        caller.get("/chain/status").await.refused(503, "overloaded");
        assert_eq!(chain.seen("GET").len(), 1, "{code} {retry_after}");
        // With a last answer.
        *status.lock().unwrap() = None;
        server.clock.advance(Duration::from_secs(8));
        caller.get("/chain/status").await.expect(200);
        *status.lock().unwrap() = Some(code);
        for _ in 0..20 {
            server.clock.advance(Duration::from_secs(2));
            let stale = caller.get("/chain/status").await;
            assert_eq!(stale.header("x-cache"), "stale");
            assert_eq!(stale.expect(200)["latest_block_height"], HEIGHT);
        }
        let asked = chain.seen("GET").len() - 2;
        assert!(
            (1..=1 + 40 / wait as usize).contains(&asked),
            "{code} {retry_after}: {asked}"
        );
        assert_eq!(breaker(&caller).await, "CLOSED");
    }
}

#[tokio::test]
async fn a_failed_refresh_is_not_repeated_by_every_reader() {
    for (path, first) in [
        ("/chain/status", true),
        ("/blocks", true),
        ("/chain/status", false),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let chain = {
            let asked = Arc::clone(&asked);
            Upstream::start(move |seen| match asked.fetch_add(1, Ordering::SeqCst) {
                0 if !first => documented(seen),
                _ => Scripted::whole(401, "{}"),
            })
            .await
        };
        let server = TestServer::start(config_with_chain(&chain)).await;
        let caller = server.anybody();
        if !first {
            caller.get(path).await.expect(200);
            server.clock.advance(Duration::from_secs(3));
        }
        for round in 1..=3 {
            for _ in 0..20 {
                let answer = caller.get(path).await;
                match first {
                    true => drop(answer.refused(502, "upstream_bad_response")),
                    false => assert_eq!(answer.header("x-cache"), "stale"),
                }
            }
            let asked = asked.load(Ordering::SeqCst) - usize::from(!first);
            // The clock runs on beside the test.
            assert!(
                (round..=round + 2).contains(&asked),
                "{path}: {asked} in {round}"
            );
            server.clock.advance(Duration::from_secs(2));
        }
    }
}

#[tokio::test]
async fn the_networks_figures_do_not_wait_for_a_slow_chain() {
    let (sender, mut asked) = mpsc::unbounded_channel();
    let is_fast = Arc::new(AtomicBool::new(false));
    let chain = {
        let is_fast = Arc::clone(&is_fast);
        Upstream::start(move |seen| match is_fast.load(Ordering::SeqCst) {
            true => documented(seen),
            false => {
                let (script, frames) = Scripted::held();
                sender.send(frames).unwrap();
                script
            }
        })
        .await
    };
    let mut config = config_with_chain(&chain);
    config.chain.timeout = Duration::from_secs(3600);
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    let height = async || caller.get("/network/stats").await.expect(200)["block_height"].clone();
    // Nothing is known, and the chain is asked once for all readers.
    for _ in 0..3 {
        assert_eq!(height().await, Value::Null);
    }
    let frames = asked.recv().await.unwrap();
    assert!(asked.try_recv().is_err());
    frames.send(fixture("cometbft-status.json"));
    drop(frames);
    eventually("the height is known", async || {
        (height().await == HEIGHT).then_some(())
    })
    .await;
    // It is slow again: what is known is the answer, and a refresh is under way.
    server.clock.advance(Duration::from_secs(60));
    assert_eq!(height().await, HEIGHT);
    let frames = asked.recv().await.unwrap();
    for _ in 0..3 {
        assert_eq!(height().await, HEIGHT);
    }
    // What is too old is no longer known.
    server.clock.advance(Duration::from_secs(3600));
    assert_eq!(height().await, Value::Null);
    is_fast.store(true, Ordering::SeqCst);
    drop(frames);
    eventually("the height is known again", async || {
        server.clock.advance(Duration::from_secs(2));
        (height().await == HEIGHT).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_chain_that_never_answered_well_fires_one_alert_that_ends_when_it_does() {
    for status in [401, 404, 302, 429] {
        let good = Arc::new(Mutex::new(false));
        let chain = {
            let good = Arc::clone(&good);
            Upstream::start(move |seen| match *good.lock().unwrap() {
                true => documented(seen),
                false => Scripted::whole(status, "{}"),
            })
            .await
        };
        let server = TestServer::start(config_with_chain(&chain)).await;
        let caller = server.anybody();
        let firing = async || {
            let alerts = caller.get("/alerts").await.expect(200);
            let names = alerts["firing"].as_array().unwrap().iter();
            let names = names.filter(|alert| alert["name"] != "chain_halted");
            names
                .map(|alert| {
                    (
                        alert["name"].clone(),
                        alert["subject"].clone(),
                        alert["summary"].to_string(),
                    )
                })
                .collect::<Vec<_>>()
        };
        let a_minute_later = async || {
            firing().await;
            server.clock.advance(Duration::from_secs(61));
            firing().await
        };
        let is_shown = async |shown: bool| {
            let health = caller.get("/health").await.expect(200);
            assert_eq!(health["chain"], shown);
            assert!(shown || health["status"] == "degraded", "{health}");
        };
        is_shown(true).await;
        assert!(caller.get("/chain/status").await.status >= 500);
        is_shown(false).await;
        let alerts = a_minute_later().await;
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        assert_eq!(
            (&alerts[0].0, &alerts[0].1),
            (&json!("upstream_failing"), &json!("chain"))
        );
        assert!(
            alerts[0].2.contains(&format!("status {status}")),
            "{}",
            alerts[0].2
        );
        *good.lock().unwrap() = true;
        caller.get("/chain/status").await.expect(200);
        is_shown(true).await;
        assert_eq!(a_minute_later().await, []);
        // A limit is no failure of one that answered.
        if status == 429 {
            *good.lock().unwrap() = false;
            caller.get("/chain/status").await.expect(200);
            assert_eq!(a_minute_later().await, []);
        }
    }
}
