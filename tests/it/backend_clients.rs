//! What clients of the R3MES backend read: `.github/docs/r3mes-clients.md` names them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chain::{config_with_chain, documented};
use crate::support::{TestServer, Upstream, W1, W2, config};

/// A server with a miner that reported nothing but a hashrate, and an earning of another wallet.
async fn server(unknown_as_zero: bool) -> TestServer {
    let mut config = config();
    config.compat.unknown_as_zero = unknown_as_zero;
    let server = TestServer::start(config).await;
    let admin = server.admin();
    let sample = json!({ "wallet_address": W1, "hashrate": 42.5 });
    admin.post("/miner/stats", &sample).await.expect(201);
    for (wallet, earnings) in [(W1, 1), (W2, 2)] {
        let body = json!({ "wallet_address": wallet, "earnings": earnings, "source_id": wallet });
        admin.post("/miner/earnings", &body).await.expect(201);
    }
    server
}

/// Every path of the backend whose answer has a figure that may never have been reported, with that figure.
fn figures() -> Vec<(String, String)> {
    let stats = [
        "gpu_temperature",
        "blocks_found",
        "uptime_percentage",
        "network_difficulty",
    ];
    let stats = stats.map(|name| (format!("/miner/stats/{W1}"), format!("/{name}")));
    let board = ["hashrate", "blocks_found"];
    let board = board.map(|name| ("/leaderboard".to_owned(), format!("/miners/0/{name}")));
    let miners = [
        "total_submissions",
        "reputation",
        "trend",
        "hashrate",
        "blocks_found",
    ];
    let miners = miners.map(|name| {
        (
            "/leaderboard/miners".to_owned(),
            format!("/miners/0/{name}"),
        )
    });
    let height = ("/network/stats".to_owned(), "/block_height".to_owned());
    let all = stats.into_iter().chain(board).chain(miners).chain([height]);
    // The wallet without a miner, too.
    all.chain([(format!("/miner/stats/{W2}"), "/hashrate".to_owned())])
        .collect()
}

#[tokio::test]
async fn a_figure_that_was_never_reported_is_null_and_zero_only_where_it_is_set_so() {
    for (unknown_as_zero, expected) in [(false, Value::Null), (true, json!(0))] {
        let server = server(unknown_as_zero).await;
        for (path, figure) in figures() {
            // Cached, too.
            for _ in 0..2 {
                let answer = server.anybody().get(&path).await.expect(200);
                let figure = answer
                    .pointer(&figure)
                    .unwrap_or_else(|| panic!("{path}: {figure}"));
                assert_eq!(figure.as_f64(), expected.as_f64(), "{path}: {figure}");
                assert_eq!(figure.is_null(), expected.is_null(), "{path}: {figure}");
            }
        }
        // What was reported is shown as it is, and a text or a time stays unknown.
        let stats = server
            .anybody()
            .get(&format!("/miner/stats/{W1}"))
            .await
            .expect(200);
        assert_eq!(stats["hashrate"], 42.5);
        let other = server
            .anybody()
            .get(&format!("/miner/stats/{W2}"))
            .await
            .expect(200);
        assert_eq!(
            (&other["hashrate_unit"], &other["recorded_at"]),
            (&Value::Null, &Value::Null)
        );
        // Nothing is known of an account that is not there.
        let stranger = "remes16kykek0kkvk803mfw4e3wukykhaccla26tvxhq";
        let stranger = server
            .anybody()
            .get(&format!("/miner/stats/{stranger}"))
            .await;
        stranger.refused(404, "user_not_found");
    }
}

#[tokio::test]
async fn the_leaderboard_has_the_backends_form_on_its_path() {
    for unknown_as_zero in [false, true] {
        let server = server(unknown_as_zero).await;
        let caller = server.anybody();
        let unknown = |value: Value| if unknown_as_zero { value } else { Value::Null };
        let board = caller.get("/leaderboard/miners?limit=1").await;
        assert_eq!(board.header("x-cache"), "miss");
        let top = json!({
            "address": W2, "tier": unknown(json!("bronze")), "total_submissions": unknown(json!(0)),
            "reputation": unknown(json!(0.0)), "trend": unknown(json!(0)), "total_earnings": 2,
            "hashrate": unknown(json!(0.0)), "blocks_found": unknown(json!(0)),
        });
        assert_eq!(board.expect(200), json!({ "miners": [top], "total": 1 }));
        let board = caller.get("/leaderboard/miners").await.expect(200);
        assert_eq!(
            (&board["total"], &board["miners"][1]["address"]),
            (&json!(2), &json!(W1))
        );
        // The other form of the same length is another answer.
        let own = caller.get("/leaderboard?limit=1").await.expect(200);
        assert_eq!(own["miners"][0]["wallet_address"], W2);
        for limit in ["0", "101", "x"] {
            let refused = caller
                .get(&format!("/leaderboard/miners?limit={limit}"))
                .await;
            refused.refused(400, "invalid_request");
        }
    }
}

#[tokio::test]
async fn there_is_no_faucet_and_its_status_is_an_answer() {
    let server = TestServer::start(config()).await;
    let status = server.anybody().get("/faucet/status").await.expect(200);
    assert_eq!(status, json!({ "enabled": false }));
    let claim = json!({ "address": W1 });
    server
        .anybody()
        .post("/faucet/claim", &claim)
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn a_base_address_may_end_in_a_slash() {
    let chain = Upstream::start(documented).await;
    let server = TestServer::start(config_with_chain(&chain)).await;
    let caller = server.payer(W1, 1).await;
    for path in [
        "/system/version",
        "/system/time",
        "/network/stats",
        "/blocks?limit=5",
        "/faucet/status",
        "/livez",
    ] {
        let answer = server.anybody().get(&format!("/{path}")).await;
        assert_eq!(answer.status, 200, "/{path}");
    }
    let info = caller.get(&format!("//user/info/{W1}")).await.expect(200);
    assert_eq!(info["wallet_address"], W1);
    // It is the same route, with the same key, rate and scope.
    server
        .anybody()
        .get("//auth/me")
        .await
        .refused(401, "missing_credentials");
    // A second spelling of the operator's routes would bypass a proxy's rules.
    for path in ["//admin/audit", "//metrics", "//alerts"] {
        server.admin().get(path).await.refused(404, "not_found");
    }
    caller.get("//nothing").await.refused(404, "not_found");
    server
        .anybody()
        .get("/system//version")
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn the_engines_checks_of_version_and_time_pass() {
    let server = TestServer::start(config()).await;
    let version = server.anybody().get("/system/version").await.expect(200);
    // `version_checker.py` compares numbers, and asks for an update where this is true.
    let least = version["min_version"].as_str().unwrap().split('.');
    assert!(least.map(str::parse::<u32>).all(|part| part.is_ok()));
    assert_eq!(version["update_required"], false);
    // `time_sync.py` allows five seconds.
    server.clock.advance(Duration::from_secs(3600));
    let time = server.anybody().get("/system/time").await.expect(200);
    let drift = server.clock.now().millis() / 1000 - time["server_time"].as_i64().unwrap();
    assert!((0..=5).contains(&drift), "{drift}");
    assert!(time["server_time_iso"].is_string());
}
