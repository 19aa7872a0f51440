//! A server whose storage fails: a full disk, a file that cannot be written, another program's lock, damaged
//! pages, a lost log, a clock that is set back.

mod clock;
mod damage;
mod files;
mod logs;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use hyper::Method;
use hyper::body::Incoming;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::chat::{held_inference, whole};
use crate::ops::metrics::{metric, single_metric};
use crate::support::{
    Answer, Caller, Frames, Process, TestServer, W1, W2, config, eventually, next_text,
    on_a_small_disk,
};

fn grant(amount: i64) -> Value {
    json!({ "amount": amount, "reason": "test" })
}

/// Grants a credit; returns whether it was acknowledged. The only other outcome is `storage_unavailable`.
async fn granted(admin: &Caller) -> bool {
    let answer = admin.post(&format!("/users/{W1}/credits"), &grant(1)).await;
    if answer.status != 200 {
        answer.refused(503, "storage_unavailable");
        return false;
    }
    true
}

async fn credits(admin: &Caller) -> Value {
    let user = admin.get(&format!("/users/{W1}")).await.expect(200);
    user["credits"].clone()
}

/// The exit code of a server that does not start on `database`, and its error.
fn refused_start(database: &Path) -> (Option<i32>, String) {
    // One that does start is ended.
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "30", env!("CARGO_BIN_EXE_r3mes-edge")]);
    let command = command.env_clear().arg("--database").arg(database);
    let done = command.args(["--listen", "127.0.0.1:0"]).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.code(), error)
}

/// Writes are refused with one code, reads succeed, and `/readyz` is a 503.
async fn assert_only_reads(admin: &Caller, balance: u64) {
    let wallet = json!({ "wallet_address": W2 });
    for (path, body) in [
        ("/users", &wallet),
        (&*format!("/users/{W1}/credits"), &grant(1)),
        ("/api/keys", &wallet),
        (
            "/miner/stats",
            &json!({ "wallet_address": W1, "hashrate": 1 }),
        ),
        ("/chat", &json!({ "message": "hi", "wallet_address": W1 })),
    ] {
        let refused = admin.post(path, body).await;
        refused.refused(503, "storage_unavailable");
    }
    let not_ready = admin.get("/readyz").await;
    not_ready.refused(503, "storage_unavailable");
    admin.get("/livez").await.expect(200);
    let health = admin.get("/health").await.expect(200);
    assert_eq!(health["storage"]["ready"], false);
    assert_eq!(credits(admin).await, balance);
    let ledger = format!("/users/{W1}/ledger");
    admin.get(&ledger).await.expect(200);
    let unknown = admin.get(&format!("/users/{W2}")).await;
    unknown.refused(404, "user_not_found");
}

/// The server has recovered and accepts writes.
async fn assert_recovered(admin: &Caller, balance: u64) {
    eventually("the server is ready again", async || {
        let ready = admin.get("/readyz").await;
        (ready.status == 200).then_some(())
    })
    .await;
    assert!(granted(admin).await);
    assert_eq!(credits(admin).await, balance + 1);
    let report = admin
        .get("/admin/ledger/verify?full=true")
        .await
        .expect(200);
    assert_eq!(report["mistakes"], json!([]));
}

/// A chat that was asked of the model, which the returned frames answer.
async fn waiting_chat(
    admin: &Caller,
    held: &mut UnboundedReceiver<Frames>,
) -> (JoinHandle<Answer>, Frames) {
    let chat = {
        let admin = admin.clone();
        let body = json!({ "message": "hi", "wallet_address": W1 });
        tokio::spawn(async move { admin.post("/chat", &body).await })
    };
    (chat, held.recv().await.unwrap())
}

/// A chat whose client has its first text.
async fn begun_chat(admin: &Caller, held: &mut UnboundedReceiver<Frames>) -> (Incoming, Frames) {
    let asked = {
        let admin = admin.clone();
        let body = json!({ "message": "hi", "wallet_address": W1 }).to_string();
        tokio::spawn(async move { admin.try_open(Method::POST, "/chat", &[], body).await })
    };
    let frames = held.recv().await.unwrap();
    frames.send_word("some ");
    let (status, _, mut body) = asked.await.unwrap().unwrap();
    assert_eq!(status, 200);
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "some ");
    (body, frames)
}

async fn holds(admin: &Caller) -> Value {
    let health = admin.get("/health").await.expect(200);
    health["storage"]["holds"].clone()
}

/// Two chats end while nothing can be written: the one that gave nothing is released, the charge of the other is tried
/// again, and its client does not see its end before that is written.
async fn end_chats_during_a_fault(
    admin: &Caller,
    (waiting, frames): (JoinHandle<Answer>, Frames),
    begun: Frames,
    balance: u64,
) {
    assert_eq!(holds(admin).await, 2);
    frames.cut();
    let failed = waiting.await.unwrap();
    failed.refused(502, "upstream_bad_response");
    eventually("its hold is released", async || {
        (holds(admin).await == 1).then_some(())
    })
    .await;
    begun.send_word("words");
    begun.send_done();
    let retried = "r3mes_charges_retried_total";
    let before = single_metric(admin, retried).await;
    eventually("its charge is tried again", async || {
        (single_metric(admin, retried).await > before).then_some(())
    })
    .await;
    assert_eq!(holds(admin).await, 1);
    assert_only_reads(admin, balance).await;
}

fn with_inference(url: &str) -> String {
    format!("[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{url}\"\n")
}

/// Fills a disk.
fn fill(disk: &Path) {
    let mut filler = std::fs::File::create(disk.join("filler")).unwrap();
    for piece in [1 << 20, 4096, 1] {
        while filler.write_all(&vec![1; piece]).is_ok() {}
    }
}

#[tokio::test]
async fn a_full_disk_rejects_writes_serves_reads_and_charges_what_was_given_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let (upstream, mut held) = held_inference().await;
    let disk = folder.path().join("disk");
    let config = with_inference(&upstream.url());
    let Some(server) = Process::serve_on_a_small_disk(&disk, 24, "true", &config) else {
        return;
    };
    let admin = server.admin();
    let disk = server.database.parent().unwrap();
    let mut balance = 0;
    for _ in 0..3 {
        for _ in 0..2 {
            assert!(granted(&admin).await);
            balance += 1;
        }
        let waiting = waiting_chat(&admin, &mut held).await;
        let (body, frames) = begun_chat(&admin, &mut held).await;
        fill(disk);
        // The space left in the WAL is used first.
        while granted(&admin).await {
            balance += 1;
        }
        assert_only_reads(&admin, balance).await;
        end_chats_during_a_fault(&admin, waiting, frames, balance).await;

        std::fs::remove_file(disk.join("filler")).unwrap();
        assert_eq!(whole(body).await.unwrap(), "words\n");
        balance -= 1;
        assert_recovered(&admin, balance).await;
        balance += 1;
        assert_eq!(holds(&admin).await, 0);
    }
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn a_server_that_crashed_starts_on_a_full_disk_and_charges_nothing_of_what_was_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let (upstream, mut held) = held_inference().await;
    let server = Process::serve(&database, &with_inference(&upstream.url()));
    let admin = server.admin();
    assert!(granted(&admin).await);
    let (mut body, frames) = begun_chat(&admin, &mut held).await;
    server.kill();
    assert!(next_text(&mut body).await.unwrap().is_err());
    drop(frames);

    let disk = folder.path().join("disk");
    let before = "cp --sparse=never ../edge.db* . && (cat /dev/zero > filler; true) 2> /dev/null";
    let Some(server) = Process::serve_on_a_small_disk(&disk, 16, before, "") else {
        return;
    };
    let admin = server.admin();
    assert_eq!(
        (credits(&admin).await, holds(&admin).await),
        (json!(1), json!(0))
    );
    let ledger = admin.get(&format!("/users/{W1}/ledger")).await.expect(200);
    assert_eq!(ledger["entries"].as_array().unwrap().len(), 1);
    let mut balance = 1;
    while granted(&admin).await {
        balance += 1;
    }
    std::fs::remove_file(server.database.with_file_name("filler")).unwrap();
    assert_recovered(&admin, balance).await;
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn files_that_cannot_grow_reject_writes_and_charges_under_way_are_written_when_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let (upstream, mut held) = held_inference().await;
    let config = with_inference(&upstream.url());
    let server = Process::serve(&database, &config);
    let admin = server.admin();
    let mut balance = 0;
    for _ in 0..3 {
        for _ in 0..2 {
            assert!(granted(&admin).await);
            balance += 1;
        }
        let waiting = waiting_chat(&admin, &mut held).await;
        let (body, frames) = begun_chat(&admin, &mut held).await;
        server.limit_files(Some(4096));
        assert!(!granted(&admin).await);
        assert_only_reads(&admin, balance).await;
        end_chats_during_a_fault(&admin, waiting, frames, balance).await;

        server.limit_files(None);
        assert_eq!(whole(body).await.unwrap(), "words\n");
        balance -= 1;
        assert_recovered(&admin, balance).await;
        balance += 1;
        assert_eq!(holds(&admin).await, 0);
    }
    // Nothing that was acknowledged is lost.
    server.limit_files(Some(4096));
    assert!(!granted(&admin).await);
    server.kill();
    let server = Process::serve(&database, &config);
    assert_recovered(&server.admin(), balance).await;
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test]
async fn another_programs_lock_rejects_writes_without_a_queue_until_it_is_released() {
    let server = TestServer::start(config()).await;
    let admin = server.admin();
    assert!(granted(&admin).await);
    for (balance, begin) in (1..).zip(["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]) {
        let other = Connection::open(server.database()).unwrap();
        other.execute_batch(begin).unwrap();
        assert!(!granted(&admin).await);
        // From now on no write waits for the lock, as none is tried.
        let tried = metric(&server, "r3mes_db_commit_duration_seconds_count", &[]).await;
        for _ in 0..100 {
            assert!(!granted(&admin).await);
        }
        assert_eq!(
            metric(&server, "r3mes_db_commit_duration_seconds_count", &[]).await,
            tried
        );
        let not_ready = admin.get("/readyz").await;
        not_ready.refused(503, "storage_unavailable");
        assert_eq!(credits(&admin).await, balance);
        other.execute_batch("ROLLBACK").unwrap();
        assert_recovered(&admin, balance).await;
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_database_that_can_only_be_read_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let file =
        "cp ../edge.db . && mount --bind edge.db edge.db && mount -o remount,bind,ro edge.db";
    let whole = "cp ../edge.db . && mount -o remount,bind,ro .";
    for before in [file, whole] {
        let Some(mut command) = on_a_small_disk(&disk, 16, before, "") else {
            return;
        };
        let done = command.output().unwrap();
        let log = String::from_utf8_lossy(&done.stderr).to_lowercase();
        assert_eq!(done.status.code(), Some(1), "{log}");
        assert!(
            log.contains("read-only filesystem") || log.contains("read-only file system"),
            "{log}"
        );
        assert!(!log.contains("panicked"), "{log}");
    }
}
