//! Kills at random moments during different kinds of work.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use super::{Acknowledged, assert_none_missing, stored, write};
use crate::simulation::Random;
use crate::support::{Process, W1};

/// The work that the kill interrupts.
#[derive(Clone, Copy)]
enum Moment {
    /// Writers under full load, with their samples being rolled up.
    Writes,
    /// The same, with a copy being made.
    Backup,
    /// The last checkpoint of an orderly shutdown.
    End,
}

const MOMENTS: [Moment; 3] = [Moment::Writes, Moment::Backup, Moment::End];

fn command(database: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_r3mes-edge"))
        .arg("--database")
        .arg(database)
        .args(arguments)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Sleeps for up to this many milliseconds, so that the moment of a kill is random.
async fn a_moment(random: &mut Random, most: u64) {
    tokio::time::sleep(Duration::from_micros(random.below(most * 1000))).await;
}

/// Every copy under its final name is complete.
fn copies_are_whole(database: &Path) -> usize {
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap();
    let copies = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "backup"));
    copies
        .map(|copy| {
            let report = r3mes_edge::store::verify_backup(&copy).unwrap();
            assert_eq!(report.mistakes, Vec::<String>::new(), "{}", copy.display());
            std::fs::remove_file(copy).unwrap();
        })
        .count()
}

/// The number of rounds and the seed, both from the environment.
fn drawn() -> (u64, Random) {
    let rounds = std::env::var("CRASH_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
    let seed = std::env::var("CRASH_SEED").map_or_else(
        |_| r3mes_edge::Clock::default().now().millis() as u64,
        |seed| seed.parse().unwrap(),
    );
    println!("CRASH_SEED={seed}");
    (rounds, Random(seed))
}

/// ```text
/// CRASH_ROUNDS=200 cargo test --release --locked --test it kills_at_any_moment -- --nocapture
/// ```
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_of_writes_copies_and_the_end_lose_nothing() {
    let (rounds, mut random) = drawn();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let acknowledged = Arc::new(Acknowledged::default());
    let base = r3mes_edge::Clock::default().now().millis() - 6 * 86_400_000;
    let mut copies = 0;
    for round in 0..rounds {
        let moment = MOMENTS[round as usize % MOMENTS.len()];
        let server = Process::serve(&database, "");
        let admin = server.admin();
        let so_far = acknowledged.count.load(std::sync::atomic::Ordering::SeqCst);
        let goal = so_far + 20 + random.below(300);
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let acknowledged = Arc::clone(&acknowledged);
                tokio::spawn(write(
                    admin.clone(),
                    writer,
                    round,
                    base,
                    acknowledged,
                    goal,
                ))
            })
            .collect();
        acknowledged.enough.notified().await;
        match moment {
            Moment::Writes => server.kill(),
            Moment::Backup => {
                // Half of them by the server itself, half by a command that reads beside it.
                let own = folder.path().join(format!("round-{round}.backup"));
                let own = own.to_str().unwrap();
                let to: &[&str] = if round % 8 < 4 { &[] } else { &["--to", own] };
                let mut copy = command(&database, &[&["backup", "create"], to].concat());
                a_moment(&mut random, 60).await;
                server.kill();
                if random.below(2) == 0 {
                    copy.kill().unwrap();
                }
                copy.wait().unwrap();
            }
            Moment::End => {
                server.tell_to_end();
                a_moment(&mut random, 30).await;
                server.kill();
            }
        }
        for task in writers {
            task.await.unwrap();
        }
        copies += copies_are_whole(&database);
        let store = SqliteStore::open(&database, false).unwrap();
        let report = store.verify_ledger().await.unwrap();
        assert_eq!(report.mistakes, Vec::<String>::new(), "round {round}");
        store.close();
        let (samples, grants) = stored(&database);
        assert_none_missing(round, &acknowledged.samples, &samples);
        assert_none_missing(round, &acknowledged.grants, &grants);
    }
    let server = Process::serve(&database, "");
    let user = server
        .admin()
        .get(&format!("/users/{W1}"))
        .await
        .expect(200);
    assert_ne!(user["credits"], json!(0));
    assert_eq!(server.terminate(), Some(0));
    println!(
        "{} writes acknowledged over {rounds} kills; {copies} copies got their name",
        acknowledged.count.load(std::sync::atomic::Ordering::SeqCst)
    );
}
