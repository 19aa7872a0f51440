use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use r3mes_edge::auth::{KeyHash, KeyRecord};
use r3mes_edge::limits::RateClass;
use r3mes_edge::model::{Credits, Retention, Sample, Timestamp, Wallet};
use r3mes_edge::server::StartError;
use r3mes_edge::store::{
    Backup, Counted, Earning, EarningsDay, HashratePoint, IdempotentRequest, LedgerEntry,
    LedgerReport, MinerStats, Outcome, RankedMiner, Recorded, Resolution, StoreError, StoreGauges,
    StoreObserver, StoredResponse, Totals, User,
};
use r3mes_edge::{Clock, EdgeServer, Repository, SqliteStore};
use serde_json::json;
use tokio::sync::Notify;

use crate::chat::{held_inference, whole};
use crate::support::{
    Answer, Caller, Scripted, TestServer, Upstream, W1, W2, config, config_with_inference,
    config_with_rate, eventually, wallet,
};

/// An internal error text of the storage, which must not reach a client.
const INTERNAL: &str = "disk I/O error in SELECT hash FROM api_keys";

/// Which methods fail, and how many times.
#[derive(Clone, Default)]
pub(crate) struct Faults(
    Arc<Mutex<HashMap<&'static str, usize>>>,
    Arc<Mutex<Option<(Clock, Duration)>>>,
    Arc<Mutex<Option<StoreGauges>>>,
    Arc<Notify>,
);

impl Faults {
    pub(crate) fn fail(&self, verb: &'static str) {
        self.fail_times(verb, usize::MAX);
    }

    fn fail_times(&self, verb: &'static str, times: usize) {
        self.0.lock().unwrap().insert(verb, times);
    }

    pub(crate) fn mend(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Delays every method by this long on this clock.
    pub(crate) fn slow(&self, clock: &Clock, by: Duration) {
        *self.1.lock().unwrap() = Some((clock.clone(), by));
    }

    /// Makes the storage report these gauges.
    pub(crate) fn say(&self, gauges: StoreGauges) {
        *self.2.lock().unwrap() = Some(gauges);
    }

    /// Releases one held commit.
    fn release(&self) {
        self.3.notify_one();
    }

    fn check(&self, verb: &str) -> Result<(), StoreError> {
        if let Some((clock, by)) = &*self.1.lock().unwrap() {
            clock.advance(*by);
        }
        match self.0.lock().unwrap().get_mut(verb) {
            Some(times) if *times > 0 => {
                *times -= 1;
                Err(StoreError::Unavailable(INTERNAL.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// A server over a storage with these faults.
    pub(crate) async fn serve(&self, config: r3mes_edge::Config) -> TestServer {
        let faults = self.clone();
        TestServer::start_with(config, |store| Arc::new(Faulty { store, faults })).await
    }
}

/// A storage that works until it is made to fail.
struct Faulty {
    store: SqliteStore,
    faults: Faults,
}

macro_rules! verbs {
    ($($verb:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Repository for Faulty {
            $(async fn $verb(&self, $($argument: $type),*) -> Result<$answer, StoreError> {
                self.faults.check(stringify!($verb))?;
                self.store.$verb($($argument),*).await
            })*

            async fn reserve_ahead(
                &self,
                wallet: Wallet,
                price: Credits,
                now: Timestamp,
                taken: Box<dyn FnOnce() + Send>,
            ) -> Result<i64, StoreError> {
                self.faults.check("reserve")?;
                if self.faults.check("commit").is_err() {
                    taken();
                    self.faults.3.notified().await;
                    self.faults.check("commit")?;
                }
                self.store.reserve(wallet, price, now).await
            }

            fn observe(&self, observer: Weak<dyn StoreObserver>) {
                self.store.observe(observer);
            }

            fn gauges(&self) -> StoreGauges {
                let gauges = *self.faults.2.lock().unwrap();
                gauges.unwrap_or_else(|| self.store.gauges())
            }

            fn is_ready(&self) -> bool {
                self.faults.check("is_ready").is_ok() && self.store.is_ready()
            }

            fn close(&self) {
                self.store.close();
            }
        }
    };
}

verbs! {
    create_user(wallet: Wallet, now: Timestamp, idempotent: Option<IdempotentRequest<User>>) -> Outcome<User>;
    user(wallet: Wallet) -> User;
    users(after: Option<Wallet>, limit: usize) -> Vec<User>;
    grant(wallet: Wallet, amount: Credits, reason: String, now: Timestamp, idempotent: Option<IdempotentRequest<(LedgerEntry, bool)>>) -> Outcome<(LedgerEntry, bool)>;
    ledger(wallet: Wallet, before: Option<i64>, limit: usize) -> (Credits, Vec<LedgerEntry>);
    reserve(wallet: Wallet, price: Credits, now: Timestamp) -> i64;
    settle(reservation: i64, now: Timestamp) -> ();
    settle_kept(reservation: i64, answer: String, note: Option<String>, now: Timestamp, idempotent: IdempotentRequest<(i64, String)>) -> ();
    note_reservations(notes: Vec<(i64, String)>) -> ();
    stored_response(key: [u8; 32], request: [u8; 32], now: Timestamp) -> Option<StoredResponse>;
    check_idempotency_rows(scope: String, running: usize, now: Timestamp) -> ();
    refund(reservation: i64, now: Timestamp) -> ();
    refund_open(now: Timestamp) -> usize;
    verify_ledger() -> LedgerReport;
    create_key(key: KeyRecord, max_active: usize, idempotent: Option<IdempotentRequest<KeyRecord>>) -> bool;
    key_by_hash(hash: KeyHash) -> Option<KeyRecord>;
    adopt_key(sha256: KeyHash, hash: KeyHash, start: String) -> Option<KeyRecord>;
    keys(wallet: Option<Wallet>, before: Option<String>, limit: usize) -> Vec<KeyRecord>;
    revoke_key(id: String, wallet: Option<Wallet>, now: Timestamp) -> KeyRecord;
    key(id: String) -> Option<KeyRecord>;
    rotate_key(id: String, new: KeyRecord, until: Timestamp, max_active: usize) -> KeyRecord;
    purge(now: Timestamp) -> usize;
    back_up(folder: Option<PathBuf>, keep: Option<usize>, now: Timestamp) -> Backup;
    last_backup(folder: Option<PathBuf>, now: Timestamp) -> Option<Timestamp>;
    compact(retention: Retention, now: Timestamp) -> ();
    touch_keys(touched: Vec<(String, Timestamp)>) -> ();
    record_samples(samples: Vec<Sample>, now: Timestamp) -> Recorded;
    record_earning(earning: Earning, now: Timestamp, idempotent: Option<IdempotentRequest<Counted>>) -> Outcome<Counted>;
    miner(wallet: Wallet, active_since: Timestamp) -> MinerStats;
    earnings(wallet: Wallet, since: Timestamp) -> Vec<EarningsDay>;
    hashrate(wallet: Wallet, since: Timestamp, resolution: Resolution, limit: usize) -> Vec<HashratePoint>;
    shares(wallet: Wallet, since: Timestamp) -> Option<(i64, Timestamp)>;
    leaderboard(since: Option<Timestamp>, limit: usize) -> Vec<RankedMiner>;
    totals(active_since: Timestamp) -> Totals;
}

/// An error with `Retry-After` and without internals.
#[track_caller]
fn unavailable(answer: Answer) {
    let body = answer.refused(503, "storage_unavailable").to_string();
    for secret in ["disk", "SELECT", "api_keys"] {
        assert!(!body.contains(secret), "{body}");
    }
}

#[tokio::test]
async fn a_failed_lookup_of_a_key_is_not_reported_as_an_invalid_key() {
    let faults = Faults::default();
    let server = faults.serve(config_with_rate(RateClass::Failures)).await;
    let caller = server.caller(W1, &["read", "miner"]).await;
    faults.fail("key_by_hash");
    // Any number of times: it does not count as a guess.
    for _ in 0..30 {
        unavailable(caller.get("/auth/me").await);
    }
    unavailable(caller.get(&format!("/users/{W1}/ledger")).await);
    unavailable(caller.post("/miner/stats", &json!({"hashrate": 1})).await);
    // Open with public reads, but a key was sent and its lookup failed.
    unavailable(caller.get("/network/stats").await);
    // Errors that need no lookup are unchanged.
    let wrong = server.with_key("r3mes_nonsense");
    wrong.get("/auth/me").await.refused(401, "invalid_api_key");
    faults.mend();
    caller.get("/auth/me").await.expect(200);
    // Cached by now.
    faults.fail("key_by_hash");
    caller.get("/auth/me").await.expect(200);
}

#[tokio::test]
async fn a_failed_read_is_not_reported_as_not_found() {
    let faults = Faults::default();
    let server = faults.serve(config()).await;
    let admin = server.admin();
    server.caller(W1, &["read"]).await;
    for (verb, path) in [
        ("user", format!("/users/{W1}")),
        ("user", format!("/users/{W2}")),
        ("users", "/users".to_owned()),
        ("ledger", format!("/users/{W1}/ledger")),
        ("miner", format!("/miner/stats/{W1}")),
        ("miner", format!("/miner/stats/{W2}")),
        ("earnings", format!("/miner/earnings/{W2}")),
        ("hashrate", format!("/miner/hashrate/{W2}")),
        ("leaderboard", "/leaderboard".to_owned()),
        ("totals", "/network/stats".to_owned()),
        ("keys", "/api/keys".to_owned()),
        ("verify_ledger", "/admin/ledger/verify".to_owned()),
    ] {
        faults.fail(verb);
        unavailable(admin.get(&path).await);
        faults.mend();
        let after = admin.get(&path).await.status;
        let expected = if path.contains(W2) { 404 } else { 200 };
        assert_eq!(after, expected, "{path}");
    }
}

#[tokio::test]
async fn a_write_that_fails_is_refused_and_leaves_nothing() {
    let faults = Faults::default();
    let server = faults.serve(config()).await;
    let admin = server.admin();
    admin.get("/auth/me").await.expect(200);
    for (verb, path, body) in [
        (
            "create_user",
            "/users".to_owned(),
            json!({"wallet_address": W1}),
        ),
        (
            "grant",
            format!("/users/{W1}/credits"),
            json!({"amount": 1, "reason": "test"}),
        ),
        (
            "create_key",
            "/api/keys".to_owned(),
            json!({"wallet_address": W1}),
        ),
        (
            "record_samples",
            "/miner/stats".to_owned(),
            json!({"wallet_address": W1, "hashrate": 1}),
        ),
        (
            "record_earning",
            "/miner/earnings".to_owned(),
            json!({"wallet_address": W1, "earnings": 1, "source_id": "a"}),
        ),
    ] {
        faults.fail(verb);
        unavailable(admin.post(&path, &body).await);
        faults.mend();
        let unknown = admin.get(&format!("/users/{W1}")).await;
        unknown.refused(404, "user_not_found");
    }
    let body = json!({"wallet_address": W1});
    let made = admin.post("/api/keys", &body).await.expect(201);
    let path = format!("/api/keys/{}", made["id"].as_str().unwrap());
    faults.fail("revoke_key");
    unavailable(admin.delete(&path).await);
    let key = server.with_key(made["api_key"].as_str().unwrap());
    key.get("/auth/me").await.expect(200);
    let metrics = admin.get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("\ncredits_distributed_total{reason=\"grant\"} 0"));
    assert!(metrics.contains("\nr3mes_miner_samples_total 0\n"));
}

#[tokio::test]
async fn a_storage_that_rejects_writes_is_alive_but_not_ready() {
    let faults = Faults::default();
    let server = faults.serve(config()).await;
    let caller = server.anybody();
    faults.fail("is_ready");
    unavailable(caller.get("/readyz").await);
    caller.get("/livez").await.expect(200);
    let health = caller.get("/health").await.expect(200);
    assert_eq!(
        (&health["status"], &health["storage"]["ready"]),
        (&json!("degraded"), &json!(false))
    );
    faults.mend();
    caller.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn a_server_does_not_start_over_a_storage_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("edge.db"), true).unwrap();
    let faults = Faults::default();
    faults.fail("refund_open");
    let store = Arc::new(Faulty { store, faults });
    let started = EdgeServer::builder(config(), store).start().await;
    let error = started.err().unwrap();
    assert!(
        matches!(&error, StartError::Store(StoreError::Unavailable(why)) if why == INTERNAL),
        "{error}"
    );
}

/// A server of this inference server with a storage that can fail, and a caller with three credits.
async fn chat_with_faults(upstream: &Upstream) -> (Faults, TestServer, Caller) {
    let faults = Faults::default();
    let config = config_with_inference("openai", upstream);
    let server = faults.serve(config).await;
    let caller = server.payer(W1, 3).await;
    (faults, server, caller)
}

#[tokio::test]
async fn a_chat_that_cannot_be_charged_is_refused_before_a_model_is_called() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("reserve");
    unavailable(caller.post("/chat", &json!({"message": "hi"})).await);
    assert!(upstream.seen("/v1/chat").is_empty());
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_model_is_called_while_the_price_is_being_written_and_cancelled_where_that_fails() {
    let (held, frames) = Scripted::held();
    let held = Mutex::new(Some(held));
    let upstream = Upstream::inference(move |_| held.lock().unwrap().take().unwrap()).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("commit");
    let chat = tokio::spawn(async move { caller.post("/chat", &json!({"message": "hi"})).await });
    let asked = async || upstream.seen("/v1/chat").pop();
    eventually("the model is asked", asked).await;
    frames.send_word("for free");
    faults.release();
    unavailable(chat.await.unwrap());
    frames.reader_left().await;
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn text_that_comes_while_the_price_is_being_written_is_held_until_it_is() {
    let upstream = Upstream::inference(|_| Scripted::words(&["paid"])).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("commit");
    let chat = tokio::spawn(async move { caller.chat("hi").await });
    let asked = async || upstream.seen("/v1/chat").pop();
    eventually("the model is asked", asked).await;
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    assert!(!chat.is_finished());
    faults.mend();
    faults.release();
    let (status, _, body) = chat.await.unwrap();
    assert_eq!(
        (status, whole(body).await.unwrap().as_str()),
        (200, "paid\n")
    );
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (2_000_000, 0, vec![]));
}

#[tokio::test]
async fn a_client_that_disconnects_while_the_price_is_being_written_cancels_the_model_and_pays_nothing()
 {
    let (upstream, mut held) = held_inference().await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("commit");
    let chat = tokio::spawn(async move { caller.chat("hi").await.0 });
    let frames = held.recv().await.unwrap();
    chat.abort();
    // The commit has not returned yet.
    frames.reader_left().await;
    faults.mend();
    faults.release();
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (3_000_000, 0, vec![]));
}

/// The balance of the wallet, its open reservations and the errors of the ledger.
pub(crate) async fn money(folder: &tempfile::TempDir) -> (i64, i64, Vec<String>) {
    let store = SqliteStore::open(&folder.path().join("edge.db"), false).unwrap();
    let report = store.verify_ledger().await.unwrap();
    let user = store.user(wallet(W1)).await.unwrap();
    (
        user.credits.micro(),
        report.open_reservations,
        report.mistakes,
    )
}

#[tokio::test]
async fn a_settlement_that_could_not_be_written_is_written_in_the_end() {
    let upstream = Upstream::inference(|_| Scripted::words(&["paid"])).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail_times("settle", 1);
    let (status, _, body) = caller.chat("hi").await;
    assert_eq!(
        (status, whole(body).await.unwrap().as_str()),
        (200, "paid\n")
    );
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["storage"]["reservations_unwritten"], 1);
    let report = server.store.verify_ledger().await.unwrap();
    assert_eq!((report.open_reservations, report.mistakes.len()), (1, 0));
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (2_000_000, 0, vec![]));
}

#[tokio::test]
async fn a_refund_that_could_not_be_written_is_written_in_the_end() {
    let upstream = Upstream::inference(|_| Scripted::whole(500, "no")).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail_times("refund", 1);
    caller
        .post("/chat", &json!({"message": "hi"}))
        .await
        .refused(502, "upstream_bad_response");
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (3_000_000, 0, vec![]));
}

#[tokio::test]
async fn a_charge_not_settled_before_the_shutdown_is_refunded_at_the_next_start() {
    let upstream = Upstream::inference(|_| Scripted::words(&["a gift"])).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("settle");
    let (_, _, body) = caller.chat("hi").await;
    assert_eq!(whole(body).await.unwrap(), "a gift\n");
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (2_000_000, 1, vec![]));
    let store = SqliteStore::open(&folder.path().join("edge.db"), false).unwrap();
    let next = EdgeServer::builder(config(), Arc::new(store)).start().await;
    next.unwrap().shutdown().await;
    assert_eq!(money(&folder).await, (3_000_000, 0, vec![]));
}
