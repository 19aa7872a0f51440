//! A ledger of ten million entries over ten thousand wallets: the start, both verifications and the size of the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use r3mes_edge::model::Wallet;
use r3mes_edge::{Repository, SqliteStore};
use rusqlite::{Connection, Transaction, params};

use crate::simulation::Random;
use crate::support::{Process, edge};

const WALLETS: usize = 10_000;
const DAY: i64 = 86_400_000;
/// The first entry.
const BEGIN: i64 = 20_000 * DAY;
const ENTRIES_A_DAY: i64 = 100_000;
const PRICES: [i64; 3] = [250_000, 1_000_000, 1_234_567];
const ADAPTERS: [&str; 3] = ["general", "coding", "translation"];
/// Of a wallet whose balance is used up.
const GRANT: i64 = 100_000_000;

fn address(number: usize) -> String {
    let mut account = [0; 20];
    account[..8].copy_from_slice(&number.to_le_bytes());
    let prefix = bech32::Hrp::parse(Wallet::PREFIX).unwrap();
    bech32::encode::<bech32::Bech32>(prefix, &account).unwrap()
}

/// What a wallet has.
#[derive(Clone)]
struct Account {
    address: String,
    balance: i64,
    earnings: i64,
    /// A charge that is not reversed yet: its entry, amount, day, key and adapter.
    charged: Option<(i64, i64, i64, i64, &'static str)>,
}

/// Requests, what was charged for them, and the tokens.
type Used = [i64; 5];

/// Writes entries as the server does, but for their commits. One wallet has a fifth of them.
struct Filling {
    random: Random,
    accounts: Vec<Account>,
    /// Source, account, amount and time.
    earned: Vec<(String, usize, i64, i64)>,
    entries: i64,
}

impl Filling {
    fn begin(c: &Connection) -> Self {
        let accounts: Vec<_> = (0..WALLETS)
            .map(|number| Account {
                address: address(number),
                balance: 0,
                earnings: 0,
                charged: None,
            })
            .collect();
        c.execute_batch("BEGIN").unwrap();
        for account in &accounts {
            let insert = "INSERT INTO users (wallet, created_at) VALUES (?1, ?2)";
            c.execute(insert, params![account.address, BEGIN]).unwrap();
            for key in 1..=2 {
                let insert = "INSERT INTO key_ids (key) VALUES (?1 || ?2)";
                c.execute(insert, params![account.address, key]).unwrap();
            }
        }
        c.execute_batch("COMMIT").unwrap();
        Self {
            random: Random(7),
            accounts,
            earned: Vec::new(),
            entries: 0,
        }
    }

    /// Writes the entries up to this one, a transaction for each day, and then what belongs to them; returns how many bytes of
    /// the file the entries take.
    fn go_on(&mut self, c: &Connection, file: &Path, last: i64) -> u64 {
        let size = || file.metadata().unwrap().len();
        let before = size();
        let mut used = BTreeMap::new();
        while self.entries < last {
            let end = (self.entries / ENTRIES_A_DAY + 1) * ENTRIES_A_DAY;
            let transaction = c.unchecked_transaction().unwrap();
            while self.entries < end.min(last) {
                self.entries += 1;
                self.entry(&transaction, &mut used);
            }
            transaction.commit().unwrap();
        }
        let bytes = size() - before;
        let transaction = c.unchecked_transaction().unwrap();
        for ((user, day, key, adapter), used) in used {
            let add = "INSERT INTO usage (user, day, key, adapter, requests, charged, prompt_tokens, cached_tokens, completion_tokens)
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
                           charged = charged + excluded.charged, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
                           cached_tokens = cached_tokens + excluded.cached_tokens, completion_tokens = completion_tokens + excluded.completion_tokens";
            let [requests, charged, prompt, cached, completion] = used;
            let values = params![
                user, day, key, adapter, requests, charged, prompt, cached, completion
            ];
            transaction
                .prepare_cached(add)
                .unwrap()
                .execute(values)
                .unwrap();
        }
        for (source, number, amount, at) in self.earned.drain(..) {
            let insert = "INSERT INTO earnings_history (source_id, wallet, earnings, recorded_at) VALUES (?1, ?2, ?3, ?4)";
            let values = params![source, self.accounts[number].address, amount, at];
            transaction
                .prepare_cached(insert)
                .unwrap()
                .execute(values)
                .unwrap();
        }
        for (id, account) in (1i64..).zip(&self.accounts) {
            let update = "UPDATE users SET credits = ?2, total_earnings = ?3 WHERE id = ?1";
            let values = params![id, account.balance, account.earnings];
            transaction
                .prepare_cached(update)
                .unwrap()
                .execute(values)
                .unwrap();
        }
        let count = "UPDATE totals SET entries = ?1";
        transaction.execute(count, [self.entries]).unwrap();
        transaction.commit().unwrap();
        bytes
    }

    fn entry(
        &mut self,
        c: &Transaction<'_>,
        used: &mut BTreeMap<(i64, i64, i64, &'static str), Used>,
    ) {
        let (id, random) = (self.entries, &mut self.random);
        let at = BEGIN + id * (DAY / ENTRIES_A_DAY);
        let number = match random.below(5) {
            0 => 0,
            _ => random.below(WALLETS as u64) as usize,
        };
        let user = number as i64 + 1;
        let account = &mut self.accounts[number];
        let price = PRICES[random.below(3) as usize];
        let (mut reference, mut charge) = (None, None);
        let (reason, amount) = match (random.below(1000), account.charged.take()) {
            _ if account.balance < price => ("bonus", GRANT),
            (0..20, _) => {
                let amount = 1 + random.below(5_000_000) as i64;
                let source = format!("block-{id}");
                self.earned.push((source.clone(), number, amount, at));
                account.earnings += amount;
                reference = Some(source);
                ("mining", amount)
            }
            (20..22, _) => ("correction", -price),
            (22..24, Some((entry, amount, day, key, adapter))) => {
                reference = Some(format!("led_{entry:016}"));
                let used = used.entry((user, day, key, adapter)).or_default();
                used[0] -= 1;
                used[1] -= amount;
                ("chat_refund", amount)
            }
            _ => {
                let key = 2 * user - i64::from(random.below(10) > 0);
                let adapter = ADAPTERS[(random.below(20).saturating_sub(17)) as usize];
                let tokens = [300, 100, 400].map(|most| random.below(most) as i64);
                let day = at.div_euclid(DAY);
                let used = used.entry((user, day, key, adapter)).or_default();
                for (sum, more) in used
                    .iter_mut()
                    .zip([1, price, tokens[0], tokens[1], tokens[2]])
                {
                    *sum += more;
                }
                account.charged = Some((id, price, day, key, adapter));
                charge = Some((key, adapter, tokens));
                ("chat", -price)
            }
        };
        account.balance += amount;
        let mut operation = [0; 16];
        operation[..8].copy_from_slice(&at.to_be_bytes());
        operation[8..].copy_from_slice(&random.below(u64::MAX).to_be_bytes());
        let insert = "INSERT INTO ledger (id, user, amount, balance, reason, reference, operation, created_at, key, adapter, prompt_tokens, cached_tokens, completion_tokens)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let values = params![
            id,
            user,
            amount,
            account.balance,
            reason,
            reference,
            operation,
            at,
            charge.map(|(key, ..)| key),
            charge.map(|(_, adapter, _)| adapter),
            charge.map(|(.., tokens)| tokens[0]),
            charge.map(|(.., tokens)| tokens[1]),
            charge.map(|(.., tokens)| tokens[2]),
        ];
        c.prepare_cached(insert).unwrap().execute(values).unwrap();
    }
}

/// Opens a file to fill it; a crash would lose it.
fn open(file: &Path) -> Connection {
    let c = Connection::open(file).unwrap();
    let set = "PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA cache_size = -400000; PRAGMA foreign_keys = off";
    c.execute_batch(set).unwrap();
    c
}

/// Back to what the server expects, on the disk.
fn close(c: Connection, file: &Path) {
    c.execute_batch("PRAGMA journal_mode = wal").unwrap();
    c.close().unwrap();
    std::fs::File::open(file).unwrap().sync_all().unwrap();
}

/// Lets the system forget what it has of the file in memory.
fn forget(file: &Path) {
    let file = std::fs::File::open(file).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// The most memory that a process had, in MB; 0 where it is gone.
fn peak(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.map_or(0.0, |text| text.parse::<f64>().unwrap() * 1024.0 / 1e6)
}

/// Runs a command without a server; how long it takes, its most memory in MB and its output.
fn run(file: &Path, arguments: &[&str]) -> (Duration, f64, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    let command = command.arg("--database").arg(file).args(arguments);
    let began = Instant::now();
    let mut child = command.env_clear().stdout(Stdio::piped()).spawn().unwrap();
    let mut most = 0f64;
    loop {
        most = most.max(peak(child.id()));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {out:?}");
    (took, most, String::from_utf8(out.stdout).unwrap())
}

/// Starts the server; returns it, and the time until it accepts writes.
fn start(file: &Path) -> (Process, Duration) {
    let began = Instant::now();
    let process = Process::serve(file, "");
    let answer = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let anybody = crate::support::Caller::new(&process.address, None);
        anybody.get("/readyz").await
    });
    let took = began.elapsed();
    answer.expect(200);
    (process, took)
}

/// ```text
/// cargo test --release --locked --test it ten_million -- --ignored --nocapture
/// ```
#[test]
#[ignore = "takes some minutes and 3 GB of the disk; R3MES_ENTRIES=200000 makes it shorter"]
fn a_ledger_of_ten_million_entries_starts_at_once_and_verifies_in_little_memory() {
    const NEW: i64 = 50_000;
    let entries = std::env::var("R3MES_ENTRIES");
    let entries: i64 = entries.map_or(10_000_000, |entries| entries.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = &folder.path().join("edge.db");
    SqliteStore::open(file, true).unwrap().close();
    let (c, began) = (open(file), Instant::now());
    let mut filling = Filling::begin(&c);
    let bytes = filling.go_on(&c, file, entries - NEW);
    let rows = |table: &str| -> i64 {
        c.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
    };
    let each = bytes as f64 / filling.entries as f64;
    let (usage, earnings) = (rows("usage"), rows("earnings_history"));
    let whole = file.metadata().unwrap().len() as f64;
    println!(
        "{} entries over {WALLETS} wallets, {usage} rows of usage, {earnings} earnings, made in {:.0?}",
        filling.entries,
        began.elapsed()
    );
    println!(
        "{:.0} MB; {each:.1} bytes an entry with its index, {:.1} with usage, earnings and accounts",
        whole / 1e6,
        whole / filling.entries as f64
    );
    close(c, file);

    forget(file);
    let (cold, most_cold, _) = run(file, &["ledger", "verify", "--full"]);
    let (warm, most_warm, report) = run(file, &["ledger", "verify", "--full"]);
    println!(
        "--full without a server: {cold:.2?} with nothing of the file in memory, then {warm:.2?}; {most_cold:.1} and {most_warm:.1} MB at most"
    );
    assert!(report.contains(&(entries - NEW).to_string()), "{report}");

    let starts: Vec<_> = (0..5)
        .map(|round| {
            if round == 0 {
                forget(file);
            }
            let (server, took) = start(file);
            assert_eq!(server.terminate(), Some(0));
            took
        })
        .collect();
    println!("start to readiness: {starts:.1?}, the first with nothing of the file in memory");

    let (server, _) = start(file);
    let before = peak(server.id());
    let began = Instant::now();
    let (code, report) = edge(file, &["ledger", "verify", "--full"]);
    let full = began.elapsed();
    let most_server = peak(server.id());
    println!("--full by the server: {full:.2?}, {most_server:.1} MB at most, {before:.1} before");
    assert_eq!(code, 0, "{report}");
    assert_eq!(server.terminate(), Some(0));

    let c = open(file);
    filling.go_on(&c, file, entries);
    close(c, file);
    let store = SqliteStore::open(file, false).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let verified = |full| {
        let began = Instant::now();
        let report = runtime.block_on(store.verify_ledger(full)).unwrap();
        assert_eq!(report.mistakes, [""; 0]);
        (began.elapsed(), report.entries)
    };
    let (incremental, new) = verified(false);
    let (again, none) = verified(false);
    println!("incremental: {incremental:.2?} for {new} new entries, {again:.2?} for {none}");
    assert_eq!((new, none), (NEW, 0));
    store.close();
    drop(store);
    let (server, _) = start(file);
    let began = Instant::now();
    let (code, report) = edge(file, &["ledger", "verify"]);
    let command = began.elapsed();
    println!("incremental by the command and the server: {command:.2?}");
    assert_eq!(code, 0, "{report}");
    assert_eq!(server.terminate(), Some(0));

    assert!(each <= 120.0, "{each} bytes an entry");
    let mut sorted = starts;
    sorted.sort_unstable();
    assert!(sorted[2] < Duration::from_millis(100), "{sorted:?}");
    for took in [incremental, again, command] {
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    for most in [most_cold, most_warm, most_server] {
        assert!(most < 64.0 * 1.048_576, "{most} MB");
    }
}
