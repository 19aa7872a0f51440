//! The chain's status and blocks, from its documented answers, odd ones and none.

mod kinds;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use r3mes_edge::Config;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Answer, Scripted, Seen, TestServer, Upstream, config, eventually, fixture};

/// A configuration that reads this chain.
pub(crate) fn config_with_chain(chain: &Upstream) -> Config {
    let mut config = config();
    config.chain.rpc = Some(chain.url());
    config
}

/// Answers `/status` and `/blockchain` from CometBFT's own examples.
pub(crate) fn documented(seen: &Seen) -> Scripted {
    match seen.path.as_str() {
        "/status" => Scripted::whole(200, fixture("cometbft-status.json")),
        "/blockchain" => Scripted::whole(200, fixture("cometbft-blockchain.json")),
        _ => Scripted::whole(404, "{}"),
    }
}

/// A chain that answers from CometBFT's examples until it is shut down.
pub(crate) async fn mortal_chain() -> (Upstream, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(true));
    let chain = {
        let up = Arc::clone(&up);
        Upstream::start(move |seen| match up.load(Ordering::SeqCst) {
            true => documented(seen),
            false => Scripted::whole(500, fixture("cometbft-error.json")),
        })
        .await
    };
    (chain, up)
}

/// A block as `/blockchain` describes it; `number` writes the 64-bit numbers.
fn meta(height: i64, number: impl Fn(i64) -> Value) -> Value {
    json!({
        "block_id": { "hash": format!("{height:064X}") },
        "header": {
            "height": number(height),
            "time": format!("2026-11-24T03:{:02}:{:02}.123456789Z", height / 60, height % 60),
            "proposer_address": format!("{height:040X}"),
        },
        "num_txs": number(height % 7),
    })
}

/// `/blockchain` of a chain of `height` blocks: at most 20, newest first, numbers as texts, as CometBFT does it.
fn blockchain(seen: &Seen, height: i64) -> Scripted {
    let asked = |name: &str| {
        let (_, query) = seen.path.split_once('?')?;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name))?;
        Some(value.strip_prefix('=')?.parse::<i64>().unwrap())
    };
    let highest = asked("maxHeight").unwrap_or(height).min(height);
    let lowest = asked("minHeight").unwrap_or(1).max(1).max(highest - 19);
    let text = |number: i64| json!(number.to_string());
    let metas: Vec<_> = (lowest..=highest).rev().map(|n| meta(n, text)).collect();
    let result = json!({ "last_height": text(height), "block_metas": metas });
    let body = json!({ "jsonrpc": "2.0", "id": -1, "result": result });
    Scripted::whole(200, body.to_string())
}

fn heights(answer: &Value) -> Vec<i64> {
    let blocks = answer["blocks"].as_array().unwrap();
    blocks
        .iter()
        .map(|block| block["height"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn cometbfts_documented_answers_are_shown_in_our_format() {
    let chain = Upstream::start(documented).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    assert_eq!(
        caller.get("/chain/status").await.expect(200),
        json!({
            "network": "cosmoshub-2", "latest_block_height": 1_262_196,
            "latest_block_time": "2019-08-01T11:52:22.818Z", "catching_up": false,
            "halted": true, "stale": false, "age_seconds": 0,
        })
    );
    assert_eq!(
        caller.get("/blocks").await.expect(200),
        json!({
            "blocks": [{
                "height": 12,
                "hash": "112BC173FD838FB68EB43476816CD7B4C6661B6884A9E357B417EE957E1CF8F7",
                "miner": "D540AB022088612AC74B287D076DBFBC4A377A2E",
                "timestamp": "2019-04-22T17:01:51.701Z",
                "tx_count": 54,
            }],
            "limit": 20, "total": 1_276_718,
        })
    );
    // No client header is sent upstream, and a GET has no body.
    let seen = &chain.seen("/status")[0];
    assert!(!seen.headers.contains_key("x-request-id") && seen.body.is_empty());
}

#[tokio::test]
async fn numbers_that_are_not_strings_are_read_too() {
    let chain = Upstream::start(|seen| {
        let number = |number: i64| json!(number);
        let result = match seen.path.as_str() {
            "/status" => json!({
                "node_info": { "network": "remes-1" },
                "sync_info": {
                    "latest_block_height": 9_007_199_254_740_993_i64,
                    "latest_block_time": "2026-11-24T03:00:00Z", "catching_up": true,
                },
            }),
            _ => json!({ "last_height": 2, "block_metas": [meta(2, number), meta(1, number)] }),
        };
        Scripted::whole(200, json!({"jsonrpc": "2.0", "result": result}).to_string())
    })
    .await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let status = server.anybody().get("/chain/status").await.expect(200);
    // Larger than a float can hold exactly.
    assert_eq!(
        status["latest_block_height"].to_string(),
        "9007199254740993"
    );
    assert_eq!(
        (&status["network"], &status["catching_up"]),
        (&json!("remes-1"), &json!(true))
    );
    let blocks = server.anybody().get("/blocks").await.expect(200);
    assert_eq!(
        (heights(&blocks), &blocks["total"]),
        (vec![2, 1], &json!(2))
    );
    assert_eq!(blocks["blocks"][0]["tx_count"], json!(2));
}

#[tokio::test]
async fn a_hundred_blocks_are_five_calls_and_twenty_are_one() {
    let chain = Upstream::start(|seen| blockchain(seen, 250)).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    let mut calls = 0;
    for (limit, expected) in [(100, 5), (20, 1), (1, 1), (21, 2), (40, 2), (99, 5)] {
        let answer = caller.get(&format!("/blocks?limit={limit}")).await;
        assert_eq!(answer.header("x-cache"), "miss");
        let answer = answer.expect(200);
        let newest_first: Vec<i64> = (251 - limit..=250).rev().collect();
        assert_eq!(heights(&answer), newest_first);
        assert_eq!(
            (&answer["limit"], &answer["total"]),
            (&json!(limit), &json!(250))
        );
        let seen = chain.seen("/blockchain").len();
        assert_eq!(seen - calls, expected, "limit={limit}");
        calls = seen;
    }
    // Only what is missing is asked for: of limit=21 one block, of limit=99 nineteen last.
    let paths: Vec<_> = chain.seen("/blockchain?");
    let asked = |index: usize| paths[index].path.as_str();
    assert_eq!(asked(0), "/blockchain?minHeight=211&maxHeight=230");
    assert_eq!(asked(4), "/blockchain?minHeight=230&maxHeight=230");
    assert_eq!(
        asked(paths.len() - 1),
        "/blockchain?minHeight=152&maxHeight=170"
    );
    for limit in ["0", "101", "-1", "x", ""] {
        let path = format!("/blocks?limit={limit}");
        caller.get(&path).await.refused(400, "invalid_request");
    }
    assert_eq!(chain.seen("/blockchain").len(), calls);
}

#[tokio::test]
async fn a_short_chain_has_the_blocks_it_has() {
    let chain = Upstream::start(|seen| blockchain(seen, 25)).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let answer = server.anybody().get("/blocks?limit=100").await.expect(200);
    assert_eq!(heights(&answer), (1..=25).rev().collect::<Vec<_>>());
    assert_eq!(answer["total"], 25);
    assert_eq!(chain.seen("/blockchain").len(), 2);
}

#[tokio::test]
async fn an_answer_of_the_chain_is_cached_for_two_seconds() {
    let chain = Upstream::start(documented).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    for (path, upstream) in [("/chain/status", "/status"), ("/blocks", "/blockchain")] {
        assert_eq!(caller.get(path).await.header("x-cache"), "miss");
        let hit = caller.get(path).await;
        assert_eq!(hit.header("x-cache"), "hit");
        assert!(hit.header("cache-control").starts_with("public, max-age="));
        assert_eq!(chain.seen(upstream).len(), 1);
        server.clock.advance(Duration::from_secs(2));
        let anew = caller.get(path).await;
        assert_eq!((anew.header("x-cache"), anew.header("age")), ("miss", "0"));
        assert_eq!(anew.header("cache-control"), "public, max-age=2");
        assert_eq!(chain.seen(upstream).len(), 2);
    }
}

#[tokio::test]
async fn while_the_chain_is_down_its_last_answer_is_served_for_an_hour_with_its_age() {
    let (chain, up) = mortal_chain().await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    let fresh = caller.get("/chain/status").await.expect(200);
    let fresh_blocks = caller.get("/blocks").await.expect(200);
    up.store(false, Ordering::SeqCst);
    let mut age = 0;
    for wait in [3, 60, 3000] {
        server.clock.advance(Duration::from_secs(wait));
        age += wait;
        let answer = caller.get("/chain/status").await;
        assert_eq!(answer.header("x-cache"), "stale");
        assert_eq!(answer.header("cache-control"), "public, max-age=0");
        let shown: u64 = answer.header("age").parse().unwrap();
        assert!((age..age + 60).contains(&shown), "{shown} at {age}");
        let mut answer = answer.expect(200);
        assert_eq!(answer["stale"], true);
        assert_eq!(answer["age_seconds"], json!(shown));
        (answer["stale"], answer["age_seconds"]) = (json!(false), json!(0));
        assert_eq!(answer, fresh);
        let blocks = caller.get("/blocks").await;
        assert_eq!(blocks.header("x-cache"), "stale");
        assert_eq!(blocks.expect(200), fresh_blocks);
    }
    // An hour old: an error now. The breaker has opened and closed meanwhile.
    server.clock.advance(Duration::from_secs(600));
    caller
        .get("/chain/status")
        .await
        .refused(502, "upstream_bad_response");
    caller.get("/blocks").await.refused(503, "circuit_open");
    up.store(true, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(400));
    let back = caller.get("/chain/status").await;
    assert_eq!(back.header("x-cache"), "miss");
    assert_eq!(back.expect(200), fresh);
}

#[tokio::test]
async fn a_chain_that_makes_no_blocks_is_halted_although_it_does_not_report_it() {
    let status: Value = serde_json::from_slice(&fixture("cometbft-status.json")).unwrap();
    let sync_info = Arc::new(Mutex::new((String::new(), false)));
    let up = Arc::new(AtomicBool::new(true));
    let chain = {
        let (sync_info, up) = (Arc::clone(&sync_info), Arc::clone(&up));
        Upstream::start(move |_| {
            let mut status = status.clone();
            let (time, catching_up) = sync_info.lock().unwrap().clone();
            status["result"]["sync_info"]["latest_block_time"] = json!(time);
            status["result"]["sync_info"]["catching_up"] = json!(catching_up);
            let code = if up.load(Ordering::SeqCst) { 200 } else { 500 };
            Scripted::whole(code, status.to_string())
        })
        .await
    };
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    let block = |catching_up| {
        *sync_info.lock().unwrap() = (server.clock.now().to_string(), catching_up);
    };
    let halted = async || {
        let status = caller.get("/chain/status").await.expect(200);
        let health = caller.get("/health").await.expect(200);
        let (halted, degraded) = (status["halted"] == true, health["status"] == "degraded");
        assert_eq!(health["chain_halted"], halted);
        assert_eq!(
            degraded,
            halted || status["stale"] == true && health["breakers"][0]["state"] != "CLOSED"
        );
        halted
    };
    block(false);
    assert!(!halted().await);
    server.clock.advance(Duration::from_secs(50));
    assert!(!halted().await);
    server.clock.advance(Duration::from_secs(15));
    assert!(halted().await);
    block(false);
    server.clock.advance(Duration::from_secs(3));
    assert!(!halted().await);
    // A chain that cannot be reached is down: whether it makes blocks is unknown.
    up.store(false, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(120));
    assert!(!halted().await);
    // A node that is catching up has old blocks by design.
    up.store(true, Ordering::SeqCst);
    block(true);
    server.clock.advance(Duration::from_secs(120));
    assert!(!halted().await);
}

#[tokio::test]
async fn an_answer_that_only_grew_older_has_its_old_tag() {
    let (chain, up) = mortal_chain().await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    caller.get("/chain/status").await.expect(200);
    up.store(false, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(3));
    let stale = caller.get("/chain/status").await;
    server.clock.advance(Duration::from_secs(30));
    let tag = [("if-none-match", stale.header("etag"))];
    let older = caller
        .send(hyper::Method::GET, "/chain/status", &tag, "")
        .await;
    assert!(older.header("age").parse::<u64>().unwrap() >= 33);
    older.expect(304);
}

#[tokio::test]
async fn five_failures_open_the_chains_breaker_and_no_more_calls_are_made() {
    let chain = Upstream::start(|_| Scripted::whole(500, fixture("cometbft-error.json"))).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    for _ in 0..5 {
        // A failure is not repeated for so long.
        server.clock.advance(Duration::from_secs(2));
        caller
            .get("/chain/status")
            .await
            .refused(502, "upstream_bad_response");
    }
    server.clock.advance(Duration::from_secs(2));
    for path in ["/chain/status", "/blocks"] {
        let answer = caller.get(path).await;
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((50..=67).contains(&wait), "{wait}");
        answer.refused(503, "circuit_open");
    }
    assert_eq!(chain.seen("/").len(), 5);
    let health = caller.get("/health").await.expect(200);
    assert_eq!(
        (
            &health["breakers"][0]["name"],
            &health["breakers"][0]["state"]
        ),
        (&json!("chain"), &json!("OPEN"))
    );
}

#[tokio::test]
async fn an_open_breaker_still_serves_the_last_answer() {
    let (chain, up) = mortal_chain().await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    caller.get("/chain/status").await.expect(200);
    up.store(false, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(3));
    for _ in 0..10 {
        server.clock.advance(Duration::from_secs(2));
        let answer = caller.get("/chain/status").await;
        assert_eq!(answer.header("x-cache"), "stale");
        assert_eq!(answer.expect(200)["latest_block_height"], 1_262_196);
    }
    // One successful call and five failed ones; the others were not sent upstream.
    assert_eq!(chain.seen("/status").len(), 6);
    caller.get("/blocks").await.refused(503, "circuit_open");
}

/// CometBFT's own status, padded to `bytes` by a field that is ignored.
fn status_of(bytes: usize) -> String {
    let mut status: Value = serde_json::from_slice(&fixture("cometbft-status.json")).unwrap();
    status["padding"] = json!("");
    let missing = bytes - status.to_string().len();
    status["padding"] = json!("x".repeat(missing));
    status.to_string()
}

#[tokio::test]
async fn an_invalid_answer_of_the_chain_is_refused_and_never_shown() {
    let scripts = Arc::new(Mutex::new(Vec::<Scripted>::new()));
    let chain = {
        let scripts = Arc::clone(&scripts);
        Upstream::start(move |_| scripts.lock().unwrap().pop().unwrap()).await
    };
    let mut config = config_with_chain(&chain);
    (
        config.breaker.consecutive_failures,
        config.breaker.last_calls,
    ) = (100, 100);
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    let ask = async |path: &str, script: Scripted| -> Answer {
        server.clock.advance(Duration::from_secs(2));
        scripts.lock().unwrap().push(script);
        caller.get(path).await
    };
    let status = |change: fn(&mut Value)| {
        let mut status: Value = serde_json::from_slice(&fixture("cometbft-status.json")).unwrap();
        change(&mut status);
        status.to_string()
    };
    let rpc_error = || String::from_utf8(fixture("cometbft-error.json")).unwrap();
    for (code, body) in [
        (500, rpc_error()),
        (200, rpc_error()),
        (404, "99999999".to_owned()),
        (302, "99999999".to_owned()),
        (200, "<html>99999999</html>".to_owned()),
        (200, String::new()),
        (200, "null".to_owned()),
        (200, "[".repeat(200_000)),
        (200, status_of((1 << 20) + 1)),
        (200, status(|status| status["jsonrpc"] = json!("99999999"))),
        (
            200,
            status(|status| {
                status["result"]["sync_info"]["latest_block_height"] = json!("-99999999")
            }),
        ),
        (
            200,
            status(|status| {
                status["result"]["sync_info"]["latest_block_height"] = json!("99999999.5")
            }),
        ),
        (
            200,
            status(|status| {
                status["result"]["sync_info"]["latest_block_time"] = json!("99999999 o'clock")
            }),
        ),
    ] {
        let script = Scripted::whole(code, body);
        let refused = ask("/chain/status", script).await;
        let refused = refused.refused(502, "upstream_bad_response").to_string();
        for secret in ["99999999", "html", "Internal error"] {
            assert!(!refused.contains(secret), "{refused}");
        }
    }
    let text = |number: i64| json!(number.to_string());
    let out_of_order = json!({"jsonrpc": "2.0", "result": {"last_height": "3", "block_metas": [meta(2, text), meta(3, text)]}});
    let too_high = json!({"jsonrpc": "2.0", "result": {"last_height": "3", "block_metas": [meta(4, text), meta(3, text)]}});
    for blocks in [out_of_order, too_high] {
        ask("/blocks", Scripted::whole(200, blocks.to_string()))
            .await
            .refused(502, "upstream_bad_response");
    }
    // A body just below the limit is accepted, so the size was the reason.
    let fits = ask("/chain/status", Scripted::whole(200, status_of(1 << 20))).await;
    assert_eq!(fits.expect(200)["latest_block_height"], 1_262_196);
}

#[tokio::test]
async fn a_chain_that_breaks_off_or_is_not_there_is_a_bad_answer() {
    let chain = Upstream::start(|_| {
        let (script, frames) = Scripted::held();
        frames.send(r#"{"jsonrpc":"2.0","result":{"#);
        frames.cut();
        script
    })
    .await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let refused = server.anybody().get("/chain/status").await;
    refused.refused(502, "upstream_bad_response");

    let mut config = config();
    let dead = Upstream::dead().await;
    config.chain.rpc = Some(dead.clone());
    let server = TestServer::start(config).await;
    let refused = server.anybody().get("/chain/status").await;
    let refused = refused.refused(502, "upstream_bad_response").to_string();
    let address = dead.trim_start_matches("http://");
    assert!(!refused.contains(address), "{refused}");
}

#[tokio::test]
async fn a_chain_that_never_answers_is_given_up() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let chain = {
        let held = Arc::clone(&held);
        Upstream::start(move |_| {
            let (script, frames) = Scripted::held();
            frames.send("{");
            held.lock().unwrap().push(frames);
            script
        })
        .await
    };
    let mut config = config_with_chain(&chain);
    config.chain.timeout = Duration::from_millis(50);
    let server = TestServer::start(config).await;
    for path in ["/chain/status", "/blocks"] {
        let refused = server.anybody().get(path).await;
        refused.refused(504, "upstream_timeout");
    }
    // The connection is closed when the request is given up.
    let frames = std::mem::take(&mut *held.lock().unwrap());
    for frames in frames {
        frames.reader_left().await;
    }
}

#[tokio::test]
async fn without_a_chain_its_routes_are_disabled() {
    let server = TestServer::start(config()).await;
    for path in ["/chain/status", "/blocks", "/blocks?limit=5"] {
        let answer = server.anybody().get(path).await;
        answer.refused(503, "chain_disabled");
    }
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(
        (&health["chain"], &health["status"]),
        (&json!(false), &json!("ok"))
    );
}

#[tokio::test]
async fn a_hundred_concurrent_requests_are_one_call_to_the_chain() {
    let (sender, mut asked) = mpsc::unbounded_channel();
    let chain = Upstream::start(move |_| {
        let (script, frames) = Scripted::held();
        sender.send(frames).unwrap();
        script
    })
    .await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.get("/chain/status").await })
        })
        .collect();
    let frames = asked.recv().await.unwrap();
    eventually("all hundred are in", async || {
        let page = caller.get("/metrics").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        // The hundred and this one.
        page.contains("\nr3mes_http_requests_in_flight 101\n")
            .then_some(())
    })
    .await;
    frames.send(fixture("cometbft-status.json"));
    drop(frames);
    let mut misses = 0;
    for one in requests {
        let answer = one.await.unwrap();
        misses += usize::from(answer.header("x-cache") == "miss");
        assert_eq!(answer.expect(200)["latest_block_height"], 1_262_196);
    }
    assert_eq!((misses, chain.seen("/status").len()), (1, 1));
}

#[tokio::test]
async fn a_hundred_concurrent_requests_are_one_call_to_a_broken_chain() {
    let chain = Upstream::start(|_| Scripted::whole(500, "{}")).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.anybody();
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.get("/chain/status").await })
        })
        .collect();
    for one in requests {
        let answer = one.await.unwrap();
        answer.refused(502, "upstream_bad_response");
    }
    assert_eq!(chain.seen("/status").len(), 1);
}
