use std::time::Duration;

use super::super::row::{one, value};
use super::super::tests::{fresh, wallet};
use super::super::writer::Commit;
use super::super::{SqliteStore, connections};
use super::*;
use crate::auth::{KeyRecord, KeyRequest, Scopes};
use crate::model::Retention;
use crate::store::{Earning, Repository, StoreError, issue_key, rotate_key};

const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);
const DAY: Duration = Duration::from_secs(86_400);
const TWO_YEARS: Duration = Duration::from_secs(730 * 86_400);

/// Adds an entry of this time.
fn add(c: &Connection, at: Timestamp) {
    record(c, &Actor::local(at), "users.create", "it", None, None).unwrap();
}

fn rows(c: &Connection) -> i64 {
    one(c, "SELECT count(*) FROM audit", [], value).unwrap()
}

#[test]
fn an_entry_is_neither_changed_nor_replaced_nor_deleted_within_two_years() {
    let folder = tempfile::tempdir().unwrap();
    let c = fresh(&folder.path().join("edge.db"));
    let before = NOW.minus(TWO_YEARS);
    for at in [before.minus(DAY), before, NOW] {
        add(&c, at);
    }
    let columns = "id created_at actor address action target amount reason".split(' ');
    for column in columns {
        let error = c.execute(&format!("UPDATE audit SET {column} = {column}"), []);
        assert!(
            error.unwrap_err().to_string().contains("never changed"),
            "{column}"
        );
    }
    let error = c.execute(
        "INSERT OR REPLACE INTO audit (id, created_at, actor, action, target) VALUES (2, 0, '', '', '')",
        [],
    );
    assert!(error.unwrap_err().to_string().contains("never replaced"));
    for id in [2, 3] {
        let error = c.execute("DELETE FROM audit WHERE id = ?1", [id]);
        assert!(error.unwrap_err().to_string().contains("two years"), "{id}");
    }
    assert!(c.execute("DELETE FROM audit", []).is_err());
    assert_eq!(rows(&c), 3);
    assert_eq!(c.execute("DELETE FROM audit WHERE id = 1", []).unwrap(), 1);
}

#[test]
fn an_entry_expires_by_the_clock_and_by_the_newest_entry_in_steps() {
    let folder = tempfile::tempdir().unwrap();
    let c = fresh(&folder.path().join("edge.db"));
    let expired = |now| delete_expired(&c, now).unwrap();
    assert_eq!(expired(NOW), 0, "there is none");
    let old = NOW.minus(TWO_YEARS).minus(DAY);
    for _ in 0..=STEP_DELETED {
        add(&c, old);
    }
    assert_eq!(expired(NOW), 0, "the newest entry is as old");
    add(&c, NOW);
    assert_eq!(expired(NOW.minus(DAY)), 0, "by the clock it is too early");
    assert_eq!(expired(NOW), 500);
    assert_eq!(expired(NOW), 1);
    // A clock that is far ahead deletes nothing by itself.
    assert_eq!(expired(NOW.plus(10 * TWO_YEARS)), 0);
    assert_eq!(rows(&c), 1);
}

#[tokio::test]
async fn a_compaction_deletes_what_is_older_than_two_years() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let c = fresh(&path);
    let old = NOW.minus(TWO_YEARS).minus(DAY);
    for _ in 0..1200 {
        add(&c, old);
    }
    add(&c, NOW);
    drop(c);
    let store = SqliteStore::open(&path, true).unwrap();
    store.compact(Retention::default(), NOW).await.unwrap();
    let left = store.audit(None, 500).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].id, left[0].created_at), (1201, NOW));
}

/// A key of a wallet.
fn key_of(number: u32) -> KeyRequest {
    KeyRequest {
        wallet: Some(wallet(number)),
        name: "key".to_owned(),
        scopes: Scopes::DEFAULT,
        expires_at: None,
        login: false,
        limits: None,
    }
}

/// Every administrative change of the storage, by its action; `key` is active.
async fn change(
    store: &SqliteStore,
    action: &'static str,
    key: &KeyRecord,
) -> Result<(), StoreError> {
    let (actor, five) = (Actor::local(NOW), Credits::from_micro(5));
    let grant = |amount| {
        store.grant(
            wallet(1),
            amount,
            "why".to_owned(),
            None,
            actor.clone(),
            None,
        )
    };
    match action {
        "users.create" => store.create_user(wallet(2), actor, None).await.map(drop),
        "users.block" => store.set_blocked(wallet(1), true, actor).await.map(drop),
        "users.unblock" => store.set_blocked(wallet(1), false, actor).await.map(drop),
        "credits.grant" => grant(five).await.map(drop),
        "credits.take" => grant(five.negated()).await.map(drop),
        "earnings.record" => {
            let earning = Earning {
                wallet: wallet(1),
                earnings: five,
                source_id: "block-2".to_owned(),
                recorded_at: NOW,
            };
            store.record_earning(earning, actor, None).await.map(drop)
        }
        "keys.create" => issue_key(store, key_of(3), 9, actor, None).await.map(drop),
        "keys.rotate" => {
            let until = NOW.plus(DAY);
            rotate_key(store, key, until, None, 9, actor)
                .await
                .map(drop)
        }
        "keys.revoke" => store
            .revoke_key(key.id.clone(), None, actor)
            .await
            .map(drop),
        _ => store.record_action(action, "it".to_owned(), actor).await,
    }
}

const ACTIONS: [&str; 10] = [
    "users.create",
    "users.block",
    "users.unblock",
    "credits.grant",
    "credits.take",
    "earnings.record",
    "keys.create",
    "keys.rotate",
    "keys.revoke",
    "backup.create",
];

/// All that the file holds, but for the audit trail.
fn contents(c: &Connection) -> String {
    let tables = [
        "users",
        "totals",
        "ledger",
        "key_ids",
        "usage",
        "api_keys",
        "earnings_history",
        "idempotency",
    ];
    let mut text = String::new();
    for table in tables {
        let mut select = c.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let mut found = select.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            for column in 0..columns {
                text += &format!("{:?} ", row.get_ref(column).unwrap());
            }
            text += "\n";
        }
    }
    text
}

#[tokio::test]
async fn a_change_and_its_entry_are_written_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let store = SqliteStore::open(&path, true).unwrap();
    let first = store.grant(
        wallet(1),
        Credits::from_micro(9),
        "start".to_owned(),
        None,
        Actor::local(NOW),
        None,
    );
    first.await.unwrap();
    let key = issue_key(&store, key_of(1), 9, Actor::local(NOW), None);
    let key = key.await.unwrap().record;
    // Beside the writer's connection, which is idle.
    let c = connections::connect(&path).unwrap();
    let mut count = rows(&c);
    for action in ACTIONS {
        let before = contents(&c);
        // The entry cannot be written; then what an entry follows, or the COMMIT itself.
        let other = match action {
            "users.create" => "INSERT ON users",
            "credits.grant" | "credits.take" | "earnings.record" => "INSERT ON ledger",
            "users.block" | "users.unblock" => "UPDATE ON users",
            "keys.create" | "keys.rotate" => "INSERT ON api_keys",
            "keys.revoke" => "UPDATE ON api_keys",
            _ => "INSERT ON audit",
        };
        for write in ["INSERT ON audit", other] {
            let fault = "BEGIN SELECT RAISE(ABORT, 'fault'); END";
            c.execute_batch(&format!("CREATE TRIGGER fault AFTER {write} {fault}"))
                .unwrap();
            let failed = change(&store, action, &key).await;
            assert!(
                matches!(failed, Err(StoreError::Internal(_))),
                "{action}: {failed:?}"
            );
            c.execute_batch("DROP TRIGGER fault").unwrap();
            assert_eq!(contents(&c), before, "{action}, {write}");
            assert_eq!(rows(&c), count, "{action}, {write}");
        }
        let commit: Commit = Box::new(|transaction| {
            transaction.rollback()?;
            Err(rusqlite::Error::InvalidQuery)
        });
        store
            .writer
            .faults()
            .commits
            .lock()
            .unwrap()
            .push_back(commit);
        assert!(change(&store, action, &key).await.is_err(), "{action}");
        assert_eq!(contents(&c), before, "{action}");
        assert_eq!(rows(&c), count, "{action}");

        change(&store, action, &key).await.unwrap();
        assert!(
            action == "backup.create" || contents(&c) != before,
            "{action}"
        );
        count += 1;
        assert_eq!(rows(&c), count, "{action}");
        assert_eq!(store.audit(None, 1).await.unwrap()[0].action, action);
    }
    store.close();
}
