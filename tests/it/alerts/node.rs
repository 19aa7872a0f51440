//! A node with a miner, a chain and a model that do what the test says, a minute of its clock at a time.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use r3mes_edge::Clock;
use r3mes_edge::config::MinerKind;
use r3mes_edge::model::{Credits, Price, Timestamp};
use r3mes_edge::store::StoreGauges;
use serde_json::{Value, json};

use super::MINUTE;
use crate::chat::whole;
use crate::faults::Faults;
use crate::support::{
    Caller, Scripted, TestServer, Upstream, W1, config, config_with_inference, eventually, wallet,
};

/// How the node knows its miner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Miner {
    None,
    /// By its page, without shares.
    R3mes,
    /// By its page, without a temperature.
    Xmrig,
    /// It sends its samples.
    Sends,
}

/// What an upstream does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Page {
    Right,
    /// Every request has this status.
    Status(u16),
    /// Every second one has it.
    Often(u16),
    /// A page of a proxy.
    Html,
    /// An answer without its usage, as of a server that does not report it.
    NoUsage,
    /// Nothing listens.
    Dead,
}

/// What goes on in a minute.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Script {
    pub(super) miner: Page,
    pub(super) chain: Page,
    pub(super) model: Page,
    pub(super) hashrate: f64,
    pub(super) temperature: f64,
    /// Of a second miner that sends its samples; 0 for none.
    pub(super) other_temperature: f64,
    pub(super) shares: i64,
    /// Whether it is paid every ten minutes.
    pub(super) earns: bool,
    pub(super) makes_blocks: bool,
    pub(super) chats: usize,
    pub(super) reads: usize,
    /// Full checks of the ledger, and backups.
    pub(super) checks: usize,
    /// What each call of the storage takes.
    pub(super) slow: Duration,
    /// Its methods that fail.
    pub(super) failing: &'static [&'static str],
    pub(super) gauges: StoreGauges,
    /// The upstream that the operator took out of use.
    pub(super) forced: Option<&'static str>,
    /// Added to a balance behind the ledger's back.
    pub(super) tampered: i64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            miner: Page::Right,
            chain: Page::Right,
            model: Page::Right,
            hashrate: 100.0,
            temperature: 66.0,
            other_temperature: 0.0,
            shares: 2,
            earns: true,
            makes_blocks: true,
            chats: 1,
            reads: 2,
            checks: 0,
            slow: Duration::ZERO,
            failing: &[],
            gauges: StoreGauges {
                queue_capacity: 4096,
                pool_in_use: 1,
                pool_size: 4,
                file_bytes: Some(1 << 20),
                wal_bytes: Some(1 << 16),
                disk_free_bytes: Some(10 << 30),
                ..StoreGauges::default()
            },
            forced: None,
            tampered: 0,
        }
    }
}

/// A stream that ends well, without its usage and with it.
const NO_USAGE: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n";

/// A credit for a request, and for a million tokens of its prompt and its answer.
fn by_tokens() -> Price {
    let credit = Credits::from_micro(1_000_000);
    let mut price = Price::per_request(credit);
    (price.prompt, price.cached_prompt, price.completion) = (credit, credit, credit);
    price
}

/// What the scripted upstreams share.
#[derive(Default)]
struct Stage {
    script: Mutex<Script>,
    clock: OnceLock<Clock>,
    /// The miner's counter.
    accepted: Mutex<i64>,
    /// Requests so far.
    asked: Mutex<u64>,
}

impl Stage {
    fn script(&self) -> Script {
        self.script.lock().unwrap().clone()
    }

    /// What a page answers instead of the right thing.
    fn wrong(&self, page: Page) -> Option<Scripted> {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        match page {
            Page::Right | Page::Dead | Page::NoUsage => None,
            Page::Often(_) if asked.is_multiple_of(2) => None,
            Page::Status(status) | Page::Often(status) => Some(Scripted::whole(status, "{}")),
            Page::Html => Some(Scripted::whole(200, "<html>a proxy</html>")),
        }
    }

    fn miner(&self, kind: Miner) -> Scripted {
        let (script, accepted) = (self.script(), *self.accepted.lock().unwrap());
        let right = || match kind {
            Miner::Xmrig => json!({
                "uptime": 4000, "results": { "shares_good": accepted, "shares_total": accepted },
                "hashrate": { "total": [script.hashrate, null, null] },
            }),
            _ => json!({
                "hashrate": script.hashrate, "loss": 0.8, "gpu_temp": script.temperature,
                "uptime_seconds": 4000, "training_epoch": 3,
            }),
        };
        let right = || Scripted::whole(200, right().to_string());
        self.wrong(script.miner).unwrap_or_else(right)
    }

    fn chain(&self, path: &str) -> Scripted {
        let script = self.script();
        let now = self
            .clock
            .get()
            .map_or(Timestamp::from_millis(0), Clock::now);
        let newest = match script.makes_blocks {
            true => now.minus(Duration::from_secs(3)),
            false => now.minus(10 * MINUTE),
        };
        let result = match path.starts_with("/blockchain") {
            true => json!({ "last_height": "7", "block_metas": [] }),
            false => json!({
                "node_info": { "network": "remes-test" },
                "sync_info": {
                    "latest_block_height": "7", "latest_block_time": newest, "catching_up": false,
                },
            }),
        };
        let answer = json!({ "jsonrpc": "2.0", "id": -1, "result": result });
        let right = || Scripted::whole(200, answer.to_string());
        self.wrong(script.chain).unwrap_or_else(right)
    }

    fn model(&self, path: &str) -> Scripted {
        let wrong = match self.script().model {
            // Its health check passes.
            Page::Often(_) if path == "/v1/models" => None,
            page => self.wrong(page),
        };
        let models = || Scripted::whole(200, r#"{"object":"list","data":[{"id":"tiny"}]}"#);
        wrong.unwrap_or_else(|| match path {
            "/v1/models" => models(),
            _ if self.script().model == Page::NoUsage => Scripted::whole(200, NO_USAGE),
            _ => Scripted::whole(200, format!("{NO_USAGE}{USAGE}")),
        })
    }
}

/// An upstream that can die and come back at its address.
struct Mortal {
    address: std::net::SocketAddr,
    running: Option<Upstream>,
    answer: Arc<dyn Fn(&str) -> Scripted + Send + Sync>,
}

impl Mortal {
    async fn start(answer: impl Fn(&str) -> Scripted + Send + Sync + 'static) -> Self {
        let answer: Arc<dyn Fn(&str) -> Scripted + Send + Sync> = Arc::new(answer);
        let script = Arc::clone(&answer);
        let running = Upstream::start(move |seen| script(&seen.path)).await;
        Self {
            address: running.address(),
            running: Some(running),
            answer,
        }
    }

    async fn live(&mut self, lives: bool) {
        if !lives {
            self.running = None;
        } else if self.running.is_none() {
            let running = eventually("its port is free again", async || {
                let script = Arc::clone(&self.answer);
                let started = Upstream::start_at(self.address, move |seen| script(&seen.path));
                started.await.ok()
            });
            self.running = Some(running.await);
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

pub(super) struct Node {
    pub(super) server: TestServer,
    faults: Faults,
    stage: Arc<Stage>,
    kind: Miner,
    miner: Mortal,
    chain: Option<Mortal>,
    model: Mortal,
    payer: Caller,
    /// What was done so far.
    played: Script,
    minutes: u64,
}

impl Node {
    pub(super) async fn start(kind: Miner, has_chain: bool, has_model: bool) -> Self {
        let stage = Arc::new(Stage::default());
        let on = |answer: fn(&Stage, Miner, &str) -> Scripted| {
            let stage = Arc::clone(&stage);
            Mortal::start(move |path| answer(&stage, kind, path))
        };
        let miner = on(|stage, kind, _| stage.miner(kind)).await;
        let chain = on(|stage, _, path| stage.chain(path)).await;
        let model = on(|stage, _, path| stage.model(path)).await;
        let mut config = match &model.running {
            Some(model) if has_model => config_with_inference("openai", model),
            _ => config(),
        };
        config.chain.rpc = has_chain.then(|| chain.url());
        config.miner.wallet = (kind != Miner::None).then(|| wallet(W1));
        (config.miner.kind, config.miner.url) = match kind {
            Miner::Xmrig => (MinerKind::Xmrig, Some(format!("{}/2/summary", miner.url()))),
            Miner::R3mes => (MinerKind::R3mes, Some(format!("{}/stats", miner.url()))),
            Miner::None | Miner::Sends => (MinerKind::R3mes, None),
        };
        config.chat.price = by_tokens();
        config.alerts.earnings_stopped = 60 * MINUTE;
        config.backup.every = Some(60 * MINUTE);
        let faults = Faults::default();
        faults.say(Script::default().gauges);
        let server = faults.serve(config).await;
        stage.clock.set(server.clock.clone()).unwrap();
        let payer = server.payer(W1, 100_000).await;
        Self {
            server,
            faults,
            stage,
            kind,
            miner,
            chain: has_chain.then_some(chain),
            model,
            payer,
            played: Script::default(),
            minutes: 0,
        }
    }

    /// Changes what goes on from the next minute on.
    pub(super) fn play(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.stage.script.lock().unwrap());
    }

    /// Lets so much time pass, with what goes on in a minute; returns the names of the alerts that fire.
    pub(super) async fn pass(&mut self, time: Duration) -> Vec<String> {
        let admin = self.server.admin();
        let script = self.stage.script();
        self.minutes += 1;
        *self.stage.accepted.lock().unwrap() += script.shares;
        self.miner.live(script.miner != Page::Dead).await;
        self.model.live(script.model != Page::Dead).await;
        if let Some(chain) = &mut self.chain {
            chain.live(script.chain != Page::Dead).await;
        }
        self.set_faults(&script).await;
        let begun = self.server.clock.now().plus(time);
        self.server.clock.advance(time);
        if script.miner == Page::Right && script.forced != Some("miner") {
            self.mine(&script, begun).await;
        }
        if script.earns && self.minutes.is_multiple_of(10) && self.kind != Miner::None {
            let source = format!("payout-{}", self.minutes);
            let earning = json!({ "wallet_address": W1, "earnings": 1, "source_id": source });
            let _ = admin.post("/miner/earnings", &earning).await;
        }
        // As a dashboard does, also of a node without a chain.
        for path in ["/chain/status", "/blocks", "/network/stats", "/health"] {
            let _ = self.server.anybody().get(path).await;
        }
        for _ in 0..script.reads {
            let _ = admin.get(&format!("/users/{W1}")).await;
        }
        for _ in 0..script.chats {
            let (_, _, body) = self.payer.chat("hi").await;
            let _ = whole(body).await;
        }
        for _ in 0..script.checks {
            let _ = admin.get("/admin/ledger/verify?full=true").await;
            let _ = admin.post("/admin/backup", &Value::Null).await;
        }
        self.firing().await
    }

    /// Makes the storage and the operator do what the script says.
    async fn set_faults(&mut self, script: &Script) {
        let admin = self.server.admin();
        self.faults.mend();
        for verb in script.failing {
            self.faults.fail(verb);
        }
        self.faults.slow(&self.server.clock, script.slow);
        self.faults.say(script.gauges);
        if script.forced != self.played.forced {
            for (name, state) in [(self.played.forced, "reset"), (script.forced, "open")] {
                let Some(name) = name else { continue };
                let path = format!("/admin/breakers/{name}");
                let body = json!({ "state": state });
                admin.post(&path, &body).await.expect(200);
            }
        }
        if script.tampered != self.played.tampered {
            let by = script.tampered - self.played.tampered;
            let connection = rusqlite::Connection::open(self.server.database()).unwrap();
            // Without the trigger that counts movements.
            let update = format!(
                "BEGIN; UPDATE users SET credits = credits + {by}; UPDATE totals SET entries = entries - 1; COMMIT"
            );
            connection.execute_batch(&update).unwrap();
            let verify = "/admin/ledger/verify";
            admin.get(verify).await.expect(200);
        }
        self.played.clone_from(script);
    }

    /// Waits until the miner of this minute is recorded, or sends its sample.
    async fn mine(&self, script: &Script, begun: Timestamp) {
        let admin = self.server.admin();
        let path = format!("/miner/stats/{W1}");
        match self.kind {
            Miner::None => return,
            Miner::Sends => {
                let mut samples = vec![json!({
                    "hashrate": script.hashrate, "gpu_temperature": script.temperature,
                    "accepted": *self.stage.accepted.lock().unwrap(), "wallet_address": W1,
                })];
                if script.other_temperature > 0.0 {
                    samples.push(json!({
                        "hashrate": 10, "gpu_temperature": script.other_temperature,
                        "worker": "other", "wallet_address": W1,
                    }));
                }
                admin.post("/miner/stats", &json!(samples)).await;
                return;
            }
            Miner::R3mes | Miner::Xmrig => {}
        }
        eventually(
            "the miner's page is read, or its breaker is open",
            async || {
                let health = admin.get("/health").await.expect(200);
                let breakers = health["breakers"].as_array().unwrap();
                let miner = breakers.iter().find(|breaker| breaker["name"] == "miner");
                if miner.unwrap()["state"] != "CLOSED" {
                    return Some(());
                }
                let stats = admin.get(&path).await;
                let stats: Value = serde_json::from_slice(&stats.body).unwrap();
                let at = Timestamp::parse(stats["recorded_at"].as_str()?).ok()?;
                (at >= begun).then_some(())
            },
        )
        .await;
    }

    pub(super) async fn firing(&self) -> Vec<String> {
        self.names("firing").await
    }

    /// The names of incidents that ended.
    pub(super) async fn recent(&self) -> Vec<String> {
        self.names("recent").await
    }

    async fn names(&self, list: &str) -> Vec<String> {
        let alerts = self.server.admin().get("/alerts").await.expect(200);
        let names = alerts[list].as_array().unwrap().iter();
        names
            .map(|alert| alert["name"].as_str().unwrap().to_owned())
            .collect()
    }
}
