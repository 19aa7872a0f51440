//! Kills at random moments during different kinds of work.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::Price;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Acknowledged, assert_none_missing, stored, write};
use crate::metered::{self, Metered, charges};
use crate::simulation::Random;
use crate::support::{Caller, Process, Upstream, W1, next_text, wallet};

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
enum Saw {
    Nothing,
    /// Its end, or a whole answer; with its id.
    End(String, Metered),
    /// Something of it, or it may have been on its way.
    Part,
}

/// Chats until the server dies; `silent` asks a model that gives nothing.
async fn chat(admin: Caller, price: Price, mut random: Random, silent: bool) -> Vec<Saw> {
    let mut seen = Vec::new();
    let message = if silent { "say nothing" } else { "hello" };
    let path = "/v1/chat/completions";
    let wallet = [("x-wallet-address", W1)];
    loop {
        let chat = Metered::with_limits(random.below(u64::MAX), random.below(2) == 0, &price);
        let asked = admin.try_open(Method::POST, path, &wallet, chat.body(message));
        let Some((status, headers, mut body)) = asked.await else {
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
        let finishes = text.matches("\"finish_reason\":\"stop\"").count() as u64;
        let ended = whole || text.contains("[DONE]") || finishes == chat.choices;
        let id = headers["x-request-id"].to_str().unwrap().to_owned();
        seen.push(if ended { Saw::End(id, chat) } else { Saw::Part });
        if !whole {
            return seen;
        }
    }
}

/// Prices by the request and by tokens take turns.
const PRICES: [[i64; 4]; 2] = [[1_000_000, 0, 0, 0], [2_500, 400_000, 100_000, 1_600_000]];

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_of_chats_charge_every_end_that_was_seen_and_nothing_that_was_not_given()
 {
    let (rounds, mut random) = drawn();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let upstream = Upstream::inference(metered::answer).await;
    let (mut seen, mut cut, mut charged, mut newest) = (0, 0, 0, 0);
    for round in 0..rounds {
        let price = metered::price(PRICES[round as usize % PRICES.len()]);
        let config = format!(
            "[chat]\nin_flight = 16\n{}\n[[inference]]\nname = \"node\"\nurl = \"{}\"\nmodel = \"tiny\"\n",
            metered::settings(&price),
            upstream.url()
        );
        let server = Process::serve(&database, &config);
        let admin = server.admin();
        let grant = json!({ "amount": 100_000, "reason": "chats" });
        let path = format!("/users/{W1}/credits");
        admin.post(&path, &grant).await.expect(200);
        let mut clients = JoinSet::new();
        for client in 0..8 {
            let random = Random(random.below(u64::MAX));
            clients.spawn(chat(admin.clone(), price, random, client == 0));
        }
        a_moment(&mut random, 150).await;
        server.kill();
        let (mut ends, mut parts) = (Vec::new(), 0);
        for saw in clients.join_all().await.into_iter().flatten() {
            match saw {
                Saw::Nothing => {}
                Saw::Part => parts += 1,
                Saw::End(id, chat) => ends.push((id, chat)),
            }
        }
        let store = SqliteStore::open(&database, false).unwrap();
        let report = store.verify_ledger(true).await.unwrap();
        assert_eq!(report.mistakes, Vec::<String>::new(), "round {round}");
        let mut charges: HashMap<_, _> = (charges(&store, W1, newest).await.into_iter())
            .map(|entry| (entry.detail.clone().unwrap().request_id, entry))
            .collect();
        newest = store.ledger(wallet(W1), None, 1).await.unwrap().1[0].id;
        store.close();
        (charged, seen, cut) = (charged + charges.len(), seen + ends.len(), cut + parts);
        for (id, chat) in ends {
            let entry = charges.remove(&id);
            let entry = entry.unwrap_or_else(|| panic!("round {round}: {chat:?} is not charged"));
            chat.check(&price, &entry, true);
        }
        assert!(
            charges.len() <= parts,
            "round {round}: {} more were charged, {parts} may have been given",
            charges.len()
        );
    }
    assert!(seen > 0, "nothing was tested");
    println!("{seen} ends seen, {charged} charged, {cut} cut by {rounds} kills");
}
