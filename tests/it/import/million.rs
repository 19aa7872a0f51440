//! How long a million rows take, and how much memory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rusqlite::params;

use super::database;
use super::generated::{SCHEMA, address, create};
use super::whole::contents;
use crate::simulation::Random;
use crate::support::edge;

/// A database as a backend leaves it after years: 2,000 wallets, a million rows. Amounts are floats that were added up, and
/// one row in a thousand is of nobody.
fn make(path: &Path) -> u64 {
    const WALLETS: u64 = 2000;
    let mut random = Random(7);
    let mut connection = create(path);
    connection.execute_batch(SCHEMA).unwrap();
    let file = connection.transaction().unwrap();
    let wallets: Vec<String> = (0..WALLETS).map(address).collect();
    let insert = |statement: &str, count: u64, random: &mut Random| {
        let mut insert = file.prepare(statement).unwrap();
        for n in 0..count {
            let whose = &wallets[random.below(WALLETS) as usize];
            let whose = if n % 1000 == 999 { "nobody" } else { whose };
            let number = random.below(90_000_000) as f64 / 1e6;
            let seconds = 1_735_689_600 + n as i64 * 60;
            insert
                .execute(params![whose, number, seconds, n as i64])
                .unwrap();
        }
        count
    };
    let mut users = file
        .prepare("INSERT INTO users (wallet_address, credits) VALUES (?1, ?2)")
        .unwrap();
    for wallet in &wallets {
        users
            .execute(params![wallet, random.below(1_000_000_000) as f64 / 1e6])
            .unwrap();
    }
    let at = "datetime(?3, 'unixepoch')";
    let rows = WALLETS
        + insert(
            &format!(
                "INSERT INTO credit_reservations (wallet_address, amount, created_at, reservation_id, status) VALUES (?1, ?2 + 1e-6, {at}, 'res_' || ?4, CASE ?4 % 4 WHEN 0 THEN 'pending' ELSE 'confirmed' END)"
            ),
            40_000,
            &mut random,
        )
        + insert(
            &format!(
                "INSERT INTO api_keys (wallet_address, created_at, api_key_hash, name) VALUES (?1, {at}, printf('%064x', ?4), 'key ' || ?2)"
            ),
            8000,
            &mut random,
        )
        + insert(
            &format!(
                "INSERT INTO mining_stats (wallet_address, hashrate, recorded_at, gpu_temperature, blocks_found, uptime_percentage, network_difficulty) VALUES (?1, ?2, {at}, ?2 / 2, ?4 / 1000, ?2, ?2 * 1e6)"
            ),
            500_000,
            &mut random,
        )
        + insert(
            &format!(
                "INSERT INTO hashrate_history (wallet_address, hashrate, recorded_at, id) VALUES (?1, ?2, {at}, ?4 + 1)"
            ),
            300_000,
            &mut random,
        )
        + insert(
            &format!(
                "INSERT INTO earnings_history (wallet_address, earnings, recorded_at, id) VALUES (?1, ?2 + 1e-6, {at}, ?4 + 1)"
            ),
            150_000,
            &mut random,
        );
    drop(users);
    file.commit().unwrap();
    rows
}

/// Kilobytes of memory that a process has had at most.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let digits = line.and_then(|line| line.split_whitespace().next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// ```text
/// cargo test --release --locked --test it a_million_rows -- --ignored --nocapture
/// ```
#[test]
#[ignore = "takes a minute or two"]
fn a_million_rows_are_taken_over_in_flat_memory_and_a_second_time_changes_nothing() {
    let (folder, database) = database();
    let file = folder.path().join("r3mes.db");
    let rows = make(&file);
    assert_eq!(rows, 1_000_000);
    let mut all = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"))
            .args(["db", "import"])
            .arg(&file)
            .arg("--database")
            .arg(&database)
            .env_clear()
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A row is refused every thousand, so there is something to read to the end.
        let mut most = 0;
        let mut told = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            most = most.max(peak(child.id()));
            told.push(line.unwrap());
        }
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let took = begun.elapsed().as_secs_f64();
        println!(
            "{took:.1} s, {:.0} rows/s, {} MB at most",
            rows as f64 / took,
            most / 1024
        );
        for line in &told[told.len() - 7..] {
            println!("    {line}");
        }
        assert!(most < 64 << 10, "{most} kB");
        assert_eq!(edge(&database, &["ledger", "verify"]).0, 0);
        all.push(contents(&database, i64::MAX));
    }
    assert_eq!(all[0], all[1]);
}
