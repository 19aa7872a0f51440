//! Durability across crashes of the process.

mod rounds;

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use r3mes_edge::auth::{KeyRequest, PlainKey, Scopes};
use r3mes_edge::model::Timestamp;
use r3mes_edge::store::Actor;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{Caller, Process, Scripted, Upstream, W1, W2, edge, wallet};

/// The writes that the server acknowledged.
#[derive(Default)]
struct Acknowledged {
    samples: Mutex<HashSet<i64>>,
    grants: Mutex<HashSet<String>>,
    count: AtomicU64,
    enough: Notify,
}

/// Writes until the server dies, and records the acknowledged writes.
async fn write(
    caller: Caller,
    writer: u64,
    round: u64,
    base: i64,
    acknowledged: Arc<Acknowledged>,
    goal: u64,
) {
    for turn in 0.. {
        let grant = turn % 3 == 0;
        let sent = if grant {
            let reason = format!("{round}-{writer}-{turn}");
            let body = json!({ "amount": 0.5, "reason": reason }).to_string();
            let sent = caller.try_post(&format!("/users/{W1}/credits"), body).await;
            sent.inspect(|status| {
                let _ = *status == 200 && acknowledged.grants.lock().unwrap().insert(reason);
            })
        } else {
            // One moment each, so that each is a row of its own.
            let at = base + (round * 1_000_000 + writer * 10_000 + turn) as i64;
            let text = r3mes_edge::model::Timestamp::from_millis(at).to_string();
            let body =
                json!({ "wallet_address": W1, "hashrate": 1, "recorded_at": text }).to_string();
            let sent = caller.try_post("/miner/stats", body).await;
            sent.inspect(|status| {
                let _ = *status == 201 && acknowledged.samples.lock().unwrap().insert(at);
            })
        };
        match sent {
            Some(200 | 201) => {}
            // Dead or stopping.
            None | Some(503) => return,
            Some(status) => panic!("a write was answered {status}"),
        }
        if acknowledged.count.fetch_add(1, Ordering::SeqCst) + 1 == goal {
            acknowledged.enough.notify_one();
        }
    }
}

fn stored(database: &Path) -> (HashSet<i64>, HashSet<String>) {
    let connection = rusqlite::Connection::open(database).unwrap();
    let check: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let mut samples = connection
        .prepare("SELECT recorded_at FROM mining_stats")
        .unwrap();
    let samples = samples
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut grants = connection
        .prepare("SELECT reason FROM ledger WHERE amount = 500000")
        .unwrap();
    let grants = grants
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    (samples, grants)
}

fn assert_none_missing<T: Eq + std::hash::Hash>(
    round: u64,
    acknowledged: &Mutex<HashSet<T>>,
    stored: &HashSet<T>,
) {
    let acknowledged = acknowledged.lock().unwrap();
    let missing = acknowledged.difference(stored).count();
    assert_eq!(
        missing,
        0,
        "round {round}: of {} acknowledged writes",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_in_the_middle_of_64_writers_lose_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    // Never answers: every chat that it was asked for is held when the server dies.
    let held = Arc::new(Mutex::new(Vec::new()));
    let upstream = {
        let held = Arc::clone(&held);
        Upstream::start(move |_| {
            let (scripted, frames) = Scripted::held();
            held.lock().unwrap().push(frames);
            scripted
        })
        .await
    };
    let config = format!(
        "[[inference]]\nname = \"node\"\nkind = \"r3mes\"\nurl = \"{}\"\n",
        upstream.url()
    );
    let acknowledged = Arc::new(Acknowledged::default());
    let base = r3mes_edge::Clock::default().now().millis() - 86_400_000;
    let mut left = 0;
    for round in 0..20 {
        let server = Process::serve(&database, &config);
        let admin = server.admin();
        if round == 0 {
            admin
                .post(
                    &format!("/users/{W2}/credits"),
                    &json!({"amount":1000,"reason":"chats"}),
                )
                .await
                .expect(200);
        }
        // The last kill left nothing to do.
        let report = admin
            .get("/admin/ledger/verify?full=true")
            .await
            .expect(200);
        assert_eq!(report["mistakes"], json!([]));
        let health = admin.get("/health").await.expect(200);
        assert_eq!(health["storage"]["holds"], 0);

        let goal = acknowledged.count.load(Ordering::SeqCst) + 150 + round * 37;
        let writers: Vec<_> = (0..64)
            .map(|writer| {
                tokio::spawn(write(
                    admin.clone(),
                    writer,
                    round,
                    base,
                    Arc::clone(&acknowledged),
                    goal,
                ))
            })
            .collect();
        let chats: Vec<_> = (0..3)
            .map(|_| {
                let admin = admin.clone();
                let body = json!({ "message": "hi", "wallet_address": W2 }).to_string();
                tokio::spawn(async move { admin.try_post("/chat", body).await })
            })
            .collect();
        acknowledged.enough.notified().await;
        server.kill();
        for task in writers {
            task.await.unwrap();
        }
        for chat in chats {
            assert_eq!(chat.await.unwrap(), None);
        }
        let (samples, grants) = stored(&database);
        assert_none_missing(round, &acknowledged.samples, &samples);
        assert_none_missing(round, &acknowledged.grants, &grants);
        let store = SqliteStore::open(&database, false).unwrap();
        let report = store.verify_ledger(true).await.unwrap();
        assert_eq!(report.mistakes, Vec::<String>::new());
        left += held.lock().unwrap().drain(..).len();
    }
    assert!(left > 0, "no kill met a chat, so nothing was tested");
    let server = Process::serve(&database, &config);
    let user: Value = server
        .admin()
        .get(&format!("/users/{W2}"))
        .await
        .expect(200);
    assert_eq!(
        user["credits"], 1000,
        "a chat that a crash cut short was charged"
    );
    let ledger = format!("/users/{W2}/ledger");
    let ledger = server.admin().get(&ledger).await.expect(200);
    assert_eq!(ledger["entries"].as_array().unwrap().len(), 1);
    assert_eq!(server.terminate(), Some(0));
    println!(
        "{} writes acknowledged over 20 kills, {left} chats under way",
        acknowledged.count.load(Ordering::SeqCst)
    );
}

/// Every file of a folder with a hash of its bytes and the moment of its last change; without the memory that those who
/// read share, which the first server's housekeeping may be using.
fn picture(folder: &Path) -> Vec<(String, String, SystemTime)> {
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| !path.to_str().unwrap().ends_with("-shm"))
        .map(|path| {
            let changed = path.metadata().unwrap().modified().unwrap();
            let hash = blake3::hash(&std::fs::read(&path).unwrap()).to_string();
            (path.display().to_string(), hash, changed)
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_second_server_on_the_same_file_is_refused_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    server
        .admin()
        .post("/users", &json!({"wallet_address":W1}))
        .await
        .expect(201);
    let before = picture(folder.path());
    let (code, output) = edge(&database, &["--listen", "127.0.0.1:0"]);
    assert_eq!((code, output.as_str()), (4, ""));
    assert_eq!(picture(folder.path()), before);
    server
        .admin()
        .get(&format!("/users/{W1}"))
        .await
        .expect(200);
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn a_database_with_keys_of_wallets_only_gets_a_first_admin_key() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let store = SqliteStore::open(&database, true).unwrap();
    let key = PlainKey::generate().unwrap();
    let request = KeyRequest {
        wallet: Some(wallet(W1)),
        name: "imported".to_owned(),
        scopes: Scopes::IMPORTED,
        expires_at: None,
        login: false,
        limits: None,
    };
    let actor = Actor::local(Timestamp::from_millis(0));
    let record = request.record(&key, actor.at);
    store.create_key(record, 100, actor, None).await.unwrap();
    store.close();
    let server = Process::serve(&database, "");
    server.admin().get("/users").await.expect(200);
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn an_admin_key_that_was_written_before_a_crash_and_not_stored_is_stored_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let key = r3mes_edge::auth::PlainKey::generate().unwrap();
    let file = format!("{}.admin-key", database.display());
    std::fs::write(&file, format!("{}\n", key.reveal())).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let server = Process::serve(&database, "");
    server
        .admin()
        .post("/users", &json!({"wallet_address":W1}))
        .await
        .expect(201);
    assert_eq!(server.terminate(), Some(0));
    let store = SqliteStore::open(&database, false).unwrap();
    assert!(store.key_by_hash(key.hash()).await.unwrap().is_some());
    assert!(store.user(wallet(W1)).await.is_ok());
}
