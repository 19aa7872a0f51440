use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use r3mes_edge::Config;
use r3mes_edge::config::MinerKind;
use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use super::samples;
use crate::ops::metrics::metric_if_known;
use crate::support::{
    Process, Scripted, TestServer, Upstream, W1, config, eventually, fixture, wallet,
};

/// A configuration that watches a miner's page, more often than an operator could set.
fn config_with_miner(page: &Upstream, path: &str, kind: MinerKind) -> Config {
    let mut config = config();
    config.miner.url = Some(format!("{}{path}", page.url()));
    config.miner.kind = kind;
    config.miner.wallet = Some(wallet(W1));
    config.miner.every = Duration::from_millis(20);
    config
}

/// The statistics of the wallet, once there are any.
async fn recorded(server: &TestServer) -> Value {
    let caller = server.anybody();
    let path = format!("/miner/stats/{W1}");
    eventually("the collector records a sample", async || {
        let answer = caller.get(&path).await;
        (answer.status == 200).then(|| answer.expect(200))
    })
    .await
}

/// The columns of a sample that no response has: worker, uptime, accepted and rejected shares, loss.
type Rest = (String, Option<i64>, Option<i64>, Option<i64>, Option<f64>);

fn first_sample_in_the_file(database: PathBuf) -> Rest {
    let file = rusqlite::Connection::open(database).unwrap();
    let read = |row: &rusqlite::Row<'_>| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
        ))
    };
    let select = "SELECT w.worker, s.uptime_seconds, s.accepted, s.rejected, s.loss
         FROM mining_stats s JOIN workers w ON w.id = s.worker LIMIT 1";
    file.query_row(select, [], read).unwrap()
}

#[tokio::test]
async fn the_status_page_of_an_r3mes_miner_is_polled_and_recorded() {
    let page = Upstream::start(|_| Scripted::whole(200, fixture("r3mes-miner-stats.json"))).await;
    let mut config = config_with_miner(&page, "/stats", MinerKind::R3mes);
    config.miner.worker = "rig-7".to_owned();
    let server = TestServer::start(config).await;
    let mut shown = recorded(&server).await;
    let age = server.clock.now().millis()
        - Timestamp::parse(shown["recorded_at"].take().as_str().unwrap())
            .unwrap()
            .millis();
    assert!((0..60_000).contains(&age), "{age}");
    assert_eq!(
        shown,
        json!({
            "wallet_address": W1, "total_earnings": 0, "hashrate": 42.5, "hashrate_unit": "gradients/h",
            "gpu_temperature": 67.0, "blocks_found": null, "uptime_percentage": null,
            "network_difficulty": null, "is_active": true, "recorded_at": null,
        })
    );
    eventually("it is asked again and again", async || {
        (samples(&server).await >= 3).then_some(())
    })
    .await;
    assert!(!page.seen("/stats")[0].headers.contains_key("authorization"));
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["miner"], true);
    assert_eq!(
        health["breakers"],
        json!([{
            "name": "miner", "state": "CLOSED", "forced": false, "reason": null,
            "retry_after_seconds": null,
        }])
    );
    assert_eq!(
        first_sample_in_the_file(server.database()),
        ("rig-7".to_owned(), Some(86_412), None, None, Some(0.8312))
    );
}

#[tokio::test]
async fn the_summary_of_xmrig_is_recorded_and_asked_for_with_its_token() {
    let page = Upstream::start(|seen| match seen.headers.get("authorization") {
        Some(token) if token == "Bearer s3cret-token" => {
            Scripted::whole(200, fixture("xmrig-2-summary.json"))
        }
        _ => Scripted::whole(401, "{}"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret-token\nanother line\n").unwrap();
    let mut config = config_with_miner(&page, "/2/summary", MinerKind::Xmrig);
    config.miner.token_file = Some(token);
    let server = TestServer::start(config).await;
    let shown = recorded(&server).await;
    assert_eq!(
        (&shown["hashrate"], &shown["hashrate_unit"]),
        (&json!(1207.19), &json!("H/s"))
    );
    assert_eq!(
        first_sample_in_the_file(server.database()),
        ("local".to_owned(), Some(106), Some(3), Some(0), None)
    );
    for path in ["/health", "/metrics", &format!("/miner/stats/{W1}")] {
        let answer = server.anybody().get(path).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains("s3cret"));
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_read_opens_the_miners_breaker_and_is_found_again() {
    let readable = Arc::new(AtomicBool::new(false));
    let page = {
        let readable = Arc::clone(&readable);
        Upstream::start(move |_| match readable.load(Ordering::SeqCst) {
            false => Scripted::whole(200, "<html>not a number in sight</html>"),
            true => Scripted::whole(200, fixture("r3mes-miner-stats.json")),
        })
        .await
    };
    let mut config = config_with_miner(&page, "/stats", MinerKind::R3mes);
    config.breaker.consecutive_failures = 3;
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    let state = async |state: &str| {
        let what = format!("the miner's breaker is {state}");
        eventually(&what, async || {
            let health = caller.get("/health").await.expect(200);
            let breaker = health["breakers"][0].clone();
            assert_eq!(breaker["name"], "miner");
            (breaker["state"] == state).then_some(health["status"].clone())
        })
        .await
    };
    assert_eq!(state("OPEN").await, "degraded");
    assert_eq!(page.seen("/stats").len(), 3);
    caller
        .get(&format!("/miner/stats/{W1}"))
        .await
        .refused(404, "user_not_found");
    readable.store(true, Ordering::SeqCst);
    server.clock.advance(Duration::from_secs(67));
    assert_eq!(recorded(&server).await["hashrate"], json!(42.5));
    assert_eq!(state("CLOSED").await, "ok");
}

#[tokio::test]
async fn a_token_file_that_is_not_there_counts_against_the_page_which_is_never_asked_without_it() {
    let page = Upstream::start(|_| Scripted::whole(200, fixture("r3mes-miner-stats.json"))).await;
    let mut config = config_with_miner(&page, "/stats", MinerKind::R3mes);
    config.miner.token_file = Some("/nowhere/token".into());
    config.breaker.consecutive_failures = 3;
    let server = TestServer::start(config).await;
    let caller = server.anybody();
    eventually("the miner's breaker is open", async || {
        let health = caller.get("/health").await.expect(200);
        assert!(!health.to_string().contains("nowhere"));
        (health["breakers"][0]["state"] == "OPEN").then_some(())
    })
    .await;
    assert!(page.seen("/").is_empty());
}

/// The page of an engine that answers with NaN, and one of each kind without a path.
#[tokio::test]
async fn a_page_is_found_without_its_path_and_read_where_a_member_is_no_number() {
    for (kind, path, body, hashrate) in [
        (
            MinerKind::R3mes,
            "/stats",
            r#"{"hashrate": 50.5, "loss": NaN, "gpu_temp": 91.0, "gradient_norm": -Infinity}"#,
            json!(50.5),
        ),
        (
            MinerKind::Xmrig,
            "/2/summary",
            r#"{"uptime": 5, "hashrate": {"total": [1.5, NaN, null], "highest": inf}}"#,
            json!(1.5),
        ),
    ] {
        for given in ["", "/"] {
            let page = Upstream::start(move |seen| match seen.path == path {
                true => Scripted::whole(200, body),
                false => Scripted::whole(404, "{}"),
            })
            .await;
            let server = TestServer::start(config_with_miner(&page, given, kind)).await;
            assert_eq!(recorded(&server).await["hashrate"], hashrate, "{path}");
        }
    }
}

#[tokio::test]
async fn figures_that_an_engine_does_not_have_are_null_and_not_zero() {
    let page = Upstream::start(|_| {
        let body = r#"{"hashrate":42.5,"loss":0.0,"gpu_temp":0.0,"uptime_seconds":9}"#;
        Scripted::whole(200, body)
    })
    .await;
    let server = TestServer::start(config_with_miner(&page, "/stats", MinerKind::R3mes)).await;
    assert_eq!(recorded(&server).await["gpu_temperature"], Value::Null);
    let (.., loss) = first_sample_in_the_file(server.database());
    assert_eq!(loss, None);
}

/// The alerts that fire a minute and a bit after the page was asked a few times more.
async fn alerts_later(server: &TestServer, page: &Upstream, minutes: u64) -> Vec<Value> {
    let asked = page.seen("/").len();
    eventually("the page is asked", async || {
        (page.seen("/").len() > asked + 2).then_some(())
    })
    .await;
    let caller = server.anybody();
    let mut alerts = Value::Null;
    for wait in [0, minutes * 60, 61] {
        server.clock.advance(Duration::from_secs(wait));
        alerts = caller.get("/alerts").await.expect(200);
    }
    alerts["firing"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_miner_that_never_answered_well_fires_an_alert_and_is_shown_in_health() {
    for status in [401, 403, 404, 302] {
        let is_good = Arc::new(AtomicBool::new(false));
        let page = {
            let is_good = Arc::clone(&is_good);
            Upstream::start(move |_| match is_good.load(Ordering::SeqCst) {
                true => Scripted::whole(200, fixture("r3mes-miner-stats.json")),
                false => Scripted::whole(status, "{}"),
            })
            .await
        };
        let server = TestServer::start(config_with_miner(&page, "/stats", MinerKind::R3mes)).await;
        let caller = server.anybody();
        eventually("the page is asked", async || {
            (!page.seen("/").is_empty()).then_some(())
        })
        .await;
        if status == 403 {
            // It asked to be left alone for a minute.
            server.clock.advance(Duration::from_secs(30));
            caller.get("/alerts").await.expect(200);
            server.clock.advance(Duration::from_secs(29));
            assert_eq!(page.seen("/").len(), 1);
            server.clock.advance(Duration::from_secs(31));
        }
        let alerts = match status {
            403 => caller.get("/alerts").await.expect(200)["firing"]
                .as_array()
                .unwrap()
                .clone(),
            _ => alerts_later(&server, &page, 0).await,
        };
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        assert_eq!(
            (&alerts[0]["name"], &alerts[0]["subject"]),
            (&json!("upstream_failing"), &json!("miner"))
        );
        let health = caller.get("/health").await.expect(200);
        assert_eq!(
            (&health["miner"], &health["status"]),
            (&json!(false), &json!("degraded"))
        );
        assert_eq!(health["breakers"][0]["state"], "CLOSED");
        is_good.store(true, Ordering::SeqCst);
        // The last call may have been refused for another minute.
        server.clock.advance(Duration::from_secs(61));
        recorded(&server).await;
        eventually("it is shown as well", async || {
            let health = caller.get("/health").await.expect(200);
            (health["miner"] == true && health["status"] == "ok").then_some(())
        })
        .await;
        assert_eq!(alerts_later(&server, &page, 0).await, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn an_engine_that_does_not_run_records_nothing_and_is_silent_after_its_time() {
    let page = Upstream::start(|_| {
        let body = r#"{"hashrate":0.0,"loss":0.0,"loss_trend":"stable","gpu_temp":0.0,"vram_total_mb":24564,"gradient_norm":0.0,"uptime_seconds":0}"#;
        Scripted::whole(200, body)
    })
    .await;
    let server = TestServer::start(config_with_miner(&page, "/stats", MinerKind::R3mes)).await;
    assert_eq!(alerts_later(&server, &page, 1).await, Vec::<Value>::new());
    let path = format!("/miner/stats/{W1}");
    server
        .anybody()
        .get(&path)
        .await
        .refused(404, "user_not_found");
    let alerts = alerts_later(&server, &page, 5).await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["name"], "miner_silent");
}

#[tokio::test]
async fn a_miner_that_never_answers_well_is_logged_once() {
    let page = Upstream::start(|_| Scripted::whole(401, "{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[miner]\nurl = \"{}/stats\"\nwallet = \"{W1}\"\nevery = \"1s\"",
        page.url()
    );
    let mut server = Process::serve(&folder.path().join("edge.db"), &config);
    eventually("the page is asked again", async || {
        (page.seen("/").len() >= 3).then_some(())
    })
    .await;
    server.tell_to_end();
    assert_eq!(server.wait_for_end(), Some(0));
    let log = server.log().join("\n");
    assert_eq!(log.matches("was not read").count(), 1, "{log}");
}

#[tokio::test]
async fn figures_that_are_not_known_are_not_on_the_page_of_metrics() {
    let body = Arc::new(Mutex::new(Some(fixture("r3mes-miner-stats.json"))));
    let miner = {
        let body = Arc::clone(&body);
        Upstream::start(move |_| match &*body.lock().unwrap() {
            Some(body) => Scripted::whole(200, body.clone()),
            None => Scripted::whole(500, "{}"),
        })
        .await
    };
    let server = TestServer::start(config_with_miner(&miner, "/stats", MinerKind::R3mes)).await;
    let figures = async || {
        let mut figures = Vec::new();
        for name in [
            "hashrate",
            "gpu_temperature_celsius",
            "power_watts",
            "shares_accepted",
            "shares_rejected",
        ] {
            let name = format!("r3mes_miner_{name}");
            figures.push(metric_if_known(&server, &name, &[]).await);
        }
        figures
    };
    let shown = async |expected: [Option<f64>; 5]| {
        eventually("the page shows what the miner reports", async || {
            (figures().await == expected).then_some(())
        })
        .await;
    };
    // The engine reports neither power nor shares.
    shown([Some(42.5), Some(67.0), None, None, None]).await;
    let read_at = metric_if_known(&server, "r3mes_miner_read_timestamp_seconds", &[]);
    let read_at = read_at.await.unwrap();
    *body.lock().unwrap() = Some(br#"{"hashrate":40.0}"#.to_vec());
    shown([Some(40.0), None, None, None, None]).await;
    *body.lock().unwrap() = None;
    shown([None; 5]).await;
    let last = metric_if_known(&server, "r3mes_miner_read_timestamp_seconds", &[]);
    assert!(last.await.unwrap() >= read_at);
}

#[tokio::test]
async fn a_miner_that_was_never_read_has_no_figure_of_any_kind() {
    let server = TestServer::start(config()).await;
    let page = server.admin().get("/metrics").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    for name in [
        "r3mes_miner_hashrate",
        "r3mes_miner_shares",
        "r3mes_miner_read",
        "r3mes_backup_timestamp",
    ] {
        assert!(!page.contains(name), "{name}");
    }
}
