use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use hyper::body::Incoming;
use r3mes_edge::auth::{KeyHash, KeyRecord};
use r3mes_edge::limits::RateClass;
use r3mes_edge::model::{ClockReading, Credits, Retention, Sample, Timestamp, Wallet};
use r3mes_edge::store::{
    Actor, AuditEntry, Backup, BackupList, Backups, Change, Charge, Charged, Counted, Earning,
    EarningsDay, ExportedEntry, HashratePoint, Hold, HoldRequest, IdempotentRequest, LedgerEntry,
    LedgerReport, ListedUser, LostRequest, MinerStats, NotWritten, Observers, Origin, Outcome,
    RankedMiner, Recorded, Resolution, Shares, Spending, StoreError, StoreGauges, StoreObserver,
    StoredResponse, Totals, Usage, UsageQuery, User, UserQuery, WorkerStats, ledger_id,
};
use r3mes_edge::{Clock, EdgeServer, Repository, SqliteStore};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::chat::{held_inference, whole};
use crate::support::{
    Answer, Caller, Scripted, TestServer, Upstream, W1, W2, config, config_with_inference,
    config_with_rate, eventually, next_text, wallet,
};

/// An internal error text of the storage, which must not reach a client.
const INTERNAL: &str = "disk I/O error in SELECT hash FROM api_keys";

/// What fails, and how.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The methods that fail, and how many times.
    failing: Mutex<HashMap<&'static str, usize>>,
    delay: Mutex<Option<(Clock, Duration)>>,
    gauges: Mutex<Option<StoreGauges>>,
    /// Whether charges wait before their COMMIT.
    holds_commits: watch::Sender<bool>,
    /// How often each method was called.
    calls: Mutex<HashMap<String, usize>>,
    makes_no_backups: AtomicBool,
    /// Whether another process is the leader.
    follows: AtomicBool,
    observers: Observers,
}

impl Faults {
    pub(crate) fn fail(&self, verb: &'static str) {
        self.fail_times(verb, usize::MAX);
    }

    pub(crate) fn fail_times(&self, verb: &'static str, times: usize) {
        self.0.failing.lock().unwrap().insert(verb, times);
    }

    pub(crate) fn mend(&self) {
        self.0.failing.lock().unwrap().clear();
    }

    /// Delays every method by this long on this clock.
    pub(crate) fn slow(&self, clock: &Clock, by: Duration) {
        *self.0.delay.lock().unwrap() = Some((clock.clone(), by));
    }

    /// Makes the storage report these gauges.
    pub(crate) fn say(&self, gauges: StoreGauges) {
        *self.0.gauges.lock().unwrap() = Some(gauges);
    }

    /// Lets charges wait before their COMMIT until [`Self::release_commits`].
    pub(crate) fn hold_commits(&self) {
        self.0.holds_commits.send_replace(true);
    }

    pub(crate) fn release_commits(&self) {
        self.0.holds_commits.send_replace(false);
    }

    /// Returns when so many charges wait before their COMMIT.
    pub(crate) async fn commits_held(&self, count: usize) {
        let waiting = async || (self.0.holds_commits.receiver_count() == count).then_some(());
        eventually("the charges wait for their COMMIT", waiting).await;
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, verb: &str) -> usize {
        *self.0.calls.lock().unwrap().get(verb).unwrap_or(&0)
    }

    pub(crate) fn make_no_backups(&self) {
        self.0.makes_no_backups.store(true, Ordering::Relaxed);
    }

    pub(crate) fn lead(&self, leads: bool) {
        self.0.follows.store(!leads, Ordering::Relaxed);
    }

    /// Notifies of a change that another process made.
    pub(crate) fn changed_elsewhere(&self, change: Change) {
        let notify = |observer: &dyn StoreObserver| observer.changed(&change, Origin::Elsewhere);
        self.0.observers.each(notify);
    }

    fn check(&self, verb: &str) -> Result<(), StoreError> {
        *self
            .0
            .calls
            .lock()
            .unwrap()
            .entry(verb.to_owned())
            .or_default() += 1;
        if let Some((clock, by)) = &*self.0.delay.lock().unwrap() {
            clock.advance(*by);
        }
        match self.0.failing.lock().unwrap().get_mut(verb) {
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

            async fn charge(
                &self,
                hold: Hold,
                charge: Charge,
                now: Timestamp,
            ) -> Result<Charged, NotWritten> {
                if let Err(error) = self.faults.check("charge") {
                    return Err(NotWritten { hold: Some(hold), error });
                }
                // No retry can mend this.
                if let Err(error) = self.faults.check("charge for good") {
                    return Err(NotWritten { hold: None, error });
                }
                let mut held = self.faults.0.holds_commits.subscribe();
                let _ = held.wait_for(|held| !held).await;
                drop(held);
                self.store.charge(hold, charge, now).await
            }

            fn backups(&self) -> Option<&dyn Backups> {
                let makes_none = self.faults.0.makes_no_backups.load(Ordering::Relaxed);
                (!makes_none).then_some(self as _)
            }

            fn is_leader(&self) -> bool {
                !self.faults.0.follows.load(Ordering::Relaxed)
            }

            fn observe(&self, observer: Weak<dyn StoreObserver>) {
                self.store.observe(Weak::clone(&observer));
                self.faults.0.observers.add(observer);
            }

            fn gauges(&self) -> StoreGauges {
                let gauges = *self.faults.0.gauges.lock().unwrap();
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
    create_user(wallet: Wallet, actor: Actor, idempotent: Option<IdempotentRequest<User>>) -> Outcome<User>;
    user(wallet: Wallet) -> User;
    available(wallet: Wallet) -> Credits;
    users(query: UserQuery) -> Vec<ListedUser>;
    set_blocked(wallet: Wallet, blocked: bool, actor: Actor) -> User;
    grant(wallet: Wallet, amount: Credits, reason: String, reference: Option<String>, actor: Actor, idempotent: Option<IdempotentRequest<(LedgerEntry, bool)>>) -> Outcome<(LedgerEntry, bool)>;
    ledger(wallet: Wallet, before: Option<i64>, limit: usize) -> (Credits, Vec<LedgerEntry>);
    export_ledger(wallet: Option<Wallet>, after: Option<i64>, limit: usize) -> Vec<ExportedEntry>;
    hold(request: HoldRequest) -> Hold;
    spent(of: Vec<Spending>) -> Vec<Credits>;
    refund(charged: Charged, answer: Option<[u8; 32]>, now: Timestamp) -> ();
    count_lost(lost: LostRequest, now: Timestamp) -> ();
    usage(query: UsageQuery) -> Vec<Usage>;
    stored_response(key: [u8; 32], request: [u8; 32], now: Timestamp) -> Option<StoredResponse>;
    check_idempotency_rows(scope: String, running: usize, now: Timestamp) -> ();
    verify_ledger(full: bool) -> LedgerReport;
    create_key(key: KeyRecord, max_active: usize, actor: Actor, idempotent: Option<IdempotentRequest<KeyRecord>>) -> bool;
    key_by_hash(hash: KeyHash) -> Option<KeyRecord>;
    adopt_key(sha256: KeyHash, hash: KeyHash, start: String) -> Option<KeyRecord>;
    keys(wallet: Option<Wallet>, before: Option<String>, limit: usize) -> Vec<KeyRecord>;
    revoke_key(id: String, wallet: Option<Wallet>, actor: Actor) -> KeyRecord;
    key(id: String) -> Option<KeyRecord>;
    rotate_key(id: String, new: KeyRecord, until: Timestamp, max_active: usize, actor: Actor) -> KeyRecord;
    record_action(action: &'static str, target: String, actor: Actor) -> ();
    audit(before: Option<i64>, limit: usize) -> Vec<AuditEntry>;
    purge(now: Timestamp) -> usize;
    compact(retention: Retention, now: Timestamp) -> ();
    touch_keys(touched: Vec<(String, Timestamp)>) -> ();
    record_samples(samples: Vec<Sample>, max_workers: usize, now: Timestamp) -> Recorded;
    record_earning(earning: Earning, actor: Actor, idempotent: Option<IdempotentRequest<Counted>>) -> Outcome<Counted>;
    miner(wallet: Wallet, now: Timestamp) -> MinerStats;
    workers(wallet: Wallet, now: Timestamp, limit: usize) -> Vec<WorkerStats>;
    recent_miners(now: Timestamp, limit: usize) -> Vec<Wallet>;
    earnings(wallet: Wallet, period: Range<Timestamp>) -> Vec<EarningsDay>;
    hashrate(wallet: Wallet, period: Range<Timestamp>, resolution: Resolution, limit: usize) -> Vec<HashratePoint>;
    shares(wallet: Wallet, period: Range<Timestamp>) -> Option<Shares>;
    leaderboard(since: Option<Timestamp>, now: Timestamp, limit: usize) -> Vec<RankedMiner>;
    totals(now: Timestamp) -> Totals;
    last_clock() -> Option<ClockReading>;
    record_clock(reading: ClockReading) -> ();
}

#[async_trait]
impl Backups for Faulty {
    async fn back_up(
        &self,
        folder: Option<PathBuf>,
        keep: Option<usize>,
        now: Timestamp,
    ) -> Result<Backup, StoreError> {
        self.faults.check("back_up")?;
        self.store.back_up(folder, keep, now).await
    }

    async fn last_backup(
        &self,
        folder: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        self.faults.check("last_backup")?;
        self.store.last_backup(folder, now).await
    }

    async fn list(&self, folder: Option<PathBuf>, limit: usize) -> Result<BackupList, StoreError> {
        self.faults.check("list")?;
        self.store.list(folder, limit).await
    }

    async fn verify(
        &self,
        folder: Option<PathBuf>,
        name: String,
    ) -> Result<Option<LedgerReport>, StoreError> {
        self.faults.check("verify")?;
        self.store.verify(folder, name).await
    }
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
        ("audit", "/admin/audit".to_owned()),
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
async fn a_server_starts_over_a_storage_that_fails_and_reports_it() {
    let faults = Faults::default();
    for verb in ["is_ready", "verify_ledger", "purge", "compact", "user"] {
        faults.fail(verb);
    }
    let server = faults.serve(config()).await;
    let caller = server.anybody();
    caller.get("/livez").await.expect(200);
    unavailable(caller.get("/readyz").await);
    faults.mend();
    caller.get("/readyz").await.expect(200);
}

/// A server of this inference server with a storage that can fail, and a caller with three credits.
async fn chat_with_faults(upstream: &Upstream) -> (Faults, TestServer, Caller) {
    let faults = Faults::default();
    let config = config_with_inference("openai", upstream);
    let server = faults.serve(config).await;
    let caller = server.payer(W1, 3).await;
    (faults, server, caller)
}

const COMPLETIONS: &str = "/v1/chat/completions";

/// A request of the OpenAI-compatible route.
fn completion(stream: bool) -> String {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    json!({ "stream": stream, "messages": messages }).to_string()
}

/// Asks for a streamed completion and returns with the head of its answer.
async fn events(caller: &Caller) -> (u16, hyper::HeaderMap, Incoming) {
    caller
        .open(Method::POST, COMPLETIONS, &[], completion(true))
        .await
}

/// What of a body has arrived; `None` where there is nothing new.
async fn arrived(server: &TestServer, body: &mut Incoming) -> Option<String> {
    // Whatever was sent before these answers is here after them.
    for _ in 0..3 {
        server.anybody().get("/livez").await.expect(200);
    }
    tokio::select! {
        biased;
        piece = next_text(body) => Some(format!("{piece:?}")),
        () = std::future::ready(()) => None,
    }
}

async fn holds(server: &TestServer, count: usize) {
    let holds = async || (server.store.gauges().holds == count).then_some(());
    eventually("so many holds", holds).await;
}

#[tokio::test]
async fn a_chat_whose_price_cannot_be_held_is_refused_before_a_model_is_called() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("hold");
    unavailable(caller.post("/chat", &json!({"message": "hi"})).await);
    assert!(upstream.seen("/v1/chat").is_empty());
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn text_waits_for_no_commit_and_the_end_of_a_chat_for_that_of_its_charge() {
    let (upstream, mut held) = held_inference().await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.hold_commits();
    let asking = tokio::spawn(async move { caller.chat("hi").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("one ");
    let (status, _, mut body) = asking.await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "one ");
    frames.send_word("two");
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "two");
    frames.send_done();
    faults.commits_held(1).await;
    assert_eq!(arrived(&server, &mut body).await, None);
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    faults.release_commits();
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "\n");
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    assert!(next_text(&mut body).await.is_none());
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn the_finish_event_and_all_after_it_are_sent_after_the_commit_of_the_charge() {
    let (upstream, mut held) = held_inference().await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.hold_commits();
    let asking = tokio::spawn(async move { events(&caller).await });
    let frames = held.recv().await.unwrap();
    frames.send_word("all of it");
    let (status, _, mut body) = asking.await.unwrap();
    assert_eq!(status, 200);
    let word = next_text(&mut body).await.unwrap().unwrap();
    assert!(word.contains("all of it"), "{word}");
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    frames.send(finish);
    // Some servers send more between the finish and the end.
    frames.send("data: {\"choices\":[],\"x_timings\":{}}\n\n");
    frames.send_done();
    faults.commits_held(1).await;
    assert_eq!(arrived(&server, &mut body).await, None);
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    faults.release_commits();
    let mut rest = next_text(&mut body).await.unwrap().unwrap();
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    rest += &whole(body).await.unwrap();
    assert!(rest.starts_with(finish), "{rest}");
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_whole_answer_is_sent_after_the_commit_of_its_charge() {
    let upstream = Upstream::inference(|_| Scripted::completion("hello")).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.hold_commits();
    let asking = tokio::spawn(async move {
        let sent = caller.send(Method::POST, COMPLETIONS, &[], completion(false));
        sent.await
    });
    faults.commits_held(1).await;
    server.anybody().get("/livez").await.expect(200);
    assert!(!asking.is_finished());
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    faults.release_commits();
    asking.await.unwrap().expect(200);
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_charge_is_written_has_paid() {
    for stream in [true, false] {
        let upstream = Upstream::inference(move |_| match stream {
            true => Scripted::words(&["paid"]),
            false => Scripted::completion("paid"),
        })
        .await;
        let (faults, server, caller) = chat_with_faults(&upstream).await;
        faults.hold_commits();
        let chat = tokio::spawn(async move {
            let asked = caller.open(Method::POST, COMPLETIONS, &[], completion(stream));
            whole(asked.await.2).await
        });
        faults.commits_held(1).await;
        chat.abort();
        assert!(chat.await.is_err());
        faults.release_commits();
        let folder = server.shutdown().await;
        assert_eq!(money(&folder).await, (2_000_000, vec![]), "{stream}");
    }
}

/// The balance of the wallet and the errors of the ledger.
pub(crate) async fn money(folder: &tempfile::TempDir) -> (i64, Vec<String>) {
    let store = SqliteStore::open(&folder.path().join("edge.db"), false).unwrap();
    let report = store.verify_ledger(true).await.unwrap();
    let user = store.user(wallet(W1)).await.unwrap();
    (user.credits.micro(), report.mistakes)
}

#[tokio::test]
async fn a_charge_that_could_not_be_written_is_retried_and_its_amount_stays_held() {
    let upstream = Upstream::inference(|_| Scripted::words(&["paid"])).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("charge");
    let (status, _, mut body) = caller.chat("hi").await;
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "paid");
    let admin = server.admin();
    let retried = async || {
        let metrics = admin.get("/metrics").await;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        (!metrics.contains("\nr3mes_charges_retried_total 0\n")).then_some(metrics)
    };
    let metrics = eventually("a retry", retried).await;
    assert!(
        metrics.contains("\nr3mes_charges_retried_total "),
        "{metrics}"
    );
    let health = server.anybody().get("/health").await.expect(200);
    assert_eq!(health["storage"]["holds"], 1);
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    let take = json!({ "amount": -3, "reason": "test" });
    let path = format!("/users/{W1}/credits");
    let refused = admin.post(&path, &take).await;
    refused.refused(409, "conflict");
    assert_eq!(arrived(&server, &mut body).await, None);
    faults.mend();
    assert_eq!(whole(body).await.unwrap(), "\n");
    holds(&server, 0).await;
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (2_000_000, vec![]));
}

#[tokio::test]
async fn a_chat_that_gave_nothing_needs_no_write() {
    let upstream = Upstream::inference(|_| Scripted::whole(500, "no")).await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    for verb in ["charge", "refund"] {
        faults.fail(verb);
    }
    caller
        .post("/chat", &json!({"message": "hi"}))
        .await
        .refused(502, "upstream_bad_response");
    holds(&server, 0).await;
    let (balance, entries) = server.store.ledger(wallet(W1), None, 9).await.unwrap();
    assert_eq!((balance.micro(), entries.len()), (3_000_000, 1));
}

#[tokio::test]
async fn a_charge_not_written_at_the_end_of_the_shutdown_is_lost_and_its_text_was_cut() {
    let upstream = Upstream::inference(|_| Scripted::words(&["a gift"])).await;
    let faults = Faults::default();
    let mut short = config_with_inference("openai", &upstream);
    short.limits.shutdown_grace = Duration::from_millis(50);
    let server = faults.serve(short).await;
    let caller = server.payer(W1, 3).await;
    faults.fail("charge");
    let (_, _, mut body) = caller.chat("hi").await;
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "a gift");
    let folder = server.shutdown().await;
    assert!(
        whole(body).await.is_err(),
        "a chat that is not charged ended as if it were"
    );
    assert_eq!(money(&folder).await, (3_000_000, vec![]));
    // Nothing is left to be done at the next start.
    let store = SqliteStore::open(&folder.path().join("edge.db"), false).unwrap();
    let next = EdgeServer::builder(config(), Arc::new(store)).start().await;
    next.unwrap().shutdown().await;
    assert_eq!(money(&folder).await, (3_000_000, vec![]));
}

#[tokio::test]
async fn a_shutdown_waits_for_the_charge_of_a_client_that_has_left() {
    let (upstream, mut held) = held_inference().await;
    let (faults, mut server, caller) = chat_with_faults(&upstream).await;
    faults.fail("charge");
    let asking = tokio::spawn(async move { caller.chat("hi").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("paid");
    let (_, _, mut body) = asking.await.unwrap();
    next_text(&mut body).await.unwrap().unwrap();
    drop(body);
    frames.reader_left().await;
    let stopped = server.begin_shutdown();
    tokio::task::yield_now().await;
    assert!(!stopped.is_finished());
    assert_eq!(server.store.gauges().holds, 1);
    faults.mend();
    stopped.await.unwrap();
    let folder = server.shutdown().await;
    assert_eq!(money(&folder).await, (2_000_000, vec![]));
}

#[tokio::test]
async fn an_answer_whose_charge_fails_has_no_end_and_is_free() {
    let (upstream, mut held) = held_inference().await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.fail("charge for good");
    // As text its connection is cut, as events an error precedes that.
    for stream in ["text", "events"] {
        let asking = tokio::spawn({
            let caller = caller.clone();
            async move {
                match stream {
                    "text" => caller.chat("hi").await,
                    _ => events(&caller).await,
                }
            }
        });
        let frames = held.recv().await.unwrap();
        frames.send_word("a gift");
        let (status, _, mut body) = asking.await.unwrap();
        assert_eq!(status, 200);
        let word = next_text(&mut body).await.unwrap().unwrap();
        assert!(word.contains("a gift"), "{word}");
        frames.send_done();
        if stream == "events" {
            let event = next_text(&mut body).await.unwrap().unwrap();
            let event = event.trim().strip_prefix("data: ").unwrap();
            let event: Value = serde_json::from_str(event).unwrap();
            assert_eq!(event["error"]["code"], "storage_unavailable");
        }
        assert!(next_text(&mut body).await.unwrap().is_err(), "{stream}");
    }
    // A whole answer is not sent at all, and its idempotency key is free again.
    let key = [("idempotency-key", "once")];
    let mut ask = async || {
        let sent = caller.send(Method::POST, COMPLETIONS, &key, completion(false));
        let (answer, ()) = tokio::join!(sent, async {
            let message = json!({ "content": "hello" });
            let choice = json!({ "message": message, "finish_reason": "stop" });
            let frames = held.recv().await.unwrap();
            frames.send(json!({ "choices": [choice] }).to_string());
        });
        answer
    };
    let refused = ask().await;
    assert!(!String::from_utf8_lossy(&refused.body).contains("hello"));
    unavailable(refused);
    assert_eq!(server.balance(W1).await.micro(), 3_000_000);
    faults.mend();
    let answer = ask().await;
    assert_eq!(answer.header("idempotency-replayed"), "");
    answer.expect(200);
    assert_eq!(server.balance(W1).await.micro(), 2_000_000);
    server.assert_ledger_adds_up().await;
}

/// It takes those ten seconds, in which nothing is done.
#[tokio::test]
async fn an_answer_waits_ten_seconds_for_its_charge_and_what_was_not_sent_is_reversed() {
    let upstream = Upstream::inference(|seen| match seen.body.contains("\"stream\":true") {
        true => Scripted::words(&["text"]),
        false => Scripted::completion("hello"),
    })
    .await;
    let (faults, server, caller) = chat_with_faults(&upstream).await;
    faults.hold_commits();
    let key = [("idempotency-key", "once")];
    let whole_answer = async || {
        let sent = caller.send(Method::POST, COMPLETIONS, &key, completion(false));
        sent.await
    };
    let (text, events, refused) = tokio::join!(
        async { to_end(caller.chat("hi").await.2).await },
        async { to_end(events(&caller).await.2).await },
        whole_answer(),
    );
    assert_eq!(text, ("text".to_owned(), false));
    let (events, is_whole) = events;
    let last = events.trim().lines().next_back().unwrap();
    assert!(last.contains("storage_unavailable"), "{events}");
    assert!(!events.contains("[DONE]") && !is_whole, "{events}");
    assert!(!String::from_utf8_lossy(&refused.body).contains("hello"));
    unavailable(refused);
    // While the outcome is open, the money is held and the key is in use.
    holds(&server, 3).await;
    let again = whole_answer().await;
    again.refused(409, "idempotency_in_progress");
    faults.release_commits();
    // The streams gave their text, so they are paid; the whole answer was not sent.
    let settled = async || {
        let (balance, entries) = server.store.ledger(wallet(W1), None, 9).await.unwrap();
        (entries.len() == 1 + 3 + 1).then_some((balance, entries))
    };
    let (balance, entries) = eventually("the charges and one refund", settled).await;
    assert_eq!(balance.micro(), 1_000_000);
    let reversal = &entries[0];
    assert_eq!(reversal.reason, "chat_refund");
    let reversed = entries.iter().map(|entry| Some(ledger_id(entry.id)));
    assert!(reversed.skip(1).any(|entry| entry == reversal.reference));
    server.assert_ledger_adds_up().await;
    // The reversed answer is not replayed.
    let answer = eventually("the key is free", async || {
        Some(whole_answer().await).filter(|answer| answer.status != 409)
    })
    .await;
    assert_eq!(answer.header("idempotency-replayed"), "");
    answer.expect(200);
    assert_eq!(server.balance(W1).await, Credits::ZERO);
    let metrics = server.admin().get("/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in [
        "r3mes_credits_charged_total 4",
        "r3mes_credits_refunded_total 1",
    ] {
        assert!(metrics.contains(&format!("\n{line}")), "{line}: {metrics}");
    }
    server.assert_ledger_adds_up().await;
}

/// All that comes of a body, and whether its end came too.
async fn to_end(mut body: Incoming) -> (String, bool) {
    let mut text = String::new();
    while let Some(piece) = next_text(&mut body).await {
        match piece {
            Ok(piece) => text += &piece,
            Err(_) => return (text, false),
        }
    }
    (text, true)
}
