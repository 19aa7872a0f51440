//! Lists as CSV: by `Accept`, or by `format`.

use hyper::Method;
use r3mes_edge::model::{Credits, HashrateUnit, Sample, Tokens};
use r3mes_edge::store::{Charge, Estimated, HoldRequest, OperationId};
use serde_json::json;

use crate::support::{Answer, Caller, TestServer, W1, W2, config, edge, wallet};

/// The records of a CSV answer.
fn records(answer: Answer) -> Vec<String> {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(answer.header("vary"), "Accept");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.ends_with("\r\n"));
    text.split_terminator("\r\n").map(str::to_owned).collect()
}

async fn accepting(caller: &Caller, path: &str, types: &str) -> Answer {
    let accept = [("accept", types)];
    caller.send(Method::GET, path, &accept, "").await
}

/// Pays and grants, with texts that need quotes and marks.
async fn fill(server: &TestServer) {
    let admin = server.admin();
    let path = format!("/users/{W1}/credits");
    for (amount, reason, reference) in [
        (5.5, "welcome", None),
        (-0.25, "=SUM(A1), \"quoted\"", Some("@invoice, 7")),
        (1_000_000_000.0, "név", Some("-1")),
    ] {
        let grant = json!({ "amount": amount, "reason": reason, "reference": reference });
        admin.post(&path, &grant).await.expect(200);
    }
    let amount = Credits::from_micro(1_000_001);
    let request = HoldRequest {
        operation: OperationId::new(),
        wallet: wallet(W1),
        amount,
        limit: None,
    };
    let hold = server.store.hold(request).await.unwrap();
    let charge = Charge {
        amount,
        key_id: Some("key_01K0000000000000000000000A".to_owned()),
        adapter: "+odd, \"adapter\"".to_owned(),
        tokens: Some(Tokens {
            prompt: 9,
            cached: 4,
            completion: 2,
        }),
        estimated: Some(Estimated::Cut),
        answer: None,
    };
    let charged = server.store.charge(hold, charge, server.clock.now()).await;
    assert!(charged.is_ok());
    let other = json!({ "amount": 3, "reason": "test" });
    let path = format!("/users/{W2}/credits");
    admin.post(&path, &other).await.expect(200);
}

#[tokio::test]
async fn the_ledger_as_csv_has_the_records_of_the_export_newest_first() {
    let server = TestServer::start(config()).await;
    fill(&server).await;
    let own = server.caller(W1, &["read"]).await;
    let path = format!("/users/{W1}/ledger");
    let (code, exported) = edge(&server.database(), &["ledger", "export", "--wallet", W1]);
    assert_eq!(code, 0);
    let mut expected: Vec<_> = exported.lines().map(str::to_owned).collect();
    assert_eq!(expected.len(), 5);
    expected[1..].reverse();
    let by_accept = records(accepting(&own, &path, "text/csv").await);
    assert_eq!(by_accept, expected);
    assert!(
        by_accept[1].contains(",\"'+odd, \"\"adapter\"\"\",9,4,2,cut,req_"),
        "{by_accept:?}"
    );
    assert!(
        by_accept[3].contains(",-0.25,5.25,\"'=SUM(A1), \"\"quoted\"\"\",\"'@invoice, 7\","),
        "{by_accept:?}"
    );
    for (query, types) in [
        ("format=csv", "*/*"),
        ("format=csv", "application/json"),
        ("format=csv&limit=500", "text/csv"),
    ] {
        let path = format!("{path}?{query}");
        assert_eq!(
            records(accepting(&own, &path, types).await),
            expected,
            "{query}"
        );
    }
    let json = own.get(&path).await;
    assert_eq!(json.header("vary"), "Accept");
    let json = json.expect(200);
    let asked = format!("{path}?format=json");
    assert_eq!(accepting(&own, &asked, "text/csv").await.expect(200), json);
    // A wallet that has no entry has the header line.
    let none = server.caller(crate::support::W3, &["read"]).await;
    let empty = format!("/users/{}/ledger?format=csv", crate::support::W3);
    assert_eq!(records(none.get(&empty).await), expected[..1]);
}

#[tokio::test]
async fn the_pages_of_the_ledger_name_the_next_in_every_format() {
    let server = TestServer::start(config()).await;
    fill(&server).await;
    let admin = server.admin();
    let whole = records(admin.get(&format!("/users/{W1}/ledger?format=csv")).await);
    for format in ["csv", "json", ""] {
        let suffix = if format.is_empty() {
            String::new()
        } else {
            format!("&format={format}")
        };
        let mut path = format!("/users/{W1}/ledger?limit=3{suffix}");
        let mut found = 0;
        for last in [false, true] {
            let page = admin.get(&path).await;
            let link = page.header("link").to_owned();
            match format {
                "csv" => {
                    let page = records(page);
                    assert_eq!(page[0], whole[0]);
                    assert_eq!(page[1..], whole[1 + found..found + page.len()]);
                    found += page.len() - 1;
                }
                _ => {
                    let page = page.expect(200);
                    found += page["entries"].as_array().unwrap().len();
                    let next = page["next_cursor"].as_str();
                    assert_eq!(next.is_none(), last);
                    assert!(link.contains(next.unwrap_or_default()));
                }
            }
            if last {
                assert_eq!(link, "");
                continue;
            }
            let next = link
                .strip_prefix('<')
                .unwrap()
                .strip_suffix(">; rel=\"next\"");
            path = next.unwrap().to_owned();
            let starts = format!("/users/{W1}/ledger?limit=3&cursor=led_");
            assert!(
                path.starts_with(&starts) && path.ends_with(&suffix),
                "{path}"
            );
        }
        assert_eq!(found, 4);
    }
}

#[tokio::test]
async fn the_ledger_as_csv_is_for_the_same_callers_and_a_wrong_format_is_named() {
    let server = TestServer::start(config()).await;
    fill(&server).await;
    let path = format!("/users/{W1}/ledger?format=csv");
    let other = server.caller(W2, &["read"]).await;
    other.get(&path).await.refused(403, "forbidden");
    let chatter = server.caller(W1, &["chat"]).await;
    chatter.get(&path).await.refused(403, "forbidden");
    server
        .anybody()
        .get(&path)
        .await
        .refused(401, "missing_credentials");
    let admin = server.admin();
    for path in [
        format!("/users/{W1}/ledger"),
        "/usage".to_owned(),
        format!("/miner/hashrate/{W1}"),
    ] {
        for wrong in [
            "format=CSV",
            "format=xml",
            "format=",
            "format=1",
            "format=csv&format=csv",
        ] {
            let refused = admin.get(&format!("{path}?{wrong}")).await;
            let refused = refused.refused(400, "invalid_request");
            assert_eq!(refused["errors"][0]["pointer"], "format", "{path} {wrong}");
        }
    }
}

#[tokio::test]
async fn usage_and_hashrate_take_the_format_by_name_too() {
    let server = TestServer::start(config()).await;
    fill(&server).await;
    let now = server.clock.now();
    let sample = Sample::new(wallet(W1), now, 2.5, HashrateUnit::HashesPerSecond);
    server
        .store
        .record_samples(vec![sample], 9, now)
        .await
        .unwrap();
    let admin = server.admin();
    for path in [
        format!("/usage?wallet={W1}&by=model"),
        format!("/miner/hashrate/{W1}?hours=1&resolution=raw"),
    ] {
        let by_accept = records(accepting(&admin, &path, "text/csv").await);
        assert_eq!(by_accept.len(), 2, "{by_accept:?}");
        let by_name = format!("{path}&format=csv");
        assert_eq!(records(admin.get(&by_name).await), by_accept);
        let json = admin.get(&path).await.expect(200);
        let by_name = format!("{path}&format=json");
        assert_eq!(
            accepting(&admin, &by_name, "text/csv").await.expect(200),
            json
        );
    }
    let first = admin.get("/usage?by=model&limit=1&format=csv").await;
    assert_eq!(first.header("link"), "", "one adapter was used");
}
