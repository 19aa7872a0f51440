//! Every alert: the real server is driven into it and out of it, and a webhook receives each message once.

mod day;
mod node;
mod single;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use r3mes_edge::Config;
use r3mes_edge::config::WebhookKind;
use r3mes_edge::model::Timestamp;
use r3mes_edge::store::StoreGauges;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::chat::whole;
use crate::faults::Faults;
use crate::ops::metrics::{metric, metric_if_known};
use crate::support::{
    Scripted, Seen, TestServer, Upstream, W1, config, config_with_inference, eventually, fixture,
    wallet,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A server with a webhook for its alerts, over a storage whose behaviour the test sets.
struct Watched {
    server: TestServer,
    faults: Faults,
    webhook: Upstream,
    _secret: tempfile::NamedTempFile,
}

impl Watched {
    async fn start(mut config: Config) -> Self {
        let webhook = Upstream::start(|_| Scripted::whole(200, "ok")).await;
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            secret.path(),
            format!("{}/hook?token=sesame\n", webhook.url()),
        )
        .unwrap();
        config.alerts.webhook_file = Some(secret.path().to_owned());
        let faults = Faults::default();
        let server = faults.serve(config).await;
        Self {
            server,
            faults,
            webhook,
            _secret: secret,
        }
    }

    /// The names of what is firing now.
    async fn firing(&self) -> Vec<String> {
        let alerts = self.server.admin().get("/alerts").await.expect(200);
        let names = alerts["firing"].as_array().unwrap().iter();
        names
            .map(|alert| alert["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Advances the clock by more than a minute, with an evaluation before and after.
    async fn a_minute_later(&self) -> Vec<String> {
        self.firing().await;
        self.server.clock.advance(MINUTE + Duration::from_secs(1));
        self.firing().await
    }

    /// Waits until the webhook has received this many messages of an alert, and returns them.
    async fn received(&self, name: &str, count: usize) -> Vec<Value> {
        let received = eventually("the webhook receives it", async || {
            let received = self.received_so_far(name);
            (received.len() >= count).then_some(received)
        })
        .await;
        assert_eq!(received.len(), count, "{received:?}");
        received
    }

    fn received_so_far(&self, name: &str) -> Vec<Value> {
        let read = |seen: &Seen| serde_json::from_str::<Value>(&seen.body).unwrap();
        let seen = self.webhook.seen("/hook");
        let received = seen.iter().map(read);
        received.filter(|message| message["name"] == name).collect()
    }

    /// The alert began and ended, each with one message, and nothing else was sent.
    async fn assert_fired_and_resolved(&self, name: &str, severity: &str) {
        let received = self.received(name, 2).await;
        let both = |field: &str| [received[0][field].clone(), received[1][field].clone()];
        assert_eq!(both("status"), ["firing", "resolved"]);
        assert_eq!(both("severity"), [severity, severity]);
        assert_eq!(received[0]["since"], received[1]["since"]);
        for message in &received {
            assert!(message["summary"].as_str().unwrap().len() > 10, "{message}");
            assert_eq!(
                message["node"].as_str().unwrap().split(':').next(),
                Some("127.0.0.1")
            );
        }
        let alerts = self.server.admin().get("/alerts").await.expect(200);
        let recent = alerts["recent"].as_array().unwrap();
        assert_eq!(
            recent.iter().filter(|alert| alert["name"] == name).count(),
            1
        );
    }
}

#[tokio::test]
async fn slow_answers_fire_an_alert_and_chats_do_not_count() {
    let watched = Watched::start(config()).await;
    let clock = watched.server.clock.clone();
    let admin = watched.server.admin();
    watched.faults.slow(&clock, Duration::from_millis(700));
    for _ in 0..3 {
        // More than one verb each.
        admin.get("/network/stats").await.expect(200);
        clock.advance(Duration::from_secs(301));
        admin
            .get(&format!("/users/{W1}"))
            .await
            .refused(404, "user_not_found");
    }
    assert_eq!(watched.firing().await, Vec::<String>::new());
    watched.faults.slow(&clock, Duration::from_millis(2500));
    for _ in 0..3 {
        let answer = admin.get(&format!("/users/{W1}")).await;
        answer.refused(404, "user_not_found");
    }
    watched.faults.slow(&clock, Duration::ZERO);
    assert_eq!(watched.a_minute_later().await, ["response_time"]);
    clock.advance(6 * MINUTE);
    watched.firing().await;
    clock.advance(6 * MINUTE);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("response_time", "WARNING")
        .await;
}

#[tokio::test]
async fn a_slow_request_body_does_not_count_as_a_slow_answer() {
    let watched = Watched::start(config()).await;
    watched.firing().await;
    let key = watched.server.admin().key().to_owned();
    let address = watched
        .server
        .base
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let mut client = tokio::net::TcpStream::connect(&address).await.unwrap();
    let body = json!({ "wallet_address": W1, "hashrate": 1 }).to_string();
    let head = format!(
        "POST /miner/stats HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    // Sent when the server waits for the body.
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100"));
    watched.server.clock.advance(Duration::from_secs(20));
    client.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
}

#[tokio::test]
async fn chats_that_wait_for_this_server_and_not_for_their_model_fire_an_alert() {
    let upstream = Upstream::inference(|_| Scripted::words(&["hello"])).await;
    let watched = Watched::start(config_with_inference("openai", &upstream)).await;
    let clock = watched.server.clock.clone();
    let payer = watched.server.payer(W1, 5).await;
    watched.firing().await;
    watched.faults.slow(&clock, Duration::from_millis(200));
    for _ in 0..3 {
        let (_, _, body) = payer.chat("hi").await;
        whole(body).await.unwrap();
    }
    watched.faults.slow(&clock, Duration::ZERO);
    assert_eq!(watched.a_minute_later().await, ["gateway_overhead"]);
    clock.advance(6 * MINUTE);
    watched.firing().await;
    clock.advance(6 * MINUTE);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("gateway_overhead", "WARNING")
        .await;
}

#[tokio::test]
async fn a_share_of_server_errors_fires_an_alert_and_client_errors_do_not() {
    let watched = Watched::start(config()).await;
    let (clock, admin) = (watched.server.clock.clone(), watched.server.admin());
    watched.firing().await;
    for _ in 0..60 {
        admin.get("/nothing").await.refused(404, "not_found");
    }
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched.faults.fail("user");
    for _ in 0..2 {
        let path = format!("/users/{W1}");
        admin.get(&path).await.refused(503, "storage_unavailable");
    }
    watched.faults.mend();
    assert_eq!(watched.a_minute_later().await, ["error_rate"]);
    clock.advance(6 * MINUTE);
    watched.firing().await;
    clock.advance(6 * MINUTE);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("error_rate", "CRITICAL")
        .await;
}

#[tokio::test]
async fn errors_do_not_end_because_fewer_clients_ask() {
    let watched = Watched::start(config()).await;
    let admin = watched.server.admin();
    let read = async |count: u32| {
        for _ in 0..count {
            admin.get(&format!("/users/{W1}")).await;
        }
        watched.a_minute_later().await
    };
    // A few errors of a few requests prove nothing.
    watched.faults.fail("user");
    for _ in 0..3 {
        assert_eq!(read(3).await, Vec::<String>::new());
    }
    assert_eq!(read(60).await, ["error_rate"]);
    for _ in 0..12 {
        assert_eq!(read(1).await, ["error_rate"]);
    }
    watched.faults.mend();
    for _ in 0..7 {
        read(1).await;
    }
    assert_eq!(read(1).await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("error_rate", "CRITICAL")
        .await;
}

#[tokio::test]
async fn a_node_that_has_no_chain_and_no_model_has_no_errors_by_saying_so() {
    let watched = Watched::start(config()).await;
    let payer = watched.server.payer(W1, 5).await;
    for _ in 0..2 {
        for _ in 0..60 {
            let answer = watched.server.anybody().get("/chain/status").await;
            answer.refused(503, "chain_disabled");
            assert_eq!(payer.chat("hi").await.0, 503);
        }
        assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_storage_that_runs_out_of_something_fires_an_alert() {
    let healthy = StoreGauges {
        queue_capacity: 4096,
        pool_size: 4,
        file_bytes: Some(1 << 20),
        disk_free_bytes: Some(10 << 30),
        ..StoreGauges::default()
    };
    let cases = [
        (
            "pool_use",
            "WARNING",
            StoreGauges {
                pool_in_use: 4,
                ..healthy
            },
        ),
        (
            "disk_free",
            "CRITICAL",
            StoreGauges {
                disk_free_bytes: Some(100 << 20),
                ..healthy
            },
        ),
        (
            "wal_size",
            "WARNING",
            StoreGauges {
                wal_bytes: Some(300 << 20),
                ..healthy
            },
        ),
    ];
    for (name, severity, bad) in cases {
        let watched = Watched::start(config()).await;
        watched.faults.say(bad);
        assert_eq!(watched.a_minute_later().await, [name]);
        watched.faults.say(healthy);
        assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
        watched.assert_fired_and_resolved(name, severity).await;
    }
}

#[tokio::test]
async fn a_storage_that_rejects_writes_fires_an_alert() {
    let watched = Watched::start(config()).await;
    watched.faults.fail("is_ready");
    assert_eq!(watched.a_minute_later().await, ["storage_unavailable"]);
    watched.faults.mend();
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("storage_unavailable", "CRITICAL")
        .await;
}

#[tokio::test]
async fn a_ledger_that_does_not_add_up_fires_an_alert_at_once() {
    let watched = Watched::start(config()).await;
    watched.server.payer(W1, 5).await;
    let tamper = |by: i64| {
        let connection = rusqlite::Connection::open(watched.server.database()).unwrap();
        // Without the trigger that counts movements: one that was undone by hand is still a movement without an entry.
        let update = format!(
            "BEGIN; UPDATE users SET credits = credits + {by}; UPDATE totals SET entries = entries - 1; COMMIT"
        );
        connection.execute_batch(&update).unwrap();
    };
    let verify = async || {
        let admin = watched.server.admin();
        admin.get("/admin/ledger/verify").await.expect(200);
        watched.firing().await
    };
    assert_eq!(verify().await, Vec::<String>::new());
    tamper(1);
    assert_eq!(verify().await, ["ledger_mismatch"]);
    tamper(-1);
    assert_eq!(verify().await, ["ledger_mismatch"]);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("ledger_mismatch", "CRITICAL")
        .await;
}

#[tokio::test]
async fn missed_backups_fire_an_alert() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("not there yet");
    let mut config = config();
    config.backup.every = Some(60 * MINUTE);
    config.backup.folder.clone_from(&folder);
    let watched = Watched::start(config).await;
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched.server.clock.advance(125 * MINUTE);
    assert_eq!(watched.a_minute_later().await, ["backup_age"]);
    std::fs::create_dir(&folder).unwrap();
    let figure = async |name| metric(&watched.server, name, &[]).await;
    let failed = std::cell::Cell::new(f64::NAN);
    eventually("a copy is made", async || {
        let failures = figure("r3mes_backup_failures_total").await;
        if failures != failed.replace(failures) {
            // A backup is retried at most once an hour. An attempt that began before the folder existed may still fail.
            watched.server.clock.advance(61 * MINUTE);
        }
        let name = "r3mes_backup_timestamp_seconds";
        let made_at = metric_if_known(&watched.server, name, &[]).await?;
        let now = watched.server.clock.now().millis() as f64 / 1000.0;
        // Not one of two hours ago that found the folder only after it was made.
        (made_at > now - 1800.0).then_some(())
    })
    .await;
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("backup_age", "WARNING")
        .await;
}

#[tokio::test]
async fn a_breaker_that_is_not_closed_fires_an_alert_at_once_by_its_name() {
    let mut config = config();
    config.chain.rpc = Some(Upstream::dead().await);
    let watched = Watched::start(config).await;
    let admin = watched.server.admin();
    for _ in 0..5 {
        watched.server.clock.advance(Duration::from_secs(2));
        let answer = watched.server.anybody().get("/chain/status").await;
        assert!(answer.status >= 500);
    }
    assert_eq!(watched.firing().await, ["breaker_open"]);
    let reset = json!({ "state": "reset" });
    admin
        .post("/admin/breakers/chain", &reset)
        .await
        .expect(200);
    // It ends after a minute, so that a breaker that opens again and again has one incident.
    assert_eq!(watched.firing().await, ["breaker_open"]);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("breaker_open", "CRITICAL")
        .await;
    assert_eq!(
        watched.received("breaker_open", 2).await[0]["subject"],
        "chain"
    );
    let open = json!({ "state": "open" });
    admin.post("/admin/breakers/chain", &open).await.expect(200);
    assert_eq!(watched.firing().await, ["breaker_open"]);
    watched.received("breaker_open", 3).await;
}

#[tokio::test]
async fn a_chain_that_makes_no_blocks_fires_an_alert() {
    // The fixture's newest block is of another year; a height alone proves nothing.
    let halted = Arc::new(AtomicBool::new(true));
    let chain = {
        let halted = Arc::clone(&halted);
        let fixture: Value = serde_json::from_slice(&fixture("cometbft-status.json")).unwrap();
        Upstream::start(move |_| {
            let mut status = fixture.clone();
            if !halted.load(Ordering::SeqCst) {
                let now = Timestamp::from(std::time::SystemTime::now());
                let newest = now.plus(Duration::from_secs(10)).to_string();
                status["result"]["sync_info"]["latest_block_time"] = json!(newest);
            }
            Scripted::whole(200, status.to_string())
        })
        .await
    };
    let mut config = config();
    config.chain.rpc = Some(chain.url());
    let watched = Watched::start(config).await;
    let evaluate = async || {
        watched
            .server
            .anybody()
            .get("/chain/status")
            .await
            .expect(200);
        watched.firing().await
    };
    assert_eq!(evaluate().await, ["chain_halted"]);
    halted.store(false, Ordering::SeqCst);
    watched.server.clock.advance(Duration::from_secs(5));
    assert_eq!(evaluate().await, ["chain_halted"]);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("chain_halted", "CRITICAL")
        .await;
}

/// A server with the wallet of a miner.
async fn with_miner() -> Watched {
    let mut config = config();
    config.miner.wallet = Some(wallet(W1));
    Watched::start(config).await
}

impl Watched {
    /// Sends a sample every minute for this long; returns the alerts that fire at the end.
    async fn samples(&self, minutes: u32, body: impl Fn(u32) -> Value) -> Vec<String> {
        for minute in 0..minutes {
            self.server.clock.advance(MINUTE);
            let mut sample = body(minute);
            sample["wallet_address"] = json!(W1);
            let admin = self.server.admin();
            admin.post("/miner/stats", &sample).await.expect(201);
            self.firing().await;
        }
        self.firing().await
    }
}

#[tokio::test]
async fn a_silent_miner_fires_an_alert_and_its_other_alerts_neither_begin_nor_end() {
    let watched = with_miner().await;
    let hot = |_| json!({ "hashrate": 40, "gpu_temperature": 99 });
    assert_eq!(watched.samples(3, hot).await, ["temperature"]);
    watched.server.clock.advance(6 * MINUTE);
    assert_eq!(
        watched.a_minute_later().await,
        ["miner_silent", "temperature"]
    );
    assert_eq!(watched.received_so_far("temperature").len(), 1);
    let cool = |_| json!({ "hashrate": 40, "gpu_temperature": 60 });
    assert_eq!(watched.samples(3, cool).await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("miner_silent", "CRITICAL")
        .await;
    watched
        .assert_fired_and_resolved("temperature", "WARNING")
        .await;
}

#[tokio::test]
async fn a_miner_whose_shares_the_pool_does_not_accept_fires_an_alert() {
    let watched = with_miner().await;
    let flat = |_| json!({ "hashrate": 40, "accepted": 100 });
    assert_eq!(watched.samples(10, flat).await, Vec::<String>::new());
    assert_eq!(watched.samples(8, flat).await, ["shares_flat"]);
    let again = |minute| json!({ "hashrate": 40, "accepted": 101 + minute });
    assert_eq!(watched.samples(3, again).await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("shares_flat", "CRITICAL")
        .await;
}

#[tokio::test]
async fn shares_that_no_miner_reports_any_more_are_not_flat() {
    let watched = with_miner().await;
    let sample = |worker: &str, accepted: Option<u32>| json!({ "worker": worker, "hashrate": 40, "accepted": accepted, "wallet_address": W1 });
    for minute in 0..50 {
        watched.server.clock.advance(MINUTE);
        // One counts its shares, and is switched off; the other has none to count.
        let mut samples = vec![sample("silent", None)];
        if minute < 20 {
            samples.push(sample("counts", Some(minute / 8)));
        }
        let admin = watched.server.admin();
        let samples = json!(samples);
        admin.post("/miner/stats", &samples).await.expect(201);
        assert_eq!(watched.firing().await, Vec::<String>::new(), "{minute}");
    }
}

#[tokio::test]
async fn a_miner_that_comes_back_is_judged_by_what_it_does_since() {
    let watched = with_miner().await;
    let before = |minute| json!({ "hashrate": 400, "accepted": 1000 + minute });
    assert_eq!(watched.samples(20, before).await, Vec::<String>::new());
    watched.server.clock.advance(19 * MINUTE);
    assert_eq!(watched.a_minute_later().await, ["miner_silent"]);
    // It counts anew, warms up, and its first share takes a while.
    for minute in 0..14 {
        let after = |_| json!({ "hashrate": if minute < 4 { 0 } else { 400 }, "accepted": 0 });
        let firing = watched.samples(1, after).await;
        let ends = ["miner_silent"];
        assert!(
            firing.is_empty() || minute < 2 && firing == ends,
            "{minute}: {firing:?}"
        );
    }
}

#[tokio::test]
async fn the_time_in_which_the_server_was_off_is_no_silence_of_the_miner() {
    let watched = with_miner().await;
    let before = watched.server.clock.now().minus(60 * MINUTE);
    let sample = json!({ "hashrate": 40, "recorded_at": before, "wallet_address": W1 });
    let admin = watched.server.admin();
    admin.post("/miner/stats", &sample).await.expect(201);
    for _ in 0..4 {
        assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    }
    watched.server.clock.advance(MINUTE);
    assert_eq!(watched.a_minute_later().await, ["miner_silent"]);
}

#[tokio::test]
async fn a_hashrate_far_below_its_own_day_fires_an_alert() {
    let watched = with_miner().await;
    watched.server.wait_for_noon();
    let rate = |rate: u32| move |_| json!({ "hashrate": rate });
    assert_eq!(watched.samples(180, rate(100)).await, Vec::<String>::new());
    assert_eq!(watched.samples(20, rate(10)).await, ["hashrate_low"]);
    assert_eq!(watched.samples(20, rate(100)).await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("hashrate_low", "WARNING")
        .await;
}

#[tokio::test]
async fn earnings_that_stop_fire_an_alert() {
    let mut config = config();
    config.miner.wallet = Some(wallet(W1));
    config.alerts.earnings_stopped = 120 * MINUTE;
    let watched = Watched::start(config).await;
    let healthy = |_| json!({ "hashrate": 40 });
    let earn = async |source: &str| {
        let earning = json!({ "wallet_address": W1, "earnings": 1, "source_id": source });
        let admin = watched.server.admin();
        admin.post("/miner/earnings", &earning).await.expect(201);
    };
    earn("a").await;
    assert_eq!(watched.samples(3, healthy).await, Vec::<String>::new());
    // While it does not mine, it earns nothing.
    watched.server.clock.advance(180 * MINUTE);
    assert_eq!(watched.samples(3, healthy).await, Vec::<String>::new());
    assert_eq!(watched.samples(120, healthy).await, ["earnings_stopped"]);
    earn("b").await;
    assert_eq!(watched.samples(3, healthy).await, Vec::<String>::new());
    watched
        .assert_fired_and_resolved("earnings_stopped", "WARNING")
        .await;
}

#[tokio::test]
async fn a_failed_webhook_delivery_is_retried_and_no_request_waits_for_it() {
    let status = Arc::new(AtomicU16::new(500));
    let webhook = {
        let status = Arc::clone(&status);
        Upstream::start(move |_| Scripted::whole(status.load(Ordering::SeqCst), "no")).await
    };
    for kind in [WebhookKind::Slack, WebhookKind::Discord, WebhookKind::Ntfy] {
        status.store(500, Ordering::SeqCst);
        let secret = tempfile::NamedTempFile::new().unwrap();
        let path = format!("/{kind:?}");
        std::fs::write(secret.path(), format!("{}{path}", webhook.url())).unwrap();
        let mut config = config();
        config.alerts.webhook_file = Some(secret.path().to_owned());
        config.alerts.webhook_kind = kind;
        config.chain.rpc = Some(Upstream::dead().await);
        let server = TestServer::start(config).await;
        let open = json!({ "state": "open" });
        server
            .admin()
            .post("/admin/breakers/chain", &open)
            .await
            .expect(200);
        server.admin().get("/alerts").await.expect(200);
        eventually("it was tried", async || {
            (!webhook.seen(&path).is_empty()).then_some(())
        })
        .await;
        status.store(200, Ordering::SeqCst);
        let seen = eventually("it was tried again", async || {
            // Other requests are answered meanwhile.
            server.anybody().get("/livez").await.expect(200);
            let seen = webhook.seen(&path);
            (seen.len() >= 2).then_some(seen)
        })
        .await;
        let second = &seen[1];
        let text = match kind {
            WebhookKind::Slack => read(second)["text"].as_str().unwrap().to_owned(),
            WebhookKind::Discord => read(second)["content"].as_str().unwrap().to_owned(),
            WebhookKind::Ntfy | WebhookKind::Json => {
                assert_eq!(second.headers["priority"], "5");
                assert_eq!(second.headers["tags"], "warning");
                format!(
                    "{} {}",
                    second.headers["title"].to_str().unwrap(),
                    second.body
                )
            }
        };
        assert!(text.contains("breaker_open chain firing"), "{text}");
        assert!(text.contains("an operator took it out of use"), "{text}");
    }
}

fn read(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}
