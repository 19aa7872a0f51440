//! Generates a database of the R3MES backend with values of every type that SQLite stores, and the import that is
//! expected of it, derived from how each row was made and not from the file.

use std::collections::BTreeMap;
use std::path::Path;

use r3mes_edge::model::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::simulation::Random;

/// As its code creates them; the newer of the two kinds of api_keys.
pub(super) const SCHEMA: &str = include_str!("../fixtures/r3mes-backend-schema.sql");

/// What is expected of a value.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate<T> {
    Imported(T),
    Changed(T),
    Refused,
}
use Fate::{Changed, Imported, Refused};

/// Rows imported, changed, refused, existing.
pub(super) type Counts = [u64; 4];
const IMPORTED: usize = 0;
const CHANGED: usize = 1;
pub(super) const REFUSED: usize = 2;

/// What our database must hold in the end.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) counts: BTreeMap<&'static str, Counts>,
    pub(super) accounts_made: u64,
    /// Micro-credits, of every account.
    pub(super) balances: BTreeMap<String, i64>,
    /// Entries in the ledger.
    pub(super) entries: u64,
    /// When the accounts of `users` were created, where their row says so.
    pub(super) made_at: BTreeMap<String, i64>,
}

impl Expected {
    fn count(&mut self, table: &'static str, what: usize) {
        self.counts.entry(table).or_default()[what] += 1;
    }

    fn account(&mut self, wallet: &str) {
        if !self.balances.contains_key(wallet) {
            self.balances.insert(wallet.to_owned(), 0);
            self.accounts_made += 1;
        }
    }

    fn give(&mut self, wallet: &str, micro: i64) {
        *self.balances.entry(wallet.to_owned()).or_default() += micro;
        self.entries += u64::from(micro > 0);
    }
}

/// A wallet's.
pub(crate) fn address(n: u64) -> String {
    let mut account = [7; 20];
    account[..8].copy_from_slice(&n.to_be_bytes());
    let hrp = bech32::Hrp::parse("remes").unwrap();
    bech32::encode::<bech32::Bech32>(hrp, &account).unwrap()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A balance; -1 is one that is missing or negative.
fn amount(random: &mut Random) -> (Value, Fate<i64>) {
    let micro = random.below(5_000_000_000) as i64;
    let small = micro % 1_000_000;
    match random.below(30) {
        0 => (Value::Null, Changed(-1)),
        1 => (text("many"), Refused),
        2 => (Value::Blob(vec![0, 159, 146, 150]), Refused),
        3 => (Value::Real(f64::INFINITY), Refused),
        4 => (Value::Real(1.7e300), Refused),
        5 => (Value::Real(1e9 + 1.0), Refused),
        6 => (Value::Real(0.1 + 0.2), Changed(300_000)),
        7 => (Value::Real(5e-324), Changed(0)),
        8 => (Value::Real(2.000_000_5), Changed(2_000_000)),
        9 => (Value::Real(2.000_001_5), Changed(2_000_002)),
        10 => (Value::Real(1e9), Imported(1_000_000_000_000_000)),
        11 => (text("12.5"), Imported(12_500_000)),
        12 => (Value::Integer(7), Imported(7_000_000)),
        13 => (Value::Real(-0.0), Imported(0)),
        14 => (Value::Real(-1.0 - micro as f64), Changed(-1)),
        15 => (Value::Real(f64::NEG_INFINITY), Changed(-1)),
        // NaN, which SQLite keeps as NULL.
        16 => (Value::Real(f64::NAN), Changed(-1)),
        17 => (Value::Real(small as f64 / 1e6 + 1e-10), Changed(small)),
        _ => (Value::Real(micro as f64 / 1e6), Imported(micro)),
    }
}

/// The wallet of a user, at times one without a row in users, at times an invalid one.
fn wallet(random: &mut Random, users: u64) -> (Value, Option<String>) {
    let known = address(random.below(users));
    let none = match random.below(40) {
        0 => text(&known.to_uppercase()),
        1 => text(&known[..43]),
        2 => text(&known.replace("remes1", "cosmo1")),
        3 => text(&format!("{known} ")),
        4 => text(""),
        5 => Value::Blob(known.into_bytes()),
        6 => Value::Integer(44),
        7 | 8 => {
            let unknown = address(users + random.below(20));
            return (text(&unknown), Some(unknown));
        }
        _ => return (text(&known), Some(known)),
    };
    (none, None)
}

/// A time of a row.
fn moment(random: &mut Random) -> (Value, Fate<i64>) {
    const BEGIN: i64 = 1_735_689_600_000;
    let at = Timestamp::from_millis(BEGIN + random.below(60) as i64 * 7000);
    let written = at.to_string();
    let (date, time) = (&written[..10], &written[11..19]);
    let value = match random.below(30) {
        0 => text("soon"),
        1 => Value::Null,
        2 => Value::Blob(written.into_bytes()),
        3 => Value::Integer(at.millis() / 1000),
        4 => text("2025-02-30 00:00:00"),
        5 => {
            let value = text(&format!("{date}T{time}.250000"));
            return (value, Imported(at.millis() + 250));
        }
        6 => return (text(&format!("{date}T{time}+00:00")), Imported(at.millis())),
        7 => return (text(&format!("{date}T{time}")), Imported(at.millis())),
        _ => return (text(&format!("{date} {time}")), Imported(at.millis())),
    };
    (value, Refused)
}

/// A new database without foreign key checks, which Python's sqlite3 has off too.
pub(super) fn create(path: &Path) -> Connection {
    let _ = std::fs::remove_file(path);
    let connection = Connection::open(path).unwrap();
    connection
        .pragma_update(None, "foreign_keys", false)
        .unwrap();
    connection
}

/// Writes the database with some thousands of rows; returns what is expected of its import.
pub(super) fn make(path: &Path, seed: u64, scale: u64) -> Expected {
    let mut random = Random(seed);
    let mut connection = create(path);
    connection.execute_batch(SCHEMA).unwrap();
    let file = connection.transaction().unwrap();
    let mut expected = Expected::default();
    users(&file, &mut random, scale, &mut expected);
    reservations(&file, &mut random, scale);
    keys(&file, &mut random, scale, &mut expected);
    history(&file, &mut random, scale);
    file.commit().unwrap();
    expected
}

fn users(file: &Connection, random: &mut Random, scale: u64, expected: &mut Expected) {
    let insert = "INSERT INTO users (wallet_address, credits, created_at) VALUES (?1, ?2, ?3)";
    let mut insert = file.prepare(insert).unwrap();
    for n in 0..scale {
        let whose = address(n);
        let (value, valid) = match random.below(40) {
            0 => (text(&whose[1..]), false),
            1 => (Value::Null, false),
            2 => (Value::Blob(whose.clone().into_bytes()), false),
            _ => (text(&whose), true),
        };
        let ((credits, money), (time, made)) = (amount(random), moment(random));
        insert.execute(params![value, credits, time]).unwrap();
        let (Imported(micro) | Changed(micro)) = money else {
            expected.count("users", REFUSED);
            continue;
        };
        if !valid {
            expected.count("users", REFUSED);
            continue;
        }
        let same = matches!((money, made), (Imported(_), Imported(_)));
        expected.count("users", if same { IMPORTED } else { CHANGED });
        expected.give(&whose, micro.max(0));
        if let Imported(at) = made {
            expected.made_at.insert(whose, at);
        }
    }
}

/// Rows that are not imported: no reservation, valid or not, has changed a balance.
fn reservations(file: &Connection, random: &mut Random, scale: u64) {
    let insert = "INSERT INTO credit_reservations (reservation_id, wallet_address, amount, status, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut insert = file.prepare(insert).unwrap();
    for n in 0..scale {
        let id = match random.below(40) {
            0 => text(&format!("two words {n}")),
            1 => Value::Blob(n.to_be_bytes().to_vec()),
            2 => text(&format!("{n}-").repeat(65)),
            _ => text(&format!("res_{n:08x}")),
        };
        let (value, _) = wallet(random, scale);
        let amount = Value::Real(random.below(1000) as f64 / 10.0);
        let status = match random.below(12) {
            0 => Value::Null,
            1 => Value::Blob(b"pending".to_vec()),
            2 => text("confirmed"),
            3 => text("expired"),
            4 => Value::Integer(0),
            _ => text("pending"),
        };
        let (time, _) = moment(random);
        insert
            .execute(params![id, value, amount, status, time])
            .unwrap();
    }
}

fn keys(file: &Connection, random: &mut Random, scale: u64, expected: &mut Expected) {
    let insert = "INSERT INTO api_keys (api_key_hash, wallet_address, name, is_active, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let mut insert = file.prepare(insert).unwrap();
    for n in 0..scale / 2 {
        let (hash, hashed) = match random.below(20) {
            0 => (text(&format!("{n:063x}")), false),
            1 => (text(&format!("{n:063x}g")), false),
            _ => (text(&format!("{:064x}", n * 7919)), true),
        };
        let (name, named) = match random.below(20) {
            0 => (text(&"n".repeat(101)), false),
            1 => (
                text(
                    "two
lines",
                ),
                false,
            ),
            2 => (Value::Null, true),
            _ => (text("sdk"), true),
        };
        let ((value, whose), (time, made)) = (wallet(random, scale), moment(random));
        insert
            .execute(params![hash, value, name, random.below(2) as i64, time])
            .unwrap();
        match (whose, made) {
            (Some(whose), Imported(_)) if hashed && named => {
                expected.count("api_keys", IMPORTED);
                expected.account(&whose);
            }
            _ => expected.count("api_keys", REFUSED),
        }
    }
}

/// Rows of the tables that no backend wrote: valid or not, they are not imported and create no account.
fn history(file: &Connection, random: &mut Random, scale: u64) {
    for (table, column) in [
        ("mining_stats", "hashrate"),
        ("hashrate_history", "hashrate"),
        ("earnings_history", "earnings"),
    ] {
        let insert = format!(
            "INSERT INTO {table} (wallet_address, {column}, recorded_at) VALUES (?1, ?2, ?3)"
        );
        let mut insert = file.prepare(&insert).unwrap();
        for _ in 0..scale / 10 {
            let ((value, _), (number, _)) = (wallet(random, scale * 2), amount(random));
            let (time, _) = moment(random);
            insert.execute(params![value, number, time]).unwrap();
        }
    }
}
