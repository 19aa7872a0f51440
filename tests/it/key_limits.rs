//! The limits of a key: models, credits in a period, paid requests at a time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::config::RatesConfig;
use r3mes_edge::limits::RateClass;
use r3mes_edge::model::{Credits, Period, Timestamp};
use serde_json::{Value, json};

use crate::chat::{held_inference, whole};
use crate::login::{challenge, signed};
use crate::simulation::Random;
use crate::support::{
    Answer, Caller, Process, Scripted, Seen, TestServer, Upstream, W1, W2, edge_output, eventually,
    next_text,
};

/// Answers with as many tokens as the message says.
fn answer(seen: &Seen) -> Scripted {
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    let messages = body["messages"].as_array().unwrap();
    let text = messages.last().unwrap()["content"].as_str().unwrap();
    let usage = json!({ "prompt_tokens": 1, "completion_tokens": text.parse().unwrap_or(1) });
    if body["stream"] != true {
        let message = json!({ "role": "assistant", "content": "part" });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        let whole = json!({ "choices": [choice], "usage": usage });
        return Scripted::whole(200, whole.to_string());
    }
    let (scripted, frames) = Scripted::held();
    frames.send_word("part");
    let usage = json!({ "choices": [], "usage": usage });
    frames.send(format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\ndata: {usage}\n\ndata: [DONE]\n\n"
    ));
    scripted
}

/// Two adapters, one of them with an alias; a token of an answer costs a micro-credit.
fn config(upstream: &Upstream) -> Config {
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndiscover = false\n[chat]\nprice = {{ completion = 1 }}\nmax_output_tokens = 50\n\
         [[inference]]\nname = \"node\"\nurl = \"{}\"\nmodel = \"tiny\"\nadapters = [\"general\", \"coding\"]\n\
         [adapters.coding]\naliases = [\"gpt-4o-mini\"]\nkeywords = [\"program\"]",
        upstream.url()
    );
    let mut config = Config::read(&text, []).unwrap();
    config.rates = RatesConfig::off();
    config.limits.per_address = 10_000;
    config
}

async fn serve() -> (Upstream, TestServer) {
    let upstream = Upstream::inference(answer).await;
    let server = TestServer::start(config(&upstream)).await;
    (upstream, server)
}

/// Makes a key of a wallet with credits; `limits` are further members of its request.
async fn limited(server: &TestServer, scopes: &[&str], limits: Value) -> (Caller, Value) {
    server.payer(W1, 5).await;
    let mut body = json!({ "wallet_address": W1, "scopes": scopes });
    let members = limits.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    let made = server.admin().post("/api/keys", &body).await.expect(201);
    (server.with_key(made["api_key"].as_str().unwrap()), made)
}

/// The key that another one makes.
async fn child(server: &TestServer, of: &Caller, body: Value) -> Caller {
    let made = of.post("/api/keys", &body).await.expect(201);
    server.with_key(made["api_key"].as_str().unwrap())
}

/// Asks for an answer of so many tokens, of `most`.
async fn ask(caller: &Caller, tokens: u64, most: u64) -> Answer {
    let messages = json!([{ "role": "user", "content": tokens.to_string() }]);
    let body = json!({ "messages": messages, "max_tokens": most });
    caller.post("/v1/chat/completions", &body).await
}

fn micro(credits: &Value) -> i64 {
    let (amount, is_exact) = Credits::from_float(credits.as_f64().unwrap()).unwrap();
    assert!(is_exact, "{credits}");
    amount.micro()
}

async fn own_key(caller: &Caller) -> Value {
    caller.get("/auth/me").await.expect(200)["key"].clone()
}

#[tokio::test]
async fn every_invalid_limit_is_named() {
    let (_upstream, server) = serve().await;
    let many: Vec<_> = (0..65).map(|_| "general").collect();
    for (limits, pointer, words) in [
        (json!({"models":[]}), "/models", "1 to 64 names"),
        (json!({"models":many}), "/models", "1 to 64 names"),
        (json!({"models":"general"}), "/models", "models"),
        (
            json!({"models":["general","gpt-5"]}),
            "/models/1",
            "\"gpt-5\"; known are coding, general, gpt-4o-mini",
        ),
        (json!({"models":[1]}), "/models/0", "string"),
        (
            json!({"credit_limit":5}),
            "/credit_period",
            "day, week, month or total",
        ),
        (
            json!({"credit_period":"day"}),
            "/credit_limit",
            "is required",
        ),
        (
            json!({"credit_limit":5,"credit_period":"hour"}),
            "/credit_period",
            "`day`, `week`, `month`, `total`",
        ),
        (
            json!({"credit_limit":0,"credit_period":"day"}),
            "/credit_limit",
            "more than 0",
        ),
        (
            json!({"credit_limit":-1,"credit_period":"day"}),
            "/credit_limit",
            "more than 0",
        ),
        (
            json!({"credit_limit":0.0000001,"credit_period":"day"}),
            "/credit_limit",
            "decimal",
        ),
        (
            json!({"credit_limit":"5","credit_period":"day"}),
            "/credit_limit",
            "decimal number",
        ),
        (
            json!({"max_concurrency":0}),
            "/max_concurrency",
            "from 1 to 4096",
        ),
        (
            json!({"max_concurrency":1.5}),
            "/max_concurrency",
            "from 1 to 4096",
        ),
        (
            json!({"max_concurrency":2,"scopes":["chat","admin"]}),
            "/scopes",
            "admin",
        ),
    ] {
        let mut body = json!({ "wallet_address": W1 });
        let members = limits.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(members);
        let refused = server.admin().post("/api/keys", &body).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{body}: {detail}");
    }
    let none = json!({ "wallet_address": W1, "models": null, "credit_limit": null, "credit_period": null, "max_concurrency": null });
    let made = server.admin().post("/api/keys", &none).await.expect(201);
    let shown = ["limits", "spent", "period_ends_at"].map(|name| made[name].clone());
    assert_eq!(shown, [Value::Null, Value::Null, Value::Null]);
}

#[tokio::test]
async fn limits_are_shown_with_what_was_spent_in_the_period_and_when_that_ends() {
    let (_upstream, server) = serve().await;
    let noon = server.wait_for_noon();
    let tomorrow = noon.day().plus(Duration::from_secs(86_400)).to_string();
    let limits = json!({ "models": ["gpt-4o-mini", "general"], "credit_limit": 999999999.999999, "credit_period": "day", "max_concurrency": 2 });
    let (caller, made) = limited(&server, &["chat", "read", "keys"], limits).await;
    assert_eq!(
        made["limits"],
        json!({ "models": ["coding", "general"], "credit_limit": 999999999.999999, "credit_period": "day", "max_concurrency": 2 })
    );
    ask(&caller, 7, 20).await.expect(200);
    let id = made["id"].as_str().unwrap();
    let (one, all) = (format!("/api/keys/{id}"), "/api/keys");
    // Without an exponent.
    let text = caller.get(&one).await.body;
    let text = String::from_utf8_lossy(&text).into_owned();
    let exact = "\"credit_limit\":999999999.999999,\"credit_period\":\"day\",\"max_concurrency\":2},\"spent\":0.000007,";
    assert!(text.contains(exact), "{text}");
    let shown = async || {
        let me = own_key(&caller).await;
        let one = server.admin().get(&one).await.expect(200);
        let listed = caller.get(all).await.expect(200);
        let found = listed["keys"].as_array().unwrap().iter();
        let listed = found.clone().find(|key| key["id"] == id).unwrap().clone();
        let unlimited = found.clone().filter(|key| key["limits"].is_null());
        assert!(
            unlimited
                .clone()
                .all(|key| key["spent"].is_null() && key["period_ends_at"].is_null())
        );
        assert_eq!(unlimited.count(), 1);
        [me, one, listed]
    };
    for key in shown().await {
        assert_eq!(key["limits"], made["limits"]);
        assert_eq!(micro(&key["spent"]), 7, "{key}");
        assert_eq!(key["period_ends_at"], tomorrow);
    }
    server.clock.advance(Duration::from_secs(12 * 3600));
    for key in shown().await {
        assert_eq!(micro(&key["spent"]), 0, "{key}");
        assert_ne!(key["period_ends_at"], tomorrow);
    }
    ask(&caller, 3, 20).await.expect(200);
    for key in shown().await {
        assert_eq!(micro(&key["spent"]), 3, "{key}");
    }
    let revoked = server.admin().delete(&one).await.expect(200);
    assert_eq!(micro(&revoked["spent"]), 3);
}

#[tokio::test]
async fn a_key_with_limits_passes_on_exactly_its_own_and_they_share_what_is_spent() {
    let (_upstream, server) = serve().await;
    let limits = json!({ "models": ["general", "coding"], "credit_limit": 0.0001, "credit_period": "month" });
    let (caller, made) = limited(&server, &["chat", "read", "keys"], limits).await;
    for (body, pointer) in [
        (json!({"models":["general"]}), "/models"),
        (json!({"models":["general","coding","gpt-5"]}), "/models"),
        (json!({"models":[]}), "/models"),
        (json!({"credit_limit":0.00009}), "/credit_limit"),
        (
            json!({"credit_limit":0.000101,"credit_period":"month"}),
            "/credit_limit",
        ),
        (json!({"credit_period":"total"}), "/credit_period"),
        (json!({"max_concurrency":1}), "/max_concurrency"),
    ] {
        let refused = caller.post("/api/keys", &body).await;
        let refused = refused.refused(403, "forbidden");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
    }
    let mut keys = vec![caller.clone()];
    for same in [
        json!({ "scopes": ["chat", "read", "keys"] }),
        json!({ "models": ["gpt-4o-mini", "general", "coding"] }),
        json!({ "credit_limit": 0.0001 }),
        json!({ "credit_limit": 0.0001, "credit_period": "month", "models": null }),
    ] {
        keys.push(child(&server, &caller, same).await);
    }
    // And on: a key that one of them made.
    keys.push(child(&server, &keys[1], json!({})).await);
    for (at, key) in keys.iter().enumerate() {
        ask(key, 10 + at as u64, 20).await.expect(200);
    }
    let spent = 10 + 11 + 12 + 13 + 14 + 15;
    for key in &keys {
        let own = own_key(key).await;
        assert_eq!(
            (&own["limits"], micro(&own["spent"])),
            (&made["limits"], spent)
        );
        let refused = ask(key, 1, 26).await.refused(402, "key_limit_reached");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.ends_with("; max_tokens 25 would fit"), "{detail}");
    }
    ask(&keys[3], 25, 25).await.expect(200);
    ask(&keys[5], 1, 1).await.refused(402, "key_limit_reached");
}

#[tokio::test]
async fn a_key_without_limits_sets_any_and_so_does_the_token_of_a_login() {
    let (_upstream, server) = serve().await;
    let free = server.caller(W1, &["chat", "read", "keys"]).await;
    let message = challenge(&server).await;
    let token = server
        .anybody()
        .post("/login", &signed(&message))
        .await
        .expect(200);
    let owner = server.with_key(token["access_token"].as_str().unwrap());
    for caller in [free, owner] {
        assert_eq!(own_key(&caller).await["limits"], Value::Null);
        for period in ["day", "week", "month", "total"] {
            let body = json!({ "credit_limit": 2.5, "credit_period": period, "models": ["coding"], "max_concurrency": 1 });
            let made = caller.post("/api/keys", &body).await.expect(201);
            assert_eq!(made["limits"]["credit_period"], period);
            assert_eq!(made["period_ends_at"].is_null(), period == "total");
        }
    }
}

#[tokio::test]
async fn rotation_keeps_the_limits_and_what_was_spent_and_a_limited_key_rotates_only_its_own_kind()
{
    let (_upstream, server) = serve().await;
    let scopes = ["chat", "read", "keys"];
    let limits = json!({ "credit_limit": 0.0001, "credit_period": "total" });
    let (caller, made) = limited(&server, &scopes, limits.clone()).await;
    ask(&caller, 50, 50).await.expect(200);
    ask(&caller, 5, 50).await.expect(200);
    let rotate = async |of: &Value, by: &Caller| {
        let path = format!("/api/keys/{}/rotate", of["id"].as_str().unwrap());
        by.post(&path, &json!({ "grace_seconds": 3600 })).await
    };
    // Keys of the same wallet: one without limits, one with equal limits of its own.
    let unlimited = server
        .admin()
        .post("/api/keys", &json!({ "wallet_address": W1 }))
        .await
        .expect(201);
    let (_, equal) = limited(&server, &scopes, limits).await;
    for other in [&unlimited, &equal] {
        rotate(other, &caller).await.refused(403, "forbidden");
    }
    for by in [&caller, &server.admin()] {
        let new = rotate(&made, by).await.expect(201);
        assert_eq!(
            (&new["limits"], micro(&new["spent"])),
            (&made["limits"], 55)
        );
        let new = server.with_key(new["api_key"].as_str().unwrap());
        assert_eq!(micro(&own_key(&new).await["spent"]), 55);
        // The old one, in its grace, and the new one share what is left.
        ask(&new, 1, 46).await.refused(402, "key_limit_reached");
    }
    ask(&caller, 45, 45).await.expect(200);
}

#[tokio::test]
async fn a_key_uses_only_its_models_by_any_of_their_names_and_is_refused_before_anything_is_done() {
    let (upstream, server) = serve().await;
    let scopes = ["chat", "read"];
    let (coding, _) = limited(&server, &scopes, json!({ "models": ["gpt-4o-mini"] })).await;
    let (general, _) = limited(&server, &scopes, json!({ "models": ["general"] })).await;
    let names = async |caller: &Caller| {
        let models = caller.get("/v1/models").await.expect(200);
        let ids = models["data"].as_array().unwrap().iter();
        ids.map(|model| model["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&coding).await, ["coding", "gpt-4o-mini"]);
    assert_eq!(names(&general).await, ["general"]);
    coding.get("/v1/models/coding").await.expect(200);
    coding
        .get("/v1/models/general")
        .await
        .refused(403, "model_not_allowed");
    let unknown = general
        .get("/v1/models/gpt-5")
        .await
        .refused(404, "model_not_found");
    assert!(
        !unknown["detail"].as_str().unwrap().contains("coding"),
        "{unknown}"
    );

    let completion = |model: Option<&str>| {
        let messages = json!([{ "role": "user", "content": "1" }]);
        (
            "/v1/chat/completions",
            json!({ "model": model, "messages": messages }),
            "",
        )
    };
    let chat = |message: &str, adapter: Option<&str>| {
        (
            "/chat",
            json!({ "message": message, "adapter": adapter }),
            "",
        )
    };
    let header = |name: &'static str| ("/chat", json!({ "message": "1" }), name);
    upstream.forget();
    for (caller, (path, body, adapter), allowed) in [
        (&coding, completion(None), false),
        (&coding, completion(Some("general")), false),
        (&coding, completion(Some("coding")), true),
        (&coding, completion(Some("gpt-4o-mini")), true),
        (&general, completion(None), true),
        (&general, completion(Some("gpt-4o-mini")), false),
        (&coding, chat("1", None), false),
        (&coding, chat("a program", None), true),
        (&coding, chat("1", Some("coding")), true),
        (&coding, header("coding"), true),
        (&coding, header("general"), false),
        (&general, chat("1", None), true),
        // A keyword does not choose what the key may not use.
        (&general, chat("a program", None), true),
        (&general, chat("1", Some("gpt-4o-mini")), false),
    ] {
        let what = format!("{path} {body} {adapter}");
        let headers: &[_] = if adapter.is_empty() {
            &[]
        } else {
            &[("x-adapter", adapter)]
        };
        let before = server.balance(W1).await;
        let answered = caller
            .send(Method::POST, path, headers, body.to_string())
            .await;
        match allowed {
            true => assert_eq!(answered.status, 200, "{what}: {answered:?}"),
            false => {
                answered.refused(403, "model_not_allowed");
                assert_eq!(server.balance(W1).await, before);
            }
        }
    }
    assert_eq!(upstream.seen("/v1/chat").len(), 8);
}

#[tokio::test]
async fn a_limit_that_is_reached_is_402_with_the_next_period_and_what_would_fit() {
    let (upstream, server) = serve().await;
    server.wait_for_noon();
    for (period, days) in [("day", 1), ("total", 0)] {
        let limits = json!({ "credit_limit": 0.00002, "credit_period": period });
        let (caller, _) = limited(&server, &["chat", "read"], limits).await;
        ask(&caller, 5, 20).await.expect(200);
        upstream.forget();
        let refused = ask(&caller, 5, 20).await.refused(402, "key_limit_reached");
        assert_eq!(refused["error"]["type"], "insufficient_quota");
        let next = server.clock.now().day().plus(Duration::from_secs(86_400));
        let until = if days == 1 {
            format!(" until {next}")
        } else {
            String::new()
        };
        assert_eq!(
            refused["detail"],
            format!(
                "this request may cost up to 0.00002 credits, 0.000015 are left by the limit of the key{until}; max_tokens 15 would fit"
            )
        );
        let chat = caller.post("/chat", &json!({ "message": "1" })).await;
        chat.refused(402, "key_limit_reached");
        assert!(upstream.seen("/v1/chat").is_empty());
        ask(&caller, 15, 15).await.expect(200);
        ask(&caller, 1, 1).await.refused(402, "key_limit_reached");
        server.clock.advance(Duration::from_secs(86_400));
        let tomorrow = ask(&caller, 20, 20).await;
        assert_eq!(tomorrow.status, if days == 1 { 200 } else { 402 });
    }
    // What the wallet lacks is said as for any key.
    let limits = json!({ "wallet_address": W2, "credit_limit": 1, "credit_period": "day" });
    let made = server.admin().post("/api/keys", &limits).await.expect(201);
    let poor = server.with_key(made["api_key"].as_str().unwrap());
    ask(&poor, 1, 1).await.refused(402, "insufficient_credits");
}

#[tokio::test]
async fn what_was_not_charged_is_left_so_that_the_last_micro_credit_can_be_spent() {
    let (_upstream, server) = serve().await;
    let limits = json!({ "credit_limit": 0.0001, "credit_period": "day", "max_concurrency": 1 });
    let (caller, _) = limited(&server, &["chat", "read", "keys"], limits).await;
    server.wait_for_noon();
    let keys = [caller.clone(), child(&server, &caller, json!({})).await];
    // Each next request is sent when the end of the one before is there: 18 times 10 held and 5 charged.
    for at in 0..19 {
        ask(&keys[at % 2], 5, 10).await.expect(200);
    }
    let refused = ask(&caller, 5, 10).await.refused(402, "key_limit_reached");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .ends_with("max_tokens 5 would fit")
    );
    for _ in 0..5 {
        ask(&caller, 1, 1).await.expect(200);
    }
    ask(&caller, 1, 1).await.refused(402, "key_limit_reached");
    assert_eq!(micro(&own_key(&caller).await["spent"]), 100);
}

/// The cost in the usage event of a stream.
fn cost_of(events: &str) -> i64 {
    let mut costs = events.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
        let cost = &event["usage"]["cost"];
        cost.is_number().then(|| micro(cost))
    });
    costs.next_back().unwrap()
}

/// Asks for a whole answer or a stream; what it cost, unless the limit was reached.
async fn spend(caller: &Caller, tokens: u64, most: u64, stream: bool) -> Option<i64> {
    let messages = json!([{ "role": "user", "content": tokens.to_string() }]);
    let body = json!({ "messages": messages, "max_tokens": most, "stream": stream, "stream_options": { "include_usage": stream } });
    let mut body = body;
    if !stream {
        body.as_object_mut().unwrap().remove("stream_options");
    }
    let path = "/v1/chat/completions";
    let (status, headers, answer) = caller.open(Method::POST, path, &[], body.to_string()).await;
    let text = whole(answer).await.unwrap();
    match status {
        200 if stream => Some(cost_of(&text)),
        200 => {
            let charged = headers["x-credits-charged"].to_str().unwrap();
            Some(Credits::parse(charged).unwrap().micro())
        }
        _ => {
            assert_eq!(status, 402, "{text}");
            assert!(text.contains("key_limit_reached"), "{text}");
            None
        }
    }
}

/// What each period of the limits counts.
fn periods(server: &TestServer) -> Vec<(i64, i64)> {
    let c = rusqlite::Connection::open(server.database()).unwrap();
    let mut rows = c
        .prepare("SELECT period, spent FROM spending ORDER BY period")
        .unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

const LIMIT: i64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_never_exceeded_by_a_micro_credit_by_three_keys_made_from_one_nor_across_periods()
 {
    let random: u64 = std::process::id().into();
    println!("seed {random}");
    for (number, period) in [Period::Day, Period::Week, Period::Month, Period::Total]
        .into_iter()
        .enumerate()
    {
        let (_upstream, server) = serve().await;
        let server = Arc::new(server);
        let limits = json!({ "credit_limit": 0.0003, "credit_period": period });
        let (first, _) = limited(&server, &["chat", "read", "keys"], limits).await;
        let keys = [
            first.clone(),
            child(&server, &first, json!({})).await,
            child(&server, &first, json!({})).await,
        ];
        let before = server.balance(W1).await.micro();
        let now = server.clock.now();
        let next = period
            .end(now)
            .unwrap_or(now.day().plus(Duration::from_secs(86_400)));
        let minute = next.minus(Duration::from_secs(60)).millis() - now.millis();
        server
            .clock
            .advance(Duration::from_millis(minute.try_into().unwrap()));
        let asked = Arc::new(AtomicUsize::new(0));
        let tasks = (0..12_u64).map(|task| {
            let (server, asked, caller) = (
                Arc::clone(&server),
                Arc::clone(&asked),
                keys[task as usize % 3].clone(),
            );
            let mut random = Random(random ^ (number as u64) << 32 ^ task << 40);
            tokio::spawn(async move {
                let mut costs = Vec::new();
                for _ in 0..25 {
                    // In the middle of it the next period begins.
                    if asked.fetch_add(1, Ordering::SeqCst) == 150 {
                        server.clock.advance(Duration::from_secs(120));
                    }
                    let most = 1 + random.below(40);
                    let tokens = 1 + random.below(most);
                    let began = server.clock.now();
                    let cost = spend(&caller, tokens, most, random.below(2) == 0).await;
                    let ended = server.clock.now();
                    if let Some(cost) = cost {
                        assert!(cost <= most as i64);
                        costs.push((began, ended, cost));
                    }
                }
                costs
            })
        });
        let mut costs = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            costs.extend(task.await.unwrap());
        }
        let rows = periods(&server);
        let has_next = period != Period::Total;
        assert_eq!(
            rows.len(),
            if has_next { 2 } else { 1 },
            "{period:?}: {rows:?}"
        );
        assert!(
            rows.iter().all(|(_, spent)| *spent <= LIMIT),
            "{period:?}: {rows:?}"
        );
        let total: i64 = rows.iter().map(|(_, spent)| spent).sum();
        assert_eq!(total, costs.iter().map(|(.., cost)| cost).sum::<i64>());
        assert_eq!(total, before - server.balance(W1).await.micro());
        // A request that began and ended in one period is in its row.
        for (at, spent) in &rows {
            let starts = |time: &Timestamp| period.start(*time).millis() == *at;
            let inside = costs
                .iter()
                .filter(|(began, ended, _)| starts(began) && starts(ended));
            assert!(inside.map(|(.., cost)| cost).sum::<i64>() <= *spent);
        }
        // The rest can be spent to the end, and no more.
        let mut rest = 0;
        while spend(&keys[rest as usize % 3], 1, 1, rest % 2 == 0)
            .await
            .is_some()
        {
            rest += 1;
        }
        let (_, last) = rows.last().unwrap();
        assert_eq!(last + rest, LIMIT, "{period:?}");
        for key in &keys {
            assert_eq!(micro(&own_key(key).await["spent"]), LIMIT);
        }
        assert_eq!(periods(&server).last().unwrap().1, LIMIT);
        server.assert_ledger_adds_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_counts_in_the_period_in_which_it_began() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config(&upstream)).await;
    let limits = json!({ "credit_limit": 0.00005, "credit_period": "day" });
    let (caller, _) = limited(&server, &["chat", "read"], limits).await;
    server.wait_for_noon();
    let asking = caller.clone();
    let asking = tokio::spawn(async move { asking.chat("over midnight").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("x");
    let (status, _, mut body) = asking.await.unwrap();
    assert_eq!(status, 200);
    next_text(&mut body).await.unwrap().unwrap();
    // What is held is not left to others.
    let refused = caller.post("/chat", &json!({ "message": "2" })).await;
    refused.refused(402, "key_limit_reached");
    let yesterday = Period::Day.start(server.clock.now()).millis();
    server.clock.advance(Duration::from_secs(86_400));
    let next = caller.clone();
    let next = tokio::spawn(async move { next.chat("3").await });
    let others = held.recv().await.unwrap();
    others.send_word("y");
    let (status, _, second) = next.await.unwrap();
    assert_eq!(status, 200);
    frames.send_done();
    whole(body).await.unwrap();
    let rows = periods(&server);
    assert_eq!(rows[0].0, yesterday);
    assert!(rows.len() == 1 && rows[0].1 > 0, "{rows:?}");
    drop((second, others));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_and_deleted_is_charged_for_what_runs() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config(&upstream)).await;
    let limits = json!({ "credit_limit": 1, "credit_period": "total" });
    let (caller, made) = limited(&server, &["chat", "read"], limits).await;
    let before = server.balance(W1).await.micro();
    let asking = tokio::spawn(async move { caller.chat("go on").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("x");
    let (_, _, mut body) = asking.await.unwrap();
    next_text(&mut body).await.unwrap().unwrap();
    let id = made["id"].as_str().unwrap();
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .await
        .expect(200);
    let later = server.clock.now().plus(Duration::from_secs(31 * 86_400));
    assert!(server.store.purge(later).await.unwrap() >= 1);
    assert_eq!(server.store.key(id.to_owned()).await.unwrap(), None);
    frames.send_done();
    whole(body).await.unwrap();
    let charged = before - server.balance(W1).await.micro();
    assert!(charged > 0);
    assert_eq!(periods(&server), [(0, charged)]);
    let ledger = server
        .admin()
        .get(&format!("/users/{W1}/ledger?limit=1"))
        .await
        .expect(200);
    assert_eq!(ledger["entries"][0]["detail"]["key_id"], id);
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paid_requests_of_keys_made_from_one_are_counted_together_until_each_has_ended() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config(&upstream)).await;
    let scopes = ["chat", "read", "keys"];
    let (caller, made) = limited(&server, &scopes, json!({ "max_concurrency": 2 })).await;
    let keys = [
        caller.clone(),
        child(&server, &caller, json!({})).await,
        child(&server, &caller, json!({})).await,
    ];
    let mut running = Vec::new();
    for key in &keys[..2] {
        let key = key.clone();
        let asking = tokio::spawn(async move { key.chat("one").await });
        let frames = held.recv().await.unwrap();
        frames.send_word("x");
        let (status, _, mut body) = asking.await.unwrap();
        assert_eq!(status, 200);
        next_text(&mut body).await.unwrap().unwrap();
        running.push((frames, body));
    }
    let rotate = format!("/api/keys/{}/rotate", made["id"].as_str().unwrap());
    let rotated = caller
        .post(&rotate, &json!({ "grace_seconds": 60 }))
        .await
        .expect(201);
    let rotated = server.with_key(rotated["api_key"].as_str().unwrap());
    for key in keys.iter().chain([&rotated]) {
        let refused = key.post("/chat", &json!({ "message": "three" })).await;
        assert_eq!(refused.header("retry-after"), "1");
        let refused = refused.refused(429, "concurrency_limited");
        assert_eq!(refused["error"]["type"], "rate_limit_error");
        ask(key, 1, 1).await.refused(429, "concurrency_limited");
        // Only what is paid is counted.
        key.get("/v1/models").await.expect(200);
        own_key(key).await;
    }
    // Other limits, equal or none, are counted for themselves.
    let (equal, _) = limited(&server, &scopes, json!({ "max_concurrency": 2 })).await;
    for other in [equal, server.payer(W2, 5).await] {
        let asking = tokio::spawn(async move { other.chat("other").await });
        let frames = held.recv().await.unwrap();
        frames.send_word("x");
        frames.send_done();
        assert_eq!(asking.await.unwrap().0, 200);
    }
    // One ends well; of the other the client leaves.
    let (frames, body) = running.pop().unwrap();
    frames.send_done();
    whole(body).await.unwrap();
    let key = keys[2].clone();
    let asking = tokio::spawn(async move { key.chat("three").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("x");
    let (status, _, third) = asking.await.unwrap();
    assert_eq!(status, 200);
    keys[0]
        .post("/chat", &json!({ "message": "four" }))
        .await
        .refused(429, "concurrency_limited");
    let (left, body) = running.pop().unwrap();
    drop(body);
    left.reader_left().await;
    // A message that is refused once there is a place for it.
    eventually("the place of the client that left", async || {
        let answered = keys[1].post("/chat", &json!({ "message": "" })).await;
        (answered.status == 400).then_some(())
    })
    .await;
    drop((frames, third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_each_end_is_never_limited_by_its_own_request() {
    let (_upstream, server) = serve().await;
    let limits = json!({ "max_concurrency": 1, "credit_limit": 0.1, "credit_period": "day" });
    let (caller, _) = limited(&server, &["chat", "read"], limits).await;
    for at in 0..150_u64 {
        assert!(spend(&caller, 1 + at % 3, 3, at % 2 == 0).await.is_some());
        let nothing = json!({ "message": "" });
        caller
            .post("/chat", &nothing)
            .await
            .refused(400, "invalid_request");
    }
    let limits = json!({ "max_concurrency": 1, "credit_limit": 0.0001, "credit_period": "day" });
    let (caller, _) = limited(&server, &["chat", "read"], limits).await;
    ask(&caller, 50, 50).await.expect(200);
    ask(&caller, 49, 49).await.expect(200);
    for _ in 0..150 {
        ask(&caller, 2, 2).await.refused(402, "key_limit_reached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_finds_no_place_does_not_count_against_the_rate_of_its_key() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config(&upstream);
    let rate = RatesConfig::default().get(RateClass::Chat);
    config.rates.set(RateClass::Chat, rate);
    let server = TestServer::start(config).await;
    let (caller, _) = limited(&server, &["chat"], json!({ "max_concurrency": 1 })).await;
    // The rate of an address is counted before the key is known.
    let at = |host: u8| {
        Caller::at(
            Ipv4Addr::new(127, 0, 0, host).into(),
            &server.base,
            Some(caller.key()),
        )
    };
    let first = at(2);
    let asking = tokio::spawn(async move { first.chat("one").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("x");
    let (_, _, body) = asking.await.unwrap();
    let message = json!({ "message": "" });
    for host in [3, 4] {
        for _ in 0..9 {
            at(host)
                .post("/chat", &message)
                .await
                .refused(429, "concurrency_limited");
        }
    }
    frames.send_done();
    whole(body).await.unwrap();
    for _ in 0..9 {
        at(5)
            .post("/chat", &message)
            .await
            .refused(400, "invalid_request");
    }
    at(6)
        .post("/chat", &message)
        .await
        .refused(429, "rate_limited");
}

#[test]
fn the_command_line_makes_and_lists_keys_with_limits_and_the_audit_trail_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let create = ["keys", "create", "--wallet", W1];
    let run = |arguments: &[&str]| {
        let (code, answer, error) = edge_output(&database, arguments);
        (code, answer + &error)
    };
    let with = |more: &[&str]| run(&[&create, more].concat());
    for (more, words) in [
        (&["--credit-limit", "5"][..], "--credit-period"),
        (&["--credit-period", "day"], "--credit-limit"),
        (
            &["--credit-limit", "5", "--credit-period", "hour"],
            "day, week, month or total",
        ),
        (
            &["--credit-limit", "five", "--credit-period", "day"],
            "decimal number",
        ),
    ] {
        let (code, text) = with(more);
        assert!(code == 2 && text.contains(words), "{more:?}: {code} {text}");
    }
    let (code, text) = with(&["--models", "gpt-5"]);
    assert!(code != 0 && text.contains("unknown name"), "{text}");
    let limits = [
        "--models",
        "general",
        "--credit-limit",
        "5.000001",
        "--credit-period",
        "day",
        "--max-concurrency",
        "2",
    ];
    let (code, key, _) = edge_output(&database, &[&create[..], &limits].concat());
    assert!(code == 0 && key.starts_with("r3mes_"), "{key}");
    let (_, listed) = run(&["keys", "list", "--wallet", W1]);
    let shown = "credit_limit=5.000001 credit_period=day max_concurrency=2 models=general  0";
    assert!(listed.trim_end().ends_with(shown), "{listed}");
    let (_, trail) = run(&["audit", "list"]);
    let set = "limits: models general; 5.000001 credits a day; 2 requests at a time";
    assert!(trail.contains(set), "{trail}");
    assert!(!trail.contains(key.trim()));
}
