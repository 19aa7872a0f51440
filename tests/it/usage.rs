//! What was used: its sums are those of the ledger, whatever they are grouped by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use proptest::prelude::*;
use r3mes_edge::model::{Credits, Timestamp, Tokens};
use r3mes_edge::store::*;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use crate::support::{
    Answer, Process, Scripted, TestServer, Upstream, W1, W2, W3, config, config_with_inference,
    edge, wallet,
};

const DAY: Duration = Duration::from_secs(86_400);
const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);

/// A request of a wallet that was charged.
struct Paid<'a> {
    wallet: &'a str,
    key: Option<&'a str>,
    adapter: &'a str,
    micro: i64,
    tokens: [i64; 3],
    at: Timestamp,
}

async fn grant(store: &dyn Repository, to: &str, micro: i64) {
    let (amount, why) = (Credits::from_micro(micro), "test".to_owned());
    let granted = store.grant(wallet(to), amount, why, None, Actor::local(NOW), None);
    granted.await.unwrap();
}

async fn pay(store: &dyn Repository, paid: &Paid<'_>) -> Charged {
    let amount = Credits::from_micro(paid.micro);
    let request = HoldRequest {
        operation: OperationId::new(),
        wallet: wallet(paid.wallet),
        amount,
        limit: None,
    };
    let hold = store.hold(request).await.unwrap();
    let [prompt, cached, completion] = paid.tokens;
    let charge = Charge {
        amount,
        key_id: paid.key.map(str::to_owned),
        adapter: paid.adapter.to_owned(),
        tokens: Some(Tokens {
            prompt,
            cached,
            completion,
        }),
        estimated: None,
        answer: None,
    };
    store.charge(hold, charge, paid.at).await.unwrap()
}

async fn lose(store: &dyn Repository, of: &str, key: Option<&str>, adapter: &str, at: Timestamp) {
    let lost = LostRequest {
        wallet: wallet(of),
        key_id: key.map(str::to_owned),
        adapter: adapter.to_owned(),
    };
    store.count_lost(lost, at).await.unwrap();
}

const OLD: &str = "key_01K0000000000000000000000A";
const NEW: &str = "key_01K0000000000000000000000B";
const OTHER: &str = "key_01K0000000000000000000000C";
/// A name that needs quotes in CSV, and that a cursor has to encode.
const ODD: &str = "=\"odd\", név";

/// Two wallets over three days. The last day is that of `noon`.
async fn fill(server: &TestServer, noon: Timestamp) {
    let store = &*server.store;
    for (wallet, micro) in [(W1, 5_000_000), (W2, 5_000_000), (W3, 1)] {
        grant(store, wallet, micro).await;
    }
    let paid = |wallet, key, adapter, micro, tokens, days: u32| Paid {
        wallet,
        key,
        adapter,
        micro,
        tokens,
        at: noon.minus(DAY * days),
    };
    for paid in [
        paid(W1, Some(OLD), "general", 1_000_001, [10, 4, 5], 2),
        paid(W1, Some(OLD), ODD, 500_000, [7, 0, 3], 1),
        paid(W1, Some(NEW), "general", 250_000, [1, 1, 1], 0),
        paid(W1, None, "general", 0, [2, 0, 2], 0),
        paid(W2, Some(OTHER), "general", 2_000_000, [100, 50, 25], 0),
    ] {
        pay(store, &paid).await;
    }
    lose(store, W1, Some(NEW), "general", noon).await;
    lose(store, W2, Some(OTHER), ODD, noon.minus(DAY)).await;
}

/// The lines of a CSV answer.
fn lines(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.ends_with("\r\n"));
    text.split_terminator("\r\n").map(str::to_owned).collect()
}

#[tokio::test]
async fn usage_is_reported_by_day_key_and_model_as_json_and_csv() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    fill(&server, noon).await;
    let [first, second, last] = [2, 1, 0].map(|days| noon.minus(DAY * days).date());
    let (own, admin) = (server.caller(W1, &["read"]).await, server.admin());
    let sums = "requests,lost,prompt_tokens,cached_tokens,completion_tokens,credits";
    let quoted = "\"'=\"\"odd\"\", név\"";
    for (by, csv, json) in [
        (
            "day",
            vec![
                format!("day,{sums}"),
                format!("{first},1,0,10,4,5,1.000001"),
                format!("{second},1,0,7,0,3,0.5"),
                format!("{last},2,1,3,1,3,0.25"),
            ],
            vec![
                json!({ "day": first, "requests": 1, "lost": 0, "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 5, "credits": 1.000001 }),
                json!({ "day": second, "requests": 1, "lost": 0, "prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": 3, "credits": 0.5 }),
                json!({ "day": last, "requests": 2, "lost": 1, "prompt_tokens": 3, "cached_tokens": 1, "completion_tokens": 3, "credits": 0.25 }),
            ],
        ),
        (
            "key",
            vec![
                format!("key_id,{sums}"),
                ",1,0,2,0,2,0".to_owned(),
                format!("{OLD},2,0,17,4,8,1.500001"),
                format!("{NEW},1,1,1,1,1,0.25"),
            ],
            vec![
                json!({ "key_id": null, "requests": 1, "lost": 0, "prompt_tokens": 2, "cached_tokens": 0, "completion_tokens": 2, "credits": 0 }),
                json!({ "key_id": OLD, "requests": 2, "lost": 0, "prompt_tokens": 17, "cached_tokens": 4, "completion_tokens": 8, "credits": 1.500001 }),
                json!({ "key_id": NEW, "requests": 1, "lost": 1, "prompt_tokens": 1, "cached_tokens": 1, "completion_tokens": 1, "credits": 0.25 }),
            ],
        ),
        (
            "model",
            vec![
                format!("model,{sums}"),
                format!("{quoted},1,0,7,0,3,0.5"),
                "general,3,1,13,5,8,1.250001".to_owned(),
            ],
            vec![
                json!({ "model": ODD, "requests": 1, "lost": 0, "prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": 3, "credits": 0.5 }),
                json!({ "model": "general", "requests": 3, "lost": 1, "prompt_tokens": 13, "cached_tokens": 5, "completion_tokens": 8, "credits": 1.250001 }),
            ],
        ),
    ] {
        let path = format!("/usage?by={by}");
        let answer = own.get(&path).await.expect(200);
        assert_eq!(answer["usage"], json!(json), "{by}");
        assert_eq!(answer["wallet_address"], W1);
        assert_eq!(answer["next_cursor"], json!(null));
        let named = admin.get(&format!("{path}&wallet={W1}")).await.expect(200);
        assert_eq!(named, answer, "{by}");
        let accept = [("accept", "text/csv")];
        let table = own.send(Method::GET, &path, &accept, "").await;
        assert_eq!(table.header("vary"), "Accept");
        assert_eq!(lines(&table), csv);
    }
    // By the day where nothing is said.
    let by_day = own.get("/usage?by=day").await.expect(200);
    assert_eq!(own.get("/usage").await.expect(200), by_day);
    // Of all wallets.
    let all = admin.get("/usage?by=model").await.expect(200);
    assert_eq!(all["wallet_address"], json!(null));
    let rows = all["usage"].as_array().unwrap().iter();
    let rows = rows.map(|row| {
        let [requests, lost, credits] = ["requests", "lost", "credits"].map(|name| &row[name]);
        format!("{} {requests} {lost} {credits}", row["model"])
    });
    let expected = [
        format!("{} 1 1 0.5", json!(ODD)),
        "\"general\" 4 1 3.250001".to_owned(),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    // A wallet that used nothing.
    let none = admin.get(&format!("/usage?wallet={W3}")).await.expect(200);
    assert_eq!(none["usage"], json!([]));
}

#[tokio::test]
async fn usage_is_that_of_the_keys_own_wallet_and_an_admin_reads_all() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    fill(&server, noon).await;
    let own = server.caller(W1, &["read"]).await;
    own.get(&format!("/usage?wallet={W1}")).await.expect(200);
    own.get(&format!("/usage?wallet={W2}"))
        .await
        .refused(403, "forbidden");
    let chatter = server.caller(W1, &["chat"]).await;
    chatter.get("/usage").await.refused(403, "forbidden");
    let anybody = server.anybody();
    anybody
        .get("/usage")
        .await
        .refused(401, "missing_credentials");
    let admin = server.admin();
    admin
        .get("/usage?wallet=W1")
        .await
        .refused(400, "invalid_wallet_address");
    let mut account = [7; 20];
    account[0] = 1;
    let prefix = bech32::Hrp::parse("remes").unwrap();
    let unknown = bech32::encode::<bech32::Bech32>(prefix, &account).unwrap();
    admin
        .get(&format!("/usage?wallet={unknown}"))
        .await
        .refused(404, "user_not_found");
}

#[tokio::test]
async fn the_pages_of_the_usage_leave_nothing_out_and_name_the_next() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    fill(&server, noon).await;
    let admin = server.admin();
    for by in ["day", "key", "model"] {
        let whole = admin.get(&format!("/usage?by={by}")).await.expect(200);
        let (mut rows, mut pages) = (Vec::new(), 0);
        let mut path = format!("/usage?by={by}&limit=1");
        loop {
            let page = admin.get(&path).await;
            let link = page.header("link").to_owned();
            let page = page.expect(200);
            rows.extend(page["usage"].as_array().unwrap().clone());
            pages += 1;
            let Some(next) = page["next_cursor"].as_str() else {
                assert_eq!(link, "");
                break;
            };
            path = format!("/usage?by={by}&limit=1&cursor={next}");
            let [from, to] = ["from", "to"].map(|name| page[name].as_str().unwrap());
            let linked = format!("/usage?from={from}&to={to}&by={by}&limit=1&cursor={next}");
            assert_eq!(link, format!("<{linked}>; rel=\"next\""));
            let followed = admin.get(&linked).await.expect(200);
            assert_eq!(followed, admin.get(&path).await.expect(200));
        }
        assert_eq!(json!(rows), whole["usage"], "{by}");
        assert_eq!(pages, rows.len());
        // A table in pages has the same.
        let accept = [("accept", "text/csv")];
        let table = format!("/usage?by={by}&limit=1&wallet={W1}");
        let table = admin.send(Method::GET, &table, &accept, "").await;
        assert_eq!(lines(&table).len(), 2);
        assert!(
            table
                .header("link")
                .contains(&format!("&wallet={W1}&limit=1&cursor="))
        );
    }
}

#[tokio::test]
async fn the_period_of_the_usage_is_whole_days_in_utc() {
    let server = TestServer::start(config()).await;
    let noon = server.wait_for_noon();
    fill(&server, noon).await;
    let admin = server.admin();
    let today = noon.day();
    let at = |days: i64, seconds: i64| {
        Timestamp::from_millis(today.millis() + (days * 86_400 + seconds) * 1000)
    };
    let unix = |time: Timestamp| time.millis() / 1000;
    let encoded = |time: Timestamp| time.to_string().replace(':', "%3A");
    for (query, from, to) in [
        (String::new(), at(-29, 0), at(1, 0)),
        (format!("from={}", at(-1, 60)), at(-1, 0), at(1, 0)),
        (format!("from={}", unix(at(-1, 60))), at(-1, 0), at(1, 0)),
        (format!("from={}.5", unix(at(-1, 60))), at(-1, 0), at(1, 0)),
        (format!("from={}", encoded(at(-1, 60))), at(-1, 0), at(1, 0)),
        // An end at midnight is that of the day before.
        (format!("to={}", at(0, 0)), at(-30, 0), at(0, 0)),
        (format!("to={}", at(0, 1)), at(-29, 0), at(1, 0)),
        (
            format!("from={}&to={}", at(-2, 1), at(-2, 2)),
            at(-2, 0),
            at(-1, 0),
        ),
        (
            format!("from={}&to={}", at(-366, 0), at(0, 0)),
            at(-366, 0),
            at(0, 0),
        ),
        (
            format!("from={}&to={}", at(5, 0), at(6, 0)),
            at(5, 0),
            at(6, 0),
        ),
    ] {
        let answer = admin.get(&format!("/usage?{query}")).await.expect(200);
        let period = [&answer["from"], &answer["to"]];
        assert_eq!(period, [&json!(from), &json!(to)], "{query}");
        let days = answer["usage"].as_array().unwrap().iter();
        let days: Vec<_> = days
            .map(|row| row["day"].as_str().unwrap().to_owned())
            .collect();
        let known = [-2, -1, 0].map(|days| at(days, 0));
        let known = known.into_iter().filter(|day| (from..to).contains(day));
        assert_eq!(
            days,
            known.map(Timestamp::date).collect::<Vec<_>>(),
            "{query}"
        );
    }
    for (query, at) in [
        (format!("from={}&to={}", at(0, 2), at(0, 1)), "from"),
        (format!("from={}&to={}", at(0, 0), at(0, 0)), "from"),
        (format!("from={}", at(1, 0)), "from"),
        (format!("from={}&to={}", at(-366, 0), at(0, 1)), "from"),
        ("from=2026-11-24".to_owned(), "from"),
        ("to=soon".to_owned(), "to"),
        ("to=".to_owned(), "to"),
        ("to=%zz".to_owned(), "to"),
        ("to=%ff".to_owned(), "to"),
        ("by=adapter".to_owned(), "by"),
        ("by=".to_owned(), "by"),
        ("by=day&by=key".to_owned(), "by"),
        ("limit=0".to_owned(), "limit"),
        ("limit=501".to_owned(), "limit"),
        ("days=7".to_owned(), "days"),
        ("cursor=".to_owned(), "cursor"),
        ("cursor=2026-11-24T00:00:00Z".to_owned(), "cursor"),
        ("by=key&cursor=led_1".to_owned(), "cursor"),
        ("by=model&cursor=*".to_owned(), "cursor"),
    ] {
        let refused = admin.get(&format!("/usage?{query}")).await;
        let refused = refused.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], at, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_request_is_in_the_usage_at_once_also_of_a_key_that_is_deleted() {
    let upstream = Upstream::inference(|_| Scripted::words(&["hello"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let (payer, reader) = (
        server.payer(W1, 3).await,
        server.caller(W1, &["read"]).await,
    );
    let listed = server
        .admin()
        .get(&format!("/api/keys?wallet_address={W1}"))
        .await;
    let listed = listed.expect(200);
    let ids = listed["keys"].as_array().unwrap().iter();
    let id = ids.filter(|key| key["scopes"] == json!(["chat", "read"]));
    let id = id.map(|key| key["id"].as_str().unwrap()).next().unwrap();
    let by_key = async || reader.get("/usage?by=key").await.expect(200)["usage"].clone();
    let used = |requests: i64| {
        json!([{ "key_id": id, "requests": requests, "lost": 0, "prompt_tokens": 0, "cached_tokens": 0,
                 "completion_tokens": 0, "credits": requests }])
    };
    for requests in 1..=2 {
        let answer = payer.post("/chat", &json!({ "message": "hi" })).await;
        assert_eq!(answer.status, 200);
        assert_eq!(by_key().await, used(requests));
    }
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .await
        .expect(200);
    server.clock.advance(DAY * 40);
    server.store.purge(server.clock.now()).await.unwrap();
    server
        .admin()
        .get(&format!("/api/keys/{id}"))
        .await
        .refused(404, "not_found");
    let from = server.clock.now().minus(DAY * 60);
    let path = format!("/usage?by=key&from={from}");
    assert_eq!(reader.get(&path).await.expect(200)["usage"], used(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_usage_as_a_table_with_a_header_beside_a_server_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let store = SqliteStore::open(&database, false).unwrap();
    for of in [W1, W2] {
        grant(&store, of, 5_000_000).await;
        let paid = Paid {
            wallet: of,
            key: (of == W1).then_some(OLD),
            adapter: "general",
            micro: 1_000_001,
            tokens: [1000, 400, 50],
            at: NOW,
        };
        pay(&store, &paid).await;
    }
    lose(&store, W2, None, "general", NOW).await;
    store.close();
    drop(store);
    let run = |arguments: &[&str]| {
        let period = [
            "usage",
            "--from",
            "1795489200",
            "--to",
            "2026-11-24T03:00:00.001Z",
        ];
        let (code, text) = edge(&database, &[&period[..], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    };
    let tables = || {
        [
            run(&[]),
            run(&["--by", "key"]),
            run(&["--by", "model", "--wallet", W1]),
            run(&["--by", "key", "--json"]),
        ]
    };
    let alone = tables();
    assert_eq!(
        alone[..3],
        [
            "DAY (UTC)   REQUESTS    LOST        PROMPT TOKENS    CACHED TOKENS    COMPLETION TOKENS  CREDITS\n\
             2026-11-24  2           1           2000             800              100                2.000002\n",
            "KEY                             REQUESTS    LOST        PROMPT TOKENS    CACHED TOKENS    COMPLETION TOKENS  CREDITS\n\
             \u{20}                               1           1           1000             400              50                 1.000001\n\
             key_01K0000000000000000000000A  1           0           1000             400              50                 1.000001\n",
            "MODEL                           REQUESTS    LOST        PROMPT TOKENS    CACHED TOKENS    COMPLETION TOKENS  CREDITS\n\
             general                         1           0           1000             400              50                 1.000001\n",
        ]
    );
    let json: serde_json::Value = serde_json::from_str(&alone[3]).unwrap();
    assert_eq!(json["usage"].as_array().unwrap().len(), 2);
    assert_eq!(json["usage"][1]["key_id"], OLD);
    let server = Process::serve(&database, "");
    assert_eq!(tables(), alone);
    for (wrong, code) in [
        (["--by", "wallet"], 2),
        (["--from", "soon"], 2),
        (["--from", "2000-01-01T00:00:00Z"], 2),
        (["--wallet", W3], 3),
    ] {
        assert_eq!(
            edge(&database, &[&["usage"], &wrong[..]].concat()).0,
            code,
            "{wrong:?}"
        );
    }
    assert_eq!(server.terminate(), Some(0));
}

/// What a request does: of a wallet, a key and an adapter, how many days ago, for so many micro-credits and tokens; whether it
/// is lost, or refunded after its charge.
type Step = ((usize, usize, usize, u32), i64, [i64; 3], (bool, bool));

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = (0..3usize, 0..3usize, 0..3usize, 0..4u32);
    let tokens = [(); 3].map(|()| prop_oneof![9 => 0..9i64, 1 => Just(i64::MAX)]);
    let micro = prop_oneof![Just(0i64), 1..2_000_000i64];
    let ends = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    prop::collection::vec((of, micro, tokens, ends), 1..25)
}

/// Credits in micro-credits.
fn micro(sums: &[Usage]) -> i64 {
    sums.iter().map(|used| used.credits.micro()).sum()
}

async fn check_sums(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
    let store: Arc<dyn Repository> = Arc::new(store);
    let wallets = [W1, W2, W3];
    for wallet in wallets {
        grant(&*store, wallet, 100_000_000).await;
    }
    let mut lost = 0;
    for ((of, key, adapter, days), micro, tokens, (is_lost, is_refunded)) in steps {
        let (key, adapter) = (
            [None, Some(OLD), Some(NEW)][key],
            ["general", "a", ODD][adapter],
        );
        let (wallet, at) = (wallets[of], NOW.minus(DAY * days));
        if is_lost {
            lose(&*store, wallet, key, adapter, at).await;
            lost += 1;
            continue;
        }
        let paid = Paid {
            wallet,
            key,
            adapter,
            micro,
            tokens,
            at,
        };
        let charged = pay(&*store, &paid).await;
        if is_refunded {
            store.refund(charged, None, NOW).await.unwrap();
        }
    }
    let entries = store.export_ledger(None, None, 1000).await.unwrap();
    // What was charged and not refunded, by wallet and group; a refund is of what its entry charged.
    let charges = |of: Option<&str>, by: UsageBy, days: u32| {
        let mut sums: BTreeMap<UsageGroup, i64> = BTreeMap::new();
        let first = NOW.day().minus(DAY * days);
        for exported in &entries {
            let entry = &exported.entry;
            let charge = match &entry.reference {
                Some(of) if entry.reason == "chat_refund" => {
                    let charge = entries
                        .iter()
                        .find(|charge| ledger_id(charge.entry.id) == *of);
                    &charge.unwrap().entry
                }
                _ => entry,
            };
            let Some(detail) = &charge.detail else {
                continue;
            };
            let is_of = of.is_none_or(|of| exported.wallet_address == wallet(of));
            if !is_of || charge.created_at < first {
                continue;
            }
            let group = match by {
                UsageBy::Day => UsageGroup::Day(charge.created_at.day()),
                UsageBy::Key => UsageGroup::Key(detail.key_id.clone()),
                UsageBy::Model => UsageGroup::Model(detail.adapter.clone()),
            };
            *sums.entry(group).or_default() -= entry.amount.micro();
        }
        sums
    };
    for of in [None, Some(W1), Some(W2), Some(W3)] {
        for by in [UsageBy::Day, UsageBy::Key, UsageBy::Model] {
            for days in [3, 1] {
                let query = |after, limit| UsageQuery {
                    wallet: of.map(wallet),
                    period: NOW.day().minus(DAY * days)..NOW.day().plus(DAY),
                    by,
                    after,
                    limit,
                };
                let whole = store.usage(query(None, 100)).await.unwrap();
                let charged = charges(of, by, days);
                assert_eq!(micro(&whole), charged.values().sum::<i64>());
                for used in &whole {
                    let charged = charged.get(&used.group).copied().unwrap_or_default();
                    assert_eq!(used.credits.micro(), charged, "{used:?}");
                }
                assert!(
                    charged
                        .keys()
                        .all(|group| whole.iter().any(|used| used.group == *group))
                );
                if of.is_none() && days == 3 {
                    let counted: i64 = whole.iter().map(|used| used.lost).sum();
                    assert_eq!(counted, lost);
                }
                let (mut pages, mut after) = (Vec::new(), None);
                loop {
                    let page = store.usage(query(after, 2)).await.unwrap();
                    after = page.last().map(|used| used.group.clone());
                    pages.extend(page);
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(pages, whole);
            }
        }
    }
    let report = store.verify_ledger(true).await.unwrap();
    assert_eq!(report.mistakes, Vec::<String>::new());
    store.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_usage_adds_up_to_the_charges_of_the_ledger_however_it_is_grouped(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(check_sums(steps));
    }
}
