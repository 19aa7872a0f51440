//! Chats, grants, takes, revocations, clients that leave, a file that another program locks, crashes and restarts in random
//! order, with prices by the request and by tokens: after each the ledger adds up, what a client saw whole is charged what its
//! tokens cost, and nothing is charged that was not given.
//!
//! The seed is printed; `SIMULATION_SEED` takes it, `SIMULATION_ROUNDS` says how many interleavings there are. A crash
//! here ends the server's runtime: every task is gone where it stood. What `kill -9` adds to that is in `crash`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hyper::Method;
use hyper::body::Incoming;
use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::model::Price;
use r3mes_edge::store::{Actor, LedgerEntry, LockError, OpenError, issue_key};
use r3mes_edge::{Clock, Config, EdgeServer, Repository, SqliteStore};
use rusqlite::Connection;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::metered::{self, Metered, charges};
use crate::support::{Caller, Upstream, W1, config_with_inference, eventually, next_text, wallet};

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % most
    }

    /// Yields to the runtime some times.
    async fn pause(&mut self) {
        for _ in 0..self.below(60) {
            tokio::task::yield_now().await;
        }
    }
}

/// Micro-credits for a request, and for a million tokens of a prompt, of a cached one, of an answer; each server has one of them.
const PRICES: [[i64; 4]; 4] = [
    [1_000_000, 0, 0, 0],
    [250_001, 0, 0, 0],
    [0, 1_000_000_003, 250_000_001, 20_000_000_007],
    [1_500, 3_000_000, 1, 15_000_000],
];

const MESSAGES: [&str; 7] = [
    "hello",
    "hello",
    "hello",
    "refuse it",
    "say nothing",
    "break off",
    "never end",
];

/// How a step of a client ended.
#[derive(Debug)]
enum Ended {
    /// A complete response, with its id.
    Whole(String, Metered),
    /// A replayed response.
    Again,
    /// Refused, or of a model that gives nothing: never charged.
    Nothing,
    /// The client left, or the response broke off; its end may have been given. With its id, where it was read.
    Unknown(Option<(String, Metered)>),
    /// Not a chat.
    Other,
}

/// Reads a response; whether it is complete. A client that leaves does so after its first piece.
async fn read(body: &mut Incoming, leaves: bool) -> bool {
    while let Some(piece) = next_text(body).await {
        if leaves || piece.is_err() {
            return false;
        }
    }
    true
}

async fn chat(caller: Caller, price: Price, mut random: Random) -> Ended {
    let message = MESSAGES[random.below(MESSAGES.len() as u64) as usize];
    match talk(&caller, message, &price, &mut random).await {
        Ended::Unknown(_) if matches!(message, "refuse it" | "say nothing") => Ended::Nothing,
        ended => ended,
    }
}

async fn talk(caller: &Caller, message: &str, price: &Price, random: &mut Random) -> Ended {
    let number = random.below(u64::MAX);
    let name = format!("key-{}", random.below(5));
    let key = [("idempotency-key", name.as_str())];
    let with_limits = |number, streams| Metered::with_limits(number, streams, price);
    let (path, headers, chat): (_, &[_], _) = match random.below(4) {
        0 => ("/chat", &[], Metered::new(number)),
        1 => ("/v1/chat/completions", &[], with_limits(number, true)),
        2 => ("/v1/chat/completions", &[], with_limits(number, false)),
        // The same request each time.
        _ => ("/v1/chat/completions", &key, with_limits(7, false)),
    };
    let body = match path {
        "/chat" => json!({ "message": chat.message(message) }).to_string(),
        _ => chat.body(message),
    };
    let asked = caller.try_open(Method::POST, path, headers, body);
    let is_silent = message == "say nothing" || message == "never end" && !chat.streams;
    let leaves = random.below(3) == 0 || is_silent;
    let answered = tokio::select! {
        answered = asked => answered,
        () = random.pause(), if leaves => return Ended::Unknown(None),
    };
    let Some((status, headers, mut body)) = answered else {
        return Ended::Unknown(None);
    };
    if status >= 400 {
        return Ended::Nothing;
    }
    let id = headers["x-request-id"].to_str().unwrap().to_owned();
    let leaves = message == "never end" || random.below(8) == 0;
    match read(&mut body, leaves).await {
        true if headers.contains_key("idempotency-replayed") => Ended::Again,
        true => Ended::Whole(id, chat),
        false => Ended::Unknown(Some((id, chat))),
    }
}

/// A server on a file, in a runtime of its own.
struct Life {
    runtime: Runtime,
    server: EdgeServer,
    store: Arc<SqliteStore>,
    database: PathBuf,
    base: String,
    admin: String,
}

/// Opens the store; a read of the life before may still be running, and has the lock until it is done.
fn open(database: &Path) -> SqliteStore {
    let began = Instant::now();
    loop {
        match SqliteStore::open(database, true) {
            Err(OpenError::Locked(LockError::Held(_))) if began.elapsed().as_secs() < 10 => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

impl Life {
    fn begin(database: &Path, config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = Arc::new(open(database));
        let (server, admin) = runtime.block_on(async {
            // Nothing is to be done after a crash.
            let report = store.verify_ledger(true).await.unwrap();
            assert_eq!(report.mistakes, Vec::<String>::new());
            assert_eq!(store.gauges().holds, 0);
            let request = KeyRequest {
                wallet: None,
                name: "simulation".to_owned(),
                scopes: Scopes::ADMIN,
                expires_at: None,
                login: false,
                limits: None,
            };
            let now = Clock::default().now();
            let admin = issue_key(&*store, request, 10, Actor::local(now), None);
            let admin = admin.await.unwrap().key.reveal().to_owned();
            let store: Arc<dyn Repository> = Arc::clone(&store) as _;
            (
                EdgeServer::builder(config, store).start().await.unwrap(),
                admin,
            )
        });
        let base = format!("http://{}", server.local_addr());
        Self {
            runtime,
            server,
            store,
            database: database.to_owned(),
            base,
            admin,
        }
    }

    /// Every task is dropped at its current await.
    fn crash(self) {
        let Self {
            runtime,
            server,
            store,
            ..
        } = self;
        runtime.shutdown_background();
        std::mem::forget(server);
        store.close();
    }

    fn end(self) {
        self.runtime.block_on(self.server.shutdown());
    }

    /// What was charged after an entry, once no hold is left.
    async fn charged(&self, after: i64) -> Vec<LedgerEntry> {
        eventually("every hold has its end", async || {
            let before = charges(&*self.store, W1, after).await;
            let report = self.store.verify_ledger(true).await.unwrap();
            assert_eq!(report.mistakes, Vec::<String>::new());
            let is_quiet = self.store.gauges().holds == 0;
            let still = is_quiet && before == charges(&*self.store, W1, after).await;
            still.then_some(before)
        })
        .await
    }
}

/// Concurrent steps of every kind; returns how each ended.
async fn interleaving(
    life: &Life,
    price: Price,
    random: &mut Random,
    key: &mut String,
) -> Vec<tokio::task::JoinHandle<Ended>> {
    let admin = Caller::new(&life.base, Some(&life.admin));
    if key.is_empty() {
        let body = json!({ "wallet_address": W1, "scopes": ["chat"] });
        // The file may still be locked.
        let made = eventually("a key is made", async || {
            let made = admin.post("/api/keys", &body).await;
            (made.status == 201).then(|| made.expect(201))
        });
        made.await["api_key"].as_str().unwrap().clone_into(key);
    }
    let caller = Caller::new(&life.base, Some(key));
    // Writes fail while it lasts, and what is charged meanwhile is tried again.
    let locked = (random.below(40) == 0).then(|| {
        let other = Connection::open(&life.database).unwrap();
        let locked = other.execute_batch("BEGIN IMMEDIATE").is_ok();
        locked.then_some(other)
    });
    let mut under_way = Vec::new();
    for _ in 0..2 + random.below(5) {
        let mut random = Random(random.below(u64::MAX));
        let (admin, caller) = (admin.clone(), caller.clone());
        under_way.push(tokio::spawn(async move {
            random.pause().await;
            match random.below(8) {
                0 => {
                    let amount = random.below(9) as i64 - 3;
                    let body = json!({ "amount": if amount == 0 { 1 } else { amount }, "reason": "simulation" });
                    admin.try_post(&format!("/users/{W1}/credits"), body.to_string()).await;
                    Ended::Other
                }
                _ => chat(caller, price, random).await,
            }
        }));
    }
    if random.below(10) == 0 {
        random.pause().await;
        let listed = admin
            .try_open(
                Method::GET,
                &format!("/api/keys?wallet_address={W1}&limit=1"),
                &[],
                "",
            )
            .await;
        if let Some((200, _, mut body)) = listed {
            let page = next_text(&mut body)
                .await
                .and_then(Result::ok)
                .unwrap_or_default();
            let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
            let newest = page["keys"][0]["id"].as_str().unwrap_or_default();
            admin
                .try_open(Method::DELETE, &format!("/api/keys/{newest}"), &[], "")
                .await;
            key.clear();
        }
    }
    if let Some(Some(other)) = locked {
        // Until a commit has failed, or none was tried.
        for _ in 0..random.below(3) {
            admin
                .try_post(&format!("/users/{W1}/credits"), GRANT.to_owned())
                .await;
        }
        other.execute_batch("ROLLBACK").unwrap();
    }
    under_way
}

const GRANT: &str = r#"{"amount":1,"reason":"simulation"}"#;

/// How the chats of a server ended.
#[derive(Default)]
struct Ends {
    whole: Vec<(String, Metered)>,
    /// Of some the id is not known.
    unknown: Vec<(String, Metered)>,
    unnamed: usize,
}

impl Ends {
    fn add(&mut self, ended: Ended) {
        match ended {
            Ended::Whole(id, chat) => self.whole.push((id, chat)),
            Ended::Unknown(Some(chat)) => self.unknown.push(chat),
            Ended::Unknown(None) => self.unnamed += 1,
            Ended::Again | Ended::Nothing | Ended::Other => {}
        }
    }

    /// What was charged is what these chats cost.
    fn check(&self, price: &Price, charged: &[LedgerEntry]) {
        let mut unnamed = charged.len();
        for (chats, ended) in [(&self.whole, true), (&self.unknown, false)] {
            for (id, chat) in chats {
                let is_its = |entry: &&LedgerEntry| {
                    let detail = entry.detail.as_ref().unwrap();
                    detail.request_id == *id
                };
                let mut entries = charged.iter().filter(is_its);
                let entry = entries.next();
                assert!(
                    entry.is_some() || !ended,
                    "{chat:?} was given and is not charged"
                );
                assert_eq!(entries.next(), None);
                if let Some(entry) = entry {
                    chat.check(price, entry, ended);
                    unnamed -= 1;
                }
            }
        }
        assert!(
            unnamed <= self.unnamed,
            "{unnamed} more were charged, {} may have been given",
            self.unnamed
        );
    }
}

#[test]
fn the_ledger_adds_up_after_any_interleaving() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed =
        number("SIMULATION_SEED").unwrap_or_else(|| Clock::default().now().millis().unsigned_abs());
    let rounds = number("SIMULATION_ROUNDS").unwrap_or(300);
    println!("SIMULATION_SEED={seed} SIMULATION_ROUNDS={rounds}");
    let mut random = Random(seed);
    let outside = Runtime::new().unwrap();
    let upstream = outside.block_on(Upstream::inference(metered::answer));
    let mut config = config_with_inference("openai", &upstream);
    config.inference[0].model = "tiny".to_owned();
    config.breaker.consecutive_failures = 20;
    config.chat.in_flight = 2;
    config.chat.queue = 1;
    config.limits.shutdown_grace = std::time::Duration::from_millis(20);
    let (mut done, mut crashes, mut answers) = (0, 0, 0);
    while done < rounds {
        // A new file now and then, as each round reads all of it.
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("edge.db");
        let mut key = String::new();
        // The price of the life that crashed last, the newest entry before it, and what its clients saw.
        let mut crashed: Option<(Price, i64, Ends)> = None;
        for life in 0..10 {
            let price = metered::price(PRICES[random.below(PRICES.len() as u64) as usize]);
            metered::configure(&mut config.chat, price);
            let alive = Life::begin(&database, config.clone());
            if life == 0 {
                let body = json!({ "amount": 20, "reason": "simulation" });
                let admin = Caller::new(&alive.base, Some(&alive.admin));
                let path = format!("/users/{W1}/credits");
                outside.block_on(async { admin.post(&path, &body).await.expect(200) });
            }
            if let Some((price, before_it, ends)) = crashed.take() {
                ends.check(&price, &outside.block_on(alive.charged(before_it)));
            }
            let newest = outside.block_on(alive.store.ledger(wallet(W1), None, 1));
            let before = newest.unwrap().1[0].id;
            // A request whose client left may end rounds later.
            let mut ends = Ends::default();
            let mut interrupted = Vec::new();
            let lasts = 1 + random.below(10);
            let crashes_in = random.below(20);
            for round in 0..lasts {
                done += 1;
                let under_way =
                    outside.block_on(interleaving(&alive, price, &mut random, &mut key));
                if round == crashes_in {
                    outside.block_on(random.pause());
                    interrupted = under_way;
                    break;
                }
                for task in under_way {
                    ends.add(outside.block_on(task).unwrap());
                }
                ends.check(&price, &outside.block_on(alive.charged(before)));
            }
            if crashes_in < lasts {
                crashes += 1;
                alive.crash();
                for task in interrupted {
                    task.abort();
                    // One that was aborted may have had its answer.
                    let ended = outside.block_on(task);
                    ends.add(ended.unwrap_or(Ended::Unknown(None)));
                }
                answers += ends.whole.len();
                crashed = Some((price, before, ends));
            } else {
                answers += ends.whole.len();
                alive.end();
            }
        }
    }
    println!("{done} interleavings, {crashes} crashes, {answers} whole answers");
    assert!(answers > 0 && crashes > 0, "nothing was tested");
}
