use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use hyper::Method;
use r3mes_edge::auth::PlainKey;
use r3mes_edge::limits::{Rate, RateClass};
use r3mes_edge::model::{Credits, Price};
use r3mes_edge::routes::ROUTES;
use serde_json::{Value, json};

use crate::chat::whole;
use crate::support::{
    Caller, Scripted, Seen, TestServer, Upstream, W1, W2, config, config_with_inference, eventually,
};

/// A line of the metrics page.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Series {
    fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            name: name.to_owned(),
            labels,
        }
    }
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().all(plain) && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// Parses the text format 0.0.4 strictly: comments, then `name{labels} value` of a family whose type was declared, each
/// series only one time.
fn parse(page: &str) -> BTreeMap<Series, f64> {
    let (mut kinds, mut read) = (BTreeMap::new(), BTreeMap::new());
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').unwrap();
            let (name, rest) = rest.split_once(' ').unwrap();
            assert!(is_name(name), "{line}");
            match word {
                "HELP" => assert!(!rest.is_empty(), "{line}"),
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    assert_eq!(
                        kinds.insert(name.to_owned(), rest.to_owned()),
                        None,
                        "{line}"
                    );
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.replace("+Inf", "inf").parse().unwrap();
        let (name, labels) = match series.split_once('{') {
            None => (series, Vec::new()),
            Some((name, rest)) => {
                let inside = rest.strip_suffix('}').unwrap();
                // No value of ours holds a comma, a quote or a backslash: a label is never what a client sent.
                let label = |pair: &str| {
                    let (name, value) = pair.split_once('=').unwrap();
                    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                    let value = value.unwrap_or_else(|| panic!("{line}"));
                    assert!(is_name(name) && !value.contains(['"', '\\']), "{line}");
                    (name.to_owned(), value.to_owned())
                };
                (name, inside.split(',').map(label).collect())
            }
        };
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| kinds.get(*family).is_some_and(|kind| kind == "histogram"))
            .unwrap_or(name);
        assert!(is_name(name) && kinds.contains_key(family), "{line}");
        let count = labels.len();
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        assert_eq!(labels.len(), count, "a label twice: {line}");
        let series = Series {
            name: name.to_owned(),
            labels,
        };
        assert_eq!(read.insert(series, value), None, "twice: {line}");
    }
    read
}

async fn metrics(server: &TestServer) -> BTreeMap<Series, f64> {
    read_metrics(&server.anybody()).await
}

pub(crate) async fn read_metrics(caller: &Caller) -> BTreeMap<Series, f64> {
    let page = caller.get("/metrics").await;
    assert_eq!(page.status, 200);
    parse(std::str::from_utf8(&page.body).unwrap())
}

/// One without labels.
pub(crate) async fn single_metric(caller: &Caller, name: &str) -> f64 {
    read_metrics(caller).await[&Series::new(name, &[])]
}

pub(crate) async fn metric(server: &TestServer, name: &str, labels: &[(&str, &str)]) -> f64 {
    let read = metric_if_known(server, name, labels).await;
    read.unwrap_or_else(|| panic!("there is no {name} {labels:?}"))
}

/// One that is left out where there is none.
pub(crate) async fn metric_if_known(
    server: &TestServer,
    name: &str,
    labels: &[(&str, &str)],
) -> Option<f64> {
    let series = Series::new(name, labels);
    metrics(server).await.get(&series).copied()
}

#[tokio::test]
async fn the_metrics_come_in_the_accepted_format() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    let accepting = async |accept: &str| {
        let headers = [("accept", accept)];
        let page = caller.send(Method::GET, "/metrics", &headers, "").await;
        let text = String::from_utf8(page.body.to_vec()).unwrap();
        (page.header("content-type").to_owned(), text)
    };
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    for accept in ["*/*", "text/plain", "text/plain;version=0.0.4"] {
        let (kind, page) = accepting(accept).await;
        assert_eq!(kind, TEXT, "{accept}");
        assert!(!page.contains("# EOF"));
        parse(&page);
        assert!(page.contains("# TYPE chat_requests_total counter\n"));
        assert!(page.contains("# TYPE r3mes_build_info gauge\n"));
    }
    let page = caller.get("/metrics").await;
    assert_eq!(page.header("content-type"), TEXT);
    // What Prometheus sends.
    let (kind, page) = accepting("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(page.ends_with("\n# EOF\n"));
    assert_eq!(page.matches("# EOF").count(), 1);
    assert!(page.contains("# TYPE chat_requests counter\n"));
    assert!(page.contains("\nchat_requests_total{"));
    assert!(page.contains("# TYPE r3mes_build_info gauge\n"));
}

#[tokio::test]
async fn series_that_can_be_known_beforehand_start_at_zero() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let mut config = config_with_inference("openai", &upstream);
    config.inference[0].adapters = vec!["general".to_owned(), "coding".to_owned()];
    let server = TestServer::start(config).await;
    let read = metrics(&server).await;
    let value = |name: &str, labels: &[(&str, &str)]| read.get(&Series::new(name, labels)).copied();
    for adapter in ["general", "coding"] {
        for status in ["success", "cut", "client_left", "refused", "failed"] {
            let labels = [("status", status), ("adapter", adapter)];
            assert_eq!(
                value("chat_requests_total", &labels),
                Some(0.0),
                "{labels:?}"
            );
        }
    }
    let chats = read
        .keys()
        .filter(|series| series.name == "chat_requests_total")
        .count();
    assert_eq!(chats, 10);
    for reason in ["grant", "mining"] {
        let labels = [("reason", reason)];
        assert_eq!(value("credits_distributed_total", &labels), Some(0.0));
    }
    for class in RateClass::ALL {
        let labels = [("class", class.as_str())];
        assert_eq!(value("r3mes_rate_limited_total", &labels), Some(0.0));
    }
    assert_eq!(value("active_users", &[]), Some(0.0));
    assert_eq!(value("chat_request_duration_seconds_count", &[]), Some(0.0));
    let mut bounds: Vec<f64> = read
        .keys()
        .filter(|series| series.name == "chat_request_duration_seconds_bucket")
        .map(|series| series.labels["le"].replace("+Inf", "inf").parse().unwrap())
        .collect();
    bounds.sort_by(f64::total_cmp);
    assert_eq!(
        bounds,
        [
            0.1,
            0.5,
            1.0,
            2.0,
            5.0,
            15.0,
            60.0,
            120.0,
            300.0,
            f64::INFINITY
        ]
    );
    let node = [("upstream", "node")];
    assert_eq!(value("r3mes_breaker_state", &node), Some(0.0));
    assert_eq!(value("r3mes_breaker_forced", &node), Some(0.0));
    for to in ["closed", "open", "half_open"] {
        let labels = [("upstream", "node"), ("to", to)];
        assert_eq!(value("r3mes_breaker_transitions_total", &labels), Some(0.0));
    }
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(value("r3mes_build_info", &build), Some(1.0));
}

#[tokio::test]
async fn chats_grants_earnings_and_samples_move_the_metrics_by_what_they_are() {
    let upstream = Upstream::inference(|_| Scripted::words(&["some ", "words"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 2).await;
    let body = json!({"amount": 0.5, "reason": "test"});
    let path = format!("/users/{W2}/credits");
    server.admin().post(&path, &body).await.expect(200);
    // A debit is not counted as distributed.
    let body = json!({"amount": -0.25, "reason": "test"});
    server.admin().post(&path, &body).await.expect(200);
    let body = json!({"wallet_address": W2, "earnings": 1.25, "source_id": "a"});
    for status in [201, 200] {
        server
            .admin()
            .post("/miner/earnings", &body)
            .await
            .expect(status);
    }
    let body = json!([{"wallet_address": W2, "hashrate": 1, "worker": "a"}, {"wallet_address": W2, "hashrate": 1, "worker": "b"}]);
    server.admin().post("/miner/stats", &body).await.expect(201);
    for _ in 0..2 {
        let (_, _, body) = caller.chat("hi").await;
        assert_eq!(whole(body).await.unwrap(), "some words\n");
    }
    caller
        .post("/chat", &json!({"message": "hi"}))
        .await
        .refused(402, "insufficient_credits");
    let chats = |status| {
        Series::new(
            "chat_requests_total",
            &[("status", status), ("adapter", "general")],
        )
    };
    // A chat is counted after its last byte was handed on.
    let read = eventually("both chats are counted", async || {
        let read = metrics(&server).await;
        (read[&chats("success")] >= 2.0).then_some(read)
    })
    .await;
    let value = |name: &str, labels: &[(&str, &str)]| read[&Series::new(name, labels)];
    assert_eq!(
        ["success", "refused", "failed", "cut", "client_left"].map(|status| read[&chats(status)]),
        [2.0, 1.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(value("chat_request_duration_seconds_count", &[]), 3.0);
    assert_eq!(
        value("credits_distributed_total", &[("reason", "grant")]),
        2.5
    );
    assert_eq!(
        value("credits_distributed_total", &[("reason", "mining")]),
        1.25
    );
    assert_eq!(value("r3mes_credits_charged_total", &[]), 2.0);
    for cause in ["failed", "client_left", "not_written"] {
        assert_eq!(
            value("r3mes_credits_released_total", &[("cause", cause)]),
            0.0
        );
    }
    for zero in [
        "r3mes_credits_held",
        "r3mes_holds",
        "r3mes_credits_refunded_total",
        "r3mes_charges_retried_total",
        "r3mes_charges_short_total",
    ] {
        assert_eq!(value(zero, &[]), 0.0, "{zero}");
    }
    assert_eq!(value("r3mes_miner_samples_total", &[]), 2.0);
    // The admin belongs to no wallet.
    assert_eq!(value("active_users", &[]), 1.0);
    server
        .caller(W2, &["read"])
        .await
        .get("/auth/me")
        .await
        .expect(200);
    assert_eq!(metric(&server, "active_users", &[]).await, 2.0);
    server.clock.advance(Duration::from_secs(16 * 60));
    assert_eq!(metric(&server, "active_users", &[]).await, 0.0);
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_status() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    for _ in 0..3 {
        let path = format!("/users/{W1}");
        caller.get(&path).await.refused(404, "user_not_found");
    }
    caller.get("/nothing").await.refused(404, "not_found");
    caller
        .send(Method::PUT, "/users", &[], "")
        .await
        .refused(405, "method_not_allowed");
    let requests = |route, method, status| {
        Series::new(
            "r3mes_http_requests_total",
            &[("route", route), ("method", method), ("status", status)],
        )
    };
    let read = eventually("the requests are counted", async || {
        let read = metrics(&server).await;
        (read[&requests("none", "none", "4xx")] == 2.0).then_some(read)
    })
    .await;
    assert_eq!(read[&requests("/users/{wallet}", "GET", "4xx")], 3.0);
    assert_eq!(read[&requests("/users/{wallet}", "GET", "2xx")], 0.0);
    let took = Series::new(
        "r3mes_http_request_duration_seconds_count",
        &[("route", "/users/{wallet}")],
    );
    assert_eq!(read[&took], 3.0);
}

/// Bytes that look random and are the same in every run.
fn noise(seed: u32) -> [u8; 32] {
    *blake3::hash(&seed.to_le_bytes()).as_bytes()
}

#[tokio::test]
async fn no_path_wallet_key_or_adapter_that_is_sent_becomes_a_series() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    let payer = server.payer(W1, 1).await;
    let hrp = bech32::Hrp::parse("remes").unwrap();
    let round = async |seed: u32| {
        let bytes = noise(seed);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        caller
            .get(&format!("/{text}"))
            .await
            .refused(404, "not_found");
        caller
            .get(&format!("/users/{text}"))
            .await
            .refused(400, "invalid_wallet_address");
        let wallet = bech32::encode::<bech32::Bech32>(hrp, &bytes[..20]).unwrap();
        caller
            .get(&format!("/users/{wallet}"))
            .await
            .refused(404, "user_not_found");
        let key = PlainKey::generate().unwrap();
        let sent = [
            ("x-api-key", key.reveal()),
            ("x-request-id", text.as_str()),
            ("user-agent", text.as_str()),
        ];
        let refused = caller.send(Method::GET, "/auth/me", &sent, "").await;
        refused.refused(401, "invalid_api_key");
        let chat = json!({ "message": "hi", "adapter": text });
        payer
            .post("/chat", &chat)
            .await
            .refused(400, "invalid_request");
        let method = Method::from_bytes(&text.as_bytes()[..12]).unwrap();
        let refused = caller.send(method, "/users", &[], "").await;
        refused.refused(405, "method_not_allowed");
    };
    let names = async || {
        let read = metrics(&server).await;
        read.into_keys().collect::<BTreeSet<_>>()
    };
    let before = names().await;
    // Ten thousand and more in all.
    for seed in 1..=1700 {
        round(seed).await;
    }
    let after = names().await;
    assert_eq!(
        after.difference(&before).collect::<Vec<_>>(),
        Vec::<&Series>::new()
    );
    assert_eq!(after, before);
    let shown: BTreeSet<&str> = after
        .iter()
        .filter_map(|series| series.labels.get("route"))
        .map(String::as_str)
        .collect();
    let known: BTreeSet<&str> = ROUTES
        .iter()
        .map(|route| route.path)
        .chain(["none", "own"])
        .collect();
    assert_eq!(shown, known);
}

#[tokio::test]
async fn an_open_breaker_is_a_two_and_after_its_pause_a_one() {
    let mut config = config();
    config.chain.rpc = Some(Upstream::dead().await);
    let server = TestServer::start(config).await;
    let state = async || metric(&server, "r3mes_breaker_state", &[("upstream", "chain")]).await;
    assert_eq!(state().await, 0.0);
    for _ in 0..5 {
        server.clock.advance(Duration::from_secs(2));
        server
            .anybody()
            .get("/chain/status")
            .await
            .refused(502, "upstream_bad_response");
    }
    assert_eq!(state().await, 2.0);
    let opened = [("upstream", "chain"), ("to", "open")];
    assert_eq!(
        metric(&server, "r3mes_breaker_transitions_total", &opened).await,
        1.0
    );
    server.clock.advance(Duration::from_secs(67));
    assert_eq!(state().await, 1.0);
}

#[tokio::test]
async fn caches_count_hits_misses_and_stale_answers() {
    let server = TestServer::start(config()).await;
    for _ in 0..4 {
        server.anybody().get("/network/stats").await.expect(200);
    }
    let read = metrics(&server).await;
    let totals = |result| {
        read[&Series::new(
            "r3mes_cache_requests_total",
            &[("cache", "totals"), ("result", result)],
        )]
    };
    assert_eq!(
        (totals("miss"), totals("hit"), totals("stale")),
        (1.0, 3.0, 0.0)
    );
}

#[tokio::test]
async fn refusals_by_a_rate_are_counted_by_class() {
    let mut config = config();
    let one = Rate {
        count: NonZeroU32::MIN,
        per: Duration::from_secs(60),
    };
    config.rates.set(RateClass::Read, Some(one));
    config.rates.set(RateClass::Failures, Some(one));
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    caller.get("/network/stats").await.expect(200);
    for _ in 0..3 {
        caller
            .get("/network/stats")
            .await
            .refused(429, "rate_limited");
    }
    for code in [
        (401, "invalid_api_key"),
        (429, "rate_limited"),
        (429, "rate_limited"),
    ] {
        let key = PlainKey::generate().unwrap();
        let refused = server
            .with_key(key.reveal())
            .post("/users", &Value::Null)
            .await;
        refused.refused(code.0, code.1);
    }
    let read = metrics(&server).await;
    let limited = |class| read[&Series::new("r3mes_rate_limited_total", &[("class", class)])];
    for class in RateClass::ALL {
        let expected = match class {
            RateClass::Read => 3.0,
            RateClass::Failures => 2.0,
            _ => 0.0,
        };
        assert_eq!(limited(class.as_str()), expected, "{}", class.as_str());
    }
    assert_eq!(read[&Series::new("r3mes_auth_failures_total", &[])], 1.0);
    // The other two keys were refused before they were looked up.
    assert_eq!(read[&Series::new("r3mes_key_lookups_total", &[])], 1.0);
    let held = |class| read[&Series::new("r3mes_rate_limiter_entries", &[("class", class)])];
    assert_eq!((held("failures"), held("chat")), (1.0, 0.0));
}

/// Words of a script: an answer with or without usage, or one that is cut.
fn priced_answer(seen: &Seen) -> Scripted {
    let word = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"part\"}}]}\n\n";
    let finish = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let usage = |prompt: u32, cached: u32, completion: u32| {
        format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}}}}\n\n"
        )
    };
    let usage = match &seen.body {
        body if body.contains("reported") => usage(30, 20, 5),
        body if body.contains("above") => usage(1, 0, 2_000_000),
        body if body.contains("cut") => return Scripted::whole(200, word),
        _ => String::new(),
    };
    Scripted::whole(200, format!("{word}{finish}{usage}data: [DONE]\n\n"))
}

/// A server whose tokens have a price, with what is asked of it.
async fn priced_server(gen_ai: bool) -> (Upstream, TestServer, Caller) {
    let upstream = Upstream::inference(priced_answer).await;
    let mut config = config_with_inference("openai", &upstream);
    let credit = Credits::from_micro(1_000_000);
    let mut price = Price::per_request(Credits::ZERO);
    (price.prompt, price.cached_prompt, price.completion) = (credit, credit, credit);
    config.chat.price = price;
    config.chat.max_output_tokens = Some(1_000);
    config.metrics.gen_ai = gen_ai;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 5).await;
    (upstream, server, caller)
}

#[tokio::test]
async fn tokens_are_counted_by_kind_and_what_was_never_reported_is_left_out() {
    let (_upstream, server, caller) = priced_server(false).await;
    let tokens = async || {
        let kinds = ["prompt", "cached", "completion"];
        let read = metrics(&server).await;
        kinds.map(|kind| {
            let labels = [("adapter", "general"), ("kind", kind)];
            read.get(&Series::new("r3mes_tokens_total", &labels))
                .copied()
        })
    };
    let estimated = async || {
        let read = metrics(&server).await;
        ["cut", "client_left", "no_usage"]
            .map(|cause| read[&Series::new("r3mes_charges_estimated_total", &[("cause", cause)])])
    };
    assert_eq!(tokens().await, [None; 3]);
    assert_eq!(estimated().await, [0.0; 3]);
    let above = "r3mes_credits_above_hold_total";
    assert_eq!(metric(&server, above, &[]).await, 0.0);
    let ask = async |message: &str| {
        let (_, _, body) = caller.chat(message).await;
        let _ = whole(body).await;
    };
    ask("not").await;
    // A quarter of six bytes, and one for the word.
    assert_eq!(tokens().await, [None, None, Some(1.0)]);
    assert_eq!(estimated().await, [0.0, 0.0, 1.0]);
    ask("reported").await;
    assert_eq!(tokens().await, [Some(30.0), Some(20.0), Some(6.0)]);
    ask("cut").await;
    assert_eq!(tokens().await, [Some(30.0), Some(20.0), Some(7.0)]);
    assert_eq!(estimated().await, [1.0, 0.0, 1.0]);
    // 2,000,001 micro-credits, of which the bytes of the message and 512, and 1,000 for the answer were held.
    ask("above").await;
    let not_charged = (2_000_001.0 - 5.0 - 512.0 - 1_000.0) / 1e6;
    assert_eq!(metric(&server, above, &[]).await, not_charged);
    // Nothing of OpenTelemetry's.
    let page = server.anybody().get("/metrics").await;
    assert!(!String::from_utf8_lossy(&page.body).contains("gen_ai"));
}

#[tokio::test]
async fn the_names_of_opentelemetry_are_there_where_they_are_wanted() {
    let (_upstream, server, caller) = priced_server(true).await;
    for message in ["reported", "not", "cut"] {
        let (_, _, body) = caller.chat(message).await;
        let _ = whole(body).await;
    }
    let labels = |more: &[(&'static str, &'static str)]| {
        let mut labels = vec![
            ("gen_ai_operation_name", "chat"),
            ("gen_ai_provider_name", "r3mes-edge"),
            ("gen_ai_request_model", "general"),
        ];
        labels.extend(more);
        labels
    };
    let read = eventually("all are counted", async || {
        let read = metrics(&server).await;
        let cut = labels(&[("error_type", "cut")]);
        read.contains_key(&Series::new(
            "gen_ai_server_request_duration_seconds_count",
            &cut,
        ))
        .then_some(read)
    })
    .await;
    let value = |name: &str, more: &[(&'static str, &'static str)]| {
        read.get(&Series::new(name, &labels(more))).copied()
    };
    // Of the one answer that had a usage.
    for (kind, sum) in [("input", 30.0), ("output", 5.0)] {
        let kind = [("gen_ai_token_type", kind)];
        assert_eq!(value("gen_ai_client_token_usage_sum", &kind), Some(sum));
        assert_eq!(value("gen_ai_client_token_usage_count", &kind), Some(1.0));
        let bucket = [kind[0], ("le", "67108864.0")];
        assert_eq!(
            value("gen_ai_client_token_usage_bucket", &bucket),
            Some(1.0)
        );
    }
    let durations = "gen_ai_server_request_duration_seconds_count";
    assert_eq!(value(durations, &[]), Some(2.0));
    assert_eq!(value(durations, &[("error_type", "cut")]), Some(1.0));
    let first = "gen_ai_server_time_to_first_token_seconds_count";
    assert_eq!(value(first, &[]), Some(3.0));
}
