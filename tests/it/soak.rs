//! A long run of the real server under everything at once: many kinds of clients, faults around it, copies meanwhile.
//!
//! No answer may be one that the contract does not name for its route, a refusal with 5xx needs a fault outside that
//! explains it, what was acknowledged is there at the end, money adds up to the credit, and the process does not grow.
//!
//! ```text
//! R3MES_MINUTES=30 cargo test --release --locked --test it soak -- --ignored --nocapture
//! ```
//!
//! Sleeps only pace the load and the length of a fault; conditions are awaited.
//!
//! `SOAK_SEED` repeats what is drawn: faults, their order and their length, and what each client does in its turn. How
//! these meet is up to the machine.

mod chats;
mod clients;
mod end;
mod fault_injection;
mod hostile_clients;
mod keys;
mod ledger_model;
mod surroundings;
mod watch;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use clients::Client;
use fault_injection::{Fault, FaultPlan};
use ledger_model::{Account, LedgerModel, Worker};
use surroundings::Surroundings;
use watch::{Figures, Watch};

use crate::simulation::Random;
use crate::support::{Caller, Process};

/// The length and the load of a run; short and long runs differ in nothing else.
struct Shape {
    length: Duration,
    /// The mean length of a fault; the pause after it is half as long.
    fault: Duration,
    backup_every: Duration,
    /// Of the table.
    line: Duration,
    /// Clients of each kind.
    each: usize,
    /// Between two requests of one client, about.
    pause: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_soak_holds_what_the_long_one_does() {
    run(Shape {
        length: Duration::from_secs(10),
        fault: Duration::from_millis(600),
        backup_every: Duration::from_secs(3),
        line: Duration::from_secs(4),
        each: 1,
        pause: Duration::from_millis(30),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_long_soak_with_faults_and_copies_loses_nothing_and_does_not_grow() {
    let minutes = std::env::var("R3MES_MINUTES").map_or(30, |minutes| minutes.parse().unwrap());
    run(Shape {
        length: Duration::from_secs(60 * minutes),
        fault: Duration::from_secs(15),
        backup_every: Duration::from_secs(300),
        line: Duration::from_secs(60),
        each: 4,
        pause: Duration::from_millis(100),
    })
    .await;
}

async fn run(shape: Shape) {
    let seed = std::env::var("SOAK_SEED").map_or_else(
        |_| r3mes_edge::Clock::default().now().millis() as u64,
        |seed| seed.parse().unwrap(),
    );
    println!("SOAK_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut around = Surroundings::start().await;
    let database = folder.path().join("edge.db");
    let is_long = shape.length >= Duration::from_secs(300);
    let many = match is_long {
        true => keys::make(&database).await,
        false => Vec::new(),
    };
    let serving = Arc::new(Process::serve(&database, &around.config()));
    keys::use_each(&serving, many).await;
    let model = Arc::new(new_ledger_model(&serving, shape.each).await);
    // Known to the server from now on, so that the first use does not count against a deadline.
    around.forget();
    let before = Figures::of(&serving);
    let clients = send_clients(&serving, &model, &shape, seed);
    let watching = tokio::spawn(watch(Arc::clone(&serving), Arc::clone(&model), shape.line));
    let copying = tokio::spawn(end::copy_now_and_then(
        Arc::clone(&serving),
        Arc::clone(&model),
        shape.backup_every,
    ));

    let ends = Instant::now() + shape.length;
    let mut plan = FaultPlan::new(seed);
    let mut slowest = Duration::ZERO;
    let mut turns = 0;
    // Each fault at least once.
    while Instant::now() < ends || turns < Fault::ALL.len() {
        turns += 1;
        let faults = plan.next();
        for fault in &faults {
            model.faults.begin(*fault);
            around.break_down(*fault, &serving);
        }
        model.span.lock().unwrap().faults.push(model.faults.now());
        tokio::time::sleep(plan.time(shape.fault)).await;
        around.mend(&serving).await;
        let took = recover(&serving, &around, &model).await;
        slowest = slowest.max(took);
        tokio::time::sleep(plan.time(shape.fault / 2)).await;
        around.forget();
    }
    println!("healthy again at most {slowest:?} after a fault's end");

    model.stop();
    let copies = copying.await.unwrap();
    for client in clients.join_all().await {
        client.unwrap_or_else(|what| model.violation(what));
    }
    let mut watch = watching.await.unwrap();
    end::settle_down(&serving, &model, before).await;
    watch.read_log(&serving, &model);
    watch.conclude(&model, is_long);
    let serving = Arc::into_inner(serving).unwrap();
    end::add_up(serving, &model, &mut watch).await;
    end::report(&model, copies);
    assert_eq!(model.violations(), Vec::<String>::new(), "SOAK_SEED={seed}");
}

/// Accounts with keys and a first grant, and the miners' names.
async fn new_ledger_model(serving: &Process, each: usize) -> LedgerModel {
    let admin = serving.admin();
    let mut accounts = Vec::new();
    for n in 0..3 * each as u64 {
        let wallet = crate::import::address(n);
        let scopes = ["chat", "read", "miner", "keys"];
        let body = json!({ "wallet_address": wallet, "scopes": scopes });
        let made = admin.post("/api/keys", &body).await.expect(201);
        let grant = json!({ "amount": 20, "reason": "soak" });
        let path = format!("/users/{wallet}/credits");
        admin.post(&path, &grant).await.expect(200);
        let key = made["api_key"].as_str().unwrap().to_owned();
        Caller::new(&serving.address, Some(&key))
            .get("/auth/me")
            .await
            .expect(200);
        accounts.push(Account {
            wallet,
            key,
            granted: AtomicI64::new(20),
            paid: AtomicI64::new(0),
            perhaps_paid: AtomicI64::new(0),
        });
    }
    let hour_ago = r3mes_edge::Clock::default().now().millis() - 3_600_000;
    let worker = |n: usize| Worker {
        name: format!("rig-{n}"),
        wallet: accounts[n % accounts.len()].wallet.clone(),
        from: hour_ago,
        acknowledged: Mutex::default(),
    };
    let workers = (0..each).map(worker).collect();
    LedgerModel::new(accounts, workers)
}

/// Runs a client until it is asked to stop; reports its panic.
type Ended = Result<(), String>;

fn send_clients(
    serving: &Process,
    model: &Arc<LedgerModel>,
    shape: &Shape,
    seed: u64,
) -> JoinSet<Ended> {
    let mut clients = JoinSet::new();
    // Clients with many requests in a turn take fewer turns.
    let client = |number: usize, kind: u64, rest: u32| {
        let account = &model.accounts[number % model.accounts.len()];
        Client {
            model: Arc::clone(model),
            caller: Caller::new(&serving.address, Some(&account.key)),
            admin: serving.admin(),
            number,
            name: format!("client-{kind}-{number}"),
            random: Random(seed ^ (kind << 32 | (number as u64) << 16)),
            pause: shape.pause * rest,
            turn: 0,
        }
    };
    for n in 0..shape.each {
        // Clients that pay and never disconnect share wallets with no others, so their charges are known exactly.
        let (own, leaver) = (n, shape.each + n);
        for (kind, what) in [
            tokio::spawn(client(n, 1, 1).mine()),
            tokio::spawn(client(own, 2, 1).read()),
            tokio::spawn(client(n, 3, 3).grant()),
            tokio::spawn(client(own, 4, 1).chat()),
            tokio::spawn(client(own, 5, 1).chat()),
            tokio::spawn(client(2 * shape.each + n, 6, 40).change_keys()),
            tokio::spawn(client(own, 7, 2).err()),
            tokio::spawn(client(leaver, 8, 1).leave()),
            tokio::spawn(client(leaver, 9, 4).read_slowly()),
        ]
        .into_iter()
        .enumerate()
        {
            clients.spawn(async move {
                what.await
                    .map_err(|error| format!("client {n} of kind {kind}: {error}"))
            });
        }
    }
    clients
}

/// Waits until the server has recovered from a fault; returns how long that took.
async fn recover(serving: &Process, around: &Surroundings, model: &LedgerModel) -> Duration {
    const PATIENCE: Duration = Duration::from_secs(20);
    let began = Instant::now();
    let admin = serving.admin();
    loop {
        // The chain is asked where its stored answer is too old; the model's probe is one of the chats. A later request for the
        // same may wait for the answer to one that began during the fault, so both are asked for.
        let status = admin.try_get("/chain/status").await;
        let blocks = admin.try_get("/blocks").await;
        let health = admin.try_get("/health").await.unwrap_or_default();
        // A 429 takes the model's server out of use for a second.
        let mut nodes = health["nodes"].as_array().into_iter().flatten();
        let none_paused = nodes.all(|node| node["paused_seconds"].is_null());
        if health["status"] == "ok"
            && none_paused
            && status.is_some()
            && blocks.is_some()
            && around.none_withheld()
        {
            break;
        }
        if began.elapsed() > PATIENCE {
            model.violation(format!("not healthy {PATIENCE:?} after a fault: {health}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    model.faults.clear_up();
    began.elapsed()
}

/// Samples every second, and prints a row of the table at intervals.
async fn watch(serving: Arc<Process>, model: Arc<LedgerModel>, line: Duration) -> Watch {
    let mut watch = Watch::default();
    let (began, mut next) = (Instant::now(), line);
    Watch::print_head();
    while model.goes_on() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        watch.sample(&serving, &model);
        if began.elapsed() >= next {
            let span = std::mem::take(&mut *model.span.lock().unwrap());
            watch.print(span, began.elapsed());
            next += line;
        }
    }
    let span = std::mem::take(&mut *model.span.lock().unwrap());
    watch.print(span, began.elapsed());
    watch
}

impl Account {
    /// What it was given less what it paid, in credits: no less than the first, no more than the second.
    fn between(&self) -> (i64, i64) {
        let most = self.granted.load(Ordering::SeqCst) - self.paid.load(Ordering::SeqCst);
        (most - self.perhaps_paid.load(Ordering::SeqCst), most)
    }
}
