//! Every alert: the real server is driven into it and out of it, and a webhook hears of each once.

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
use crate::support::{
    Scripted, Seen, TestServer, Upstream, W1, config, config_with_inference, eventually, fixture,
    wallet,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A server whose alerts a webhook hears of, over a storage that does what the test says.
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

    /// Lets a minute and a bit pass, looked at now and at its end.
    async fn a_minute_later(&self) -> Vec<String> {
        self.firing().await;
        self.server.clock.advance(MINUTE + Duration::from_secs(1));
        self.firing().await
    }

    /// What the webhook heard of an alert, once it heard so much.
    async fn heard(&self, name: &str, count: usize) -> Vec<Value> {
        let heard = eventually("the webhook hears of it", async || {
            let heard = self.heard_so_far(name);
            (heard.len() >= count).then_some(heard)
        })
        .await;
        assert_eq!(heard.len(), count, "{heard:?}");
        heard
    }

    fn heard_so_far(&self, name: &str) -> Vec<Value> {
        let read = |seen: &Seen| serde_json::from_str::<Value>(&seen.body).unwrap();
        let seen = self.webhook.seen("/hook");
        let heard = seen.iter().map(read);
        heard.filter(|told| told["name"] == name).collect()
    }

    /// The alert began and ended, each was told once, and nothing else.
    async fn assert_told_each_way(&self, name: &str, severity: &str) {
        let heard = self.heard(name, 2).await;
        let told = |field: &str| [heard[0][field].clone(), heard[1][field].clone()];
        assert_eq!(told("status"), ["firing", "resolved"]);
        assert_eq!(told("severity"), [severity, severity]);
        assert_eq!(heard[0]["since"], heard[1]["since"]);
        for told in &heard {
            assert!(told["summary"].as_str().unwrap().len() > 10, "{told}");
            assert_eq!(
                told["node"].as_str().unwrap().split(':').next(),
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
async fn answers_that_take_long_are_told_of_and_chats_do_not_count() {
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
    admin
        .get(&format!("/users/{W1}"))
        .await
        .refused(404, "user_not_found");
    watched.faults.slow(&clock, Duration::ZERO);
    assert_eq!(watched.a_minute_later().await, ["response_time"]);
    clock.advance(6 * MINUTE);
    watched.firing().await;
    clock.advance(6 * MINUTE);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_told_each_way("response_time", "WARNING")
        .await;
}

#[tokio::test]
async fn a_client_that_is_slow_to_send_its_body_is_no_slow_answer() {
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
    // That is said when the body is waited for.
    let mut said = [0; 25];
    client.read_exact(&mut said).await.unwrap();
    assert!(said.starts_with(b"HTTP/1.1 100"));
    watched.server.clock.advance(Duration::from_secs(20));
    client.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
}

#[tokio::test]
async fn chats_that_wait_for_this_server_and_not_for_their_model_are_told_of() {
    let upstream = Upstream::inference(|_| Scripted::words(&["hello"])).await;
    let watched = Watched::start(config_with_inference("openai", &upstream)).await;
    let clock = watched.server.clock.clone();
    let payer = watched.server.payer(W1, 5).await;
    watched.firing().await;
    watched.faults.slow(&clock, Duration::from_millis(200));
    let (_, _, body) = payer.chat("hi").await;
    whole(body).await.unwrap();
    watched.faults.slow(&clock, Duration::ZERO);
    assert_eq!(watched.a_minute_later().await, ["gateway_overhead"]);
    clock.advance(6 * MINUTE);
    watched.firing().await;
    clock.advance(6 * MINUTE);
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_told_each_way("gateway_overhead", "WARNING")
        .await;
}

#[tokio::test]
async fn a_share_of_errors_of_ours_is_told_of_and_the_clients_mistakes_are_not() {
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
    watched.assert_told_each_way("error_rate", "CRITICAL").await;
}

#[tokio::test]
async fn a_storage_that_runs_out_of_something_is_told_of() {
    let well = StoreGauges {
        queue_capacity: 4096,
        pool_size: 4,
        file_bytes: 1 << 20,
        disk_free_bytes: Some(10 << 30),
        ..StoreGauges::default()
    };
    let cases = [
        (
            "pool_use",
            "WARNING",
            StoreGauges {
                pool_in_use: 4,
                ..well
            },
        ),
        (
            "disk_free",
            "CRITICAL",
            StoreGauges {
                disk_free_bytes: Some(100 << 20),
                ..well
            },
        ),
        (
            "wal_size",
            "WARNING",
            StoreGauges {
                wal_bytes: 300 << 20,
                ..well
            },
        ),
    ];
    for (name, severity, bad) in cases {
        let watched = Watched::start(config()).await;
        watched.faults.say(bad);
        assert_eq!(watched.a_minute_later().await, [name]);
        watched.faults.say(well);
        assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
        watched.assert_told_each_way(name, severity).await;
    }
}

#[tokio::test]
async fn a_storage_that_takes_no_writes_is_told_of() {
    let watched = Watched::start(config()).await;
    watched.faults.fail("is_ready");
    assert_eq!(watched.a_minute_later().await, ["storage_unavailable"]);
    watched.faults.mend();
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched
        .assert_told_each_way("storage_unavailable", "CRITICAL")
        .await;
}

#[tokio::test]
async fn a_ledger_that_does_not_add_up_is_told_of_at_once() {
    let watched = Watched::start(config()).await;
    watched.server.payer(W1, 5).await;
    let tamper = |by: i64| {
        let connection = rusqlite::Connection::open(watched.server.database()).unwrap();
        let update = "UPDATE users SET credits = credits + ?1";
        connection.execute(update, [by]).unwrap();
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
    assert_eq!(verify().await, Vec::<String>::new());
    watched
        .assert_told_each_way("ledger_mismatch", "CRITICAL")
        .await;
}

#[tokio::test]
async fn copies_that_are_not_made_are_told_of() {
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
    let figure = async |name| crate::ops::metrics::metric(&watched.server, name, &[]).await;
    let failed = std::cell::Cell::new(f64::NAN);
    eventually("a copy is made", async || {
        let failures = figure("r3mes_backup_failures_total").await;
        if failures != failed.replace(failures) {
            // It is tried again once an hour at most. An attempt that began before there was the folder may fail now.
            watched.server.clock.advance(61 * MINUTE);
        }
        let made_at = figure("r3mes_backup_timestamp_seconds").await;
        let now = watched.server.clock.now().millis() as f64 / 1000.0;
        // Not one of two hours ago that found the folder only after it was made.
        (made_at > now - 1800.0).then_some(())
    })
    .await;
    assert_eq!(watched.a_minute_later().await, Vec::<String>::new());
    watched.assert_told_each_way("backup_age", "WARNING").await;
}

#[tokio::test]
async fn a_breaker_that_is_not_closed_is_told_of_at_once_by_its_name() {
    let mut config = config();
    config.chain.rpc = Some(Upstream::dead().await);
    let watched = Watched::start(config).await;
    let admin = watched.server.admin();
    for _ in 0..5 {
        let answer = watched.server.anybody().get("/chain/status").await;
        assert!(answer.status >= 500);
    }
    assert_eq!(watched.firing().await, ["breaker_open"]);
    let reset = json!({ "state": "reset" });
    admin
        .post("/admin/breakers/chain", &reset)
        .await
        .expect(200);
    assert_eq!(watched.firing().await, Vec::<String>::new());
    watched
        .assert_told_each_way("breaker_open", "CRITICAL")
        .await;
    assert_eq!(
        watched.heard("breaker_open", 2).await[0]["subject"],
        "chain"
    );
    // Opened again at once: who was told a moment ago is not told again so soon.
    let open = json!({ "state": "open" });
    admin.post("/admin/breakers/chain", &open).await.expect(200);
    assert_eq!(watched.firing().await, ["breaker_open"]);
    assert_eq!(watched.heard_so_far("breaker_open").len(), 2);
    watched.server.clock.advance(2 * MINUTE);
    watched.firing().await;
    watched.heard("breaker_open", 3).await;
}

#[tokio::test]
async fn a_chain_that_makes_no_blocks_is_told_of() {
    // The fixture's newest block is of another year; a height alone tells nothing.
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
    let look = async || {
        watched
            .server
            .anybody()
            .get("/chain/status")
            .await
            .expect(200);
        watched.firing().await
    };
    assert_eq!(look().await, ["chain_halted"]);
    halted.store(false, Ordering::SeqCst);
    watched.server.clock.advance(Duration::from_secs(5));
    assert_eq!(look().await, Vec::<String>::new());
    watched
        .assert_told_each_way("chain_halted", "CRITICAL")
        .await;
}

/// A server that watches the miner of a wallet.
async fn with_miner() -> Watched {
    let mut config = config();
    config.miner.wallet = Some(wallet(W1));
    Watched::start(config).await
}

impl Watched {
    /// The miner tells this every minute from now on, for so long; what is firing at the end.
    async fn tells(&self, minutes: u32, body: impl Fn(u32) -> Value) -> Vec<String> {
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
async fn a_miner_that_falls_silent_is_told_of_and_what_it_said_last_is_no_alert() {
    let watched = with_miner().await;
    let hot = |_| json!({ "hashrate": 40, "gpu_temperature": 99 });
    assert_eq!(watched.tells(3, hot).await, ["temperature"]);
    watched.server.clock.advance(6 * MINUTE);
    assert_eq!(watched.a_minute_later().await, ["miner_silent"]);
    let cool = |_| json!({ "hashrate": 40, "gpu_temperature": 60 });
    assert_eq!(watched.tells(3, cool).await, Vec::<String>::new());
    watched
        .assert_told_each_way("miner_silent", "CRITICAL")
        .await;
    watched.assert_told_each_way("temperature", "WARNING").await;
}

#[tokio::test]
async fn a_miner_whose_shares_nobody_takes_is_told_of() {
    let watched = with_miner().await;
    let flat = |_| json!({ "hashrate": 40, "accepted": 100 });
    assert_eq!(watched.tells(10, flat).await, Vec::<String>::new());
    assert_eq!(watched.tells(8, flat).await, ["shares_flat"]);
    let again = |minute| json!({ "hashrate": 40, "accepted": 101 + minute });
    assert_eq!(watched.tells(3, again).await, Vec::<String>::new());
    watched
        .assert_told_each_way("shares_flat", "CRITICAL")
        .await;
}

#[tokio::test]
async fn a_hashrate_far_below_its_own_day_is_told_of() {
    let watched = with_miner().await;
    watched.server.wait_for_noon();
    let rate = |rate: u32| move |_| json!({ "hashrate": rate });
    assert_eq!(watched.tells(180, rate(100)).await, Vec::<String>::new());
    assert_eq!(watched.tells(20, rate(10)).await, ["hashrate_low"]);
    assert_eq!(watched.tells(20, rate(100)).await, Vec::<String>::new());
    watched
        .assert_told_each_way("hashrate_low", "WARNING")
        .await;
}

#[tokio::test]
async fn earnings_that_stop_are_told_of() {
    let watched = with_miner().await;
    let well = |_| json!({ "hashrate": 40 });
    let earn = async |source: &str| {
        let earning = json!({ "wallet_address": W1, "earnings": 1, "source_id": source });
        let admin = watched.server.admin();
        admin.post("/miner/earnings", &earning).await.expect(201);
    };
    earn("a").await;
    assert_eq!(watched.tells(3, well).await, Vec::<String>::new());
    watched.server.clock.advance(25 * 60 * MINUTE);
    assert_eq!(watched.tells(3, well).await, ["earnings_stopped"]);
    earn("b").await;
    assert_eq!(watched.tells(3, well).await, Vec::<String>::new());
    watched
        .assert_told_each_way("earnings_stopped", "WARNING")
        .await;
}

#[tokio::test]
async fn a_webhook_that_fails_hears_later_and_no_request_waits_for_it() {
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
            // Meanwhile others are answered.
            server.anybody().get("/livez").await.expect(200);
            let seen = webhook.seen(&path);
            (seen.len() >= 2).then_some(seen)
        })
        .await;
        let told = &seen[1];
        let text = match kind {
            WebhookKind::Slack => read(told)["text"].as_str().unwrap().to_owned(),
            WebhookKind::Discord => read(told)["content"].as_str().unwrap().to_owned(),
            WebhookKind::Ntfy | WebhookKind::Json => {
                assert_eq!(told.headers["priority"], "5");
                assert_eq!(told.headers["tags"], "warning");
                format!("{} {}", told.headers["title"].to_str().unwrap(), told.body)
            }
        };
        assert!(text.contains("breaker_open chain firing"), "{text}");
        assert!(text.contains("an operator took it out of use"), "{text}");
    }
}

fn read(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}
