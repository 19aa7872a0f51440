//! Kills at random moments during different kinds of work.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Acknowledged, assert_none_missing, stored, write};
use crate::simulation::Random;
use crate::support::{Caller, Process, Scripted, Seen, Upstream, W1, next_text, wallet};

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
        let report = store.verify_ledger(true).await.unwrap();
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

/// What a client saw of its chat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Saw {
    Nothing,
    /// Its end, or a whole answer.
    End,
    /// Something of it, or it may have been on its way.
    Part,
}

/// Chats until the server dies; `true` asks a model that gives nothing.
async fn chat(admin: Caller, silent: bool, streams: bool) -> Vec<Saw> {
    let mut seen = Vec::new();
    let message = if silent { "say nothing" } else { "hello" };
    let messages = json!([{ "role": "user", "content": message }]);
    let body = json!({ "stream": streams, "messages": messages }).to_string();
    let path = "/v1/chat/completions";
    let wallet = [("x-wallet-address", W1)];
    loop {
        let asked = admin.try_open(Method::POST, path, &wallet, body.clone());
        let Some((status, _, mut body)) = asked.await else {
            seen.push(if silent { Saw::Nothing } else { Saw::Part });
            return seen;
        };
        assert!(status == 200 || status == 503, "{status}");
        if status == 503 {
            seen.push(Saw::Nothing);
            continue;
        }
        let (mut text, mut whole) = (String::new(), true);
        while let Some(piece) = next_text(&mut body).await {
            match piece {
                Ok(piece) => text += &piece,
                Err(_) => whole = false,
            }
            if !whole {
                break;
            }
        }
        // Its end shows before the end of the body does.
        let ended = whole || text.contains("[DONE]") || text.contains("\"finish_reason\":\"stop\"");
        seen.push(if ended { Saw::End } else { Saw::Part });
        if !whole {
            return seen;
        }
    }
}

fn answer(seen: &Seen) -> Scripted {
    match (
        seen.body.contains("say nothing"),
        seen.body.contains("\"stream\":true"),
    ) {
        (true, _) => Scripted::silent(),
        (_, true) => Scripted::words(&["some ", "more ", "words"]),
        (_, false) => Scripted::completion("some words"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_of_chats_charge_every_end_that_was_seen_and_nothing_that_was_not_given()
 {
    let (rounds, mut random) = drawn();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let upstream = Upstream::inference(answer).await;
    let config = format!(
        "[chat]\nin_flight = 16\n[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"\nmodel = \"tiny\"\n",
        upstream.url()
    );
    let (mut ends, mut parts, mut charged) = (0, 0, 0);
    for round in 0..rounds {
        let server = Process::serve(&database, &config);
        let admin = server.admin();
        let grant = json!({ "amount": 100_000, "reason": "chats" });
        let path = format!("/users/{W1}/credits");
        admin.post(&path, &grant).await.expect(200);
        let mut clients = JoinSet::new();
        for client in 0..8 {
            clients.spawn(chat(admin.clone(), client == 0, client % 2 == 1));
        }
        a_moment(&mut random, 150).await;
        server.kill();
        for saw in clients.join_all().await.concat() {
            ends += u64::from(saw == Saw::End);
            parts += u64::from(saw == Saw::Part);
        }
        let store = SqliteStore::open(&database, false).unwrap();
        let report = store.verify_ledger(true).await.unwrap();
        assert_eq!(report.mistakes, Vec::<String>::new(), "round {round}");
        let granted = 100_000 * (round + 1);
        let credits = store.user(wallet(W1)).await.unwrap().credits.micro();
        store.close();
        charged = granted - credits.unsigned_abs() / 1_000_000;
        assert!(
            (ends..=ends + parts).contains(&charged),
            "round {round}: charged {charged} for {ends} ends and {parts} that may have been given"
        );
    }
    assert!(ends > 0, "nothing was tested");
    println!("{ends} ends seen, {charged} charged, {parts} cut by {rounds} kills");
}
