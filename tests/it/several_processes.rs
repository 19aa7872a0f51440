//! What a server does over a store whose data other processes change too, and over one that lacks what a file has.

use std::time::Duration;

use r3mes_edge::model::Credits;
use r3mes_edge::store::{Change, ChangedKey, Movement, StoreGauges};
use r3mes_edge::{Clock, Config};
use serde_json::json;

use crate::faults::Faults;
use crate::ops::metrics::{metric, metric_if_known};
use crate::support::{Caller, TestServer, W1, config, eventually, wallet};

const HOUR: Duration = Duration::from_secs(3600);

/// A configuration with a backup an hour.
fn config_with_backups() -> Config {
    let mut config = config();
    config.backup.every = Some(HOUR);
    config
}

/// Lets time pass for the server's timers, which then have started what is due.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Revokes the keys of wallets as another process does: the server is not notified.
fn revoke_in_the_file(server: &TestServer) {
    let file = rusqlite::Connection::open(server.database()).unwrap();
    let revoke = "UPDATE api_keys SET revoked_at = 1 WHERE wallet IS NOT NULL";
    assert_eq!(file.execute(revoke, []).unwrap(), 1);
}

#[tokio::test]
async fn a_change_of_another_process_drops_what_is_cached_and_counts_nothing() {
    let faults = Faults::default();
    let server = faults.serve(config()).await;
    let admin = server.admin();
    let grant = json!({ "amount": 2, "reason": "test" });
    let credits = format!("/users/{W1}/credits");
    admin.post(&credits, &grant).await.expect(200);
    let caller = server.caller(W1, &["read", "miner"]).await;
    let sample = json!({ "hashrate": 1 });
    caller.post("/miner/stats", &sample).await.expect(201);
    let counts = async || {
        [
            metric(&server, "credits_distributed_total", &[("reason", "grant")]).await,
            metric(
                &server,
                "credits_distributed_total",
                &[("reason", "mining")],
            )
            .await,
            metric(&server, "r3mes_miner_samples_total", &[]).await,
        ]
    };
    assert_eq!(counts().await, [2.0, 0.0, 1.0]);
    let totals = async || {
        let answer = admin.get("/network/stats").await;
        answer.header("x-cache").to_owned()
    };
    totals().await;
    let new = 3;
    let moved = Movement {
        wallet: wallet(W1),
        amount: Credits::from_micro(5_000_000),
        balance: Credits::from_micro(9_000_000),
        entry: 7,
    };
    for change in [
        Change::Account(wallet(W1)),
        Change::Granted(moved),
        Change::Taken(moved),
        Change::Earned(moved),
        Change::Samples { new, first: true },
        Change::All,
    ] {
        assert_eq!(totals().await, "hit", "{change:?}");
        faults.changed_elsewhere(change.clone());
        assert_eq!(totals().await, "miss", "{change:?}");
    }
    assert_eq!(counts().await, [2.0, 0.0, 1.0]);
}

#[tokio::test]
async fn a_key_that_another_process_revoked_is_refused_from_its_notification_on() {
    let faults = Faults::default();
    let server = faults.serve(config()).await;
    let notify: [fn(&Caller) -> Change; 2] = [
        |caller| {
            let key = r3mes_edge::auth::PlainKey::parse(caller.key());
            Change::KeyRevoked(ChangedKey {
                id: "key_1".to_owned(),
                wallet: None,
                hash: key.unwrap().hash(),
            })
        },
        // Which one is not known.
        |_| Change::All,
    ];
    for change in notify {
        let caller = server.caller(W1, &["read"]).await;
        caller.get("/auth/me").await.expect(200);
        revoke_in_the_file(&server);
        // It is cached.
        caller.get("/auth/me").await.expect(200);
        faults.changed_elsewhere(change(&caller));
        let refused = caller.get("/auth/me").await;
        refused.refused(401, "invalid_api_key");
        let delete = "DELETE FROM api_keys WHERE wallet IS NOT NULL";
        let file = rusqlite::Connection::open(server.database()).unwrap();
        assert_eq!(file.execute(delete, []).unwrap(), 1);
    }
}

#[tokio::test]
async fn only_the_leader_compacts_purges_verifies_and_makes_the_scheduled_backups() {
    const WORK: [&str; 4] = ["compact", "purge", "verify_ledger", "back_up"];
    let faults = Faults::default();
    faults.lead(false);
    let server = faults.serve(config_with_backups()).await;
    let calls = || WORK.map(|verb| faults.calls(verb));
    server.admin().get("/auth/me").await.expect(200);
    for _ in 0..2 {
        pass(HOUR + Duration::from_secs(1)).await;
        server.clock.advance(3 * HOUR);
        let alerts = server.anybody().get("/alerts").await.expect(200);
        assert_eq!(alerts["firing"], json!([]), "of backups by another process");
    }
    assert_eq!(calls(), [0; 4]);
    // The use of a key is known where it was used.
    let stored = async || (faults.calls("touch_keys") > 0).then_some(());
    eventually("the use of a key is stored", stored).await;
    faults.lead(true);
    pass(HOUR + Duration::from_secs(1)).await;
    let done = async || calls().iter().all(|calls| *calls > 0).then_some(());
    eventually("the leader does all of it", done).await;
    faults.lead(false);
    let before = calls();
    server.clock.advance(3 * HOUR);
    pass(HOUR + Duration::from_secs(1)).await;
    assert_eq!(calls(), before);
}

#[tokio::test]
async fn a_new_leader_makes_no_backup_where_the_one_before_just_did() {
    let faults = Faults::default();
    faults.lead(false);
    let server = faults.serve(config_with_backups()).await;
    let started = async || (faults.calls("last_backup") == 1).then_some(());
    eventually("the server finds no backup", started).await;
    let before = server.store.backups().unwrap();
    let now = Clock::default().now();
    before.back_up(None, None, now).await.unwrap();
    faults.lead(true);
    pass(Duration::from_secs(2)).await;
    let found = async || {
        let made_at = metric_if_known(&server, "r3mes_backup_timestamp_seconds", &[]).await?;
        (made_at == now.millis() as f64 / 1000.0).then_some(())
    };
    eventually("the new leader finds it", found).await;
    pass(Duration::from_secs(2)).await;
    assert_eq!(faults.calls("back_up"), 1);
}

#[tokio::test]
async fn a_storage_without_backups_or_files_refuses_a_backup_and_shows_nothing_of_them() {
    const FIGURES: [&str; 5] = [
        "r3mes_backup_timestamp_seconds",
        "r3mes_backup_failures_total",
        "r3mes_db_file_bytes",
        "r3mes_db_wal_bytes",
        "r3mes_disk_free_bytes",
    ];
    let faults = Faults::default();
    let server = faults.serve(config_with_backups()).await;
    let page = async |server: &TestServer| {
        let page = server.admin().get("/metrics").await;
        String::from_utf8(page.body.to_vec()).unwrap()
    };
    let sizes = async |server: &TestServer| {
        let health = server.anybody().get("/health").await.expect(200);
        let storage = &health["storage"];
        ["file_bytes", "wal_bytes"].map(|size| storage.get(size).is_some())
    };
    eventually("all are shown once a copy is made", async || {
        let full = page(&server).await;
        (FIGURES.iter().all(|name| full.contains(name))).then_some(())
    })
    .await;
    assert_eq!(sizes(&server).await, [true; 2]);
    server.shutdown().await;

    let faults = Faults::default();
    faults.make_no_backups();
    faults.say(StoreGauges::default());
    let server = faults.serve(config_with_backups()).await;
    let asked = server.admin().post("/admin/backup", &json!(null)).await;
    let refused = asked.refused(501, "not_supported");
    let why = "the storage of this server makes no backups; use those of its own database";
    assert_eq!(refused["detail"], why);
    for _ in 0..2 {
        server.clock.advance(3 * HOUR);
        let alerts = server.anybody().get("/alerts").await.expect(200);
        assert_eq!(alerts["firing"], json!([]));
    }
    pass(HOUR).await;
    let text = page(&server).await;
    assert!(text.contains("r3mes_db_pool_size"));
    assert!(!FIGURES.iter().any(|name| text.contains(name)), "{text}");
    assert_eq!(sizes(&server).await, [false; 2]);
    assert_eq!(faults.calls("back_up") + faults.calls("last_backup"), 0);
}
