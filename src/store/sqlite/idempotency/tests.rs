use rusqlite::Connection;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);
const SCOPE: &str = "admin POST /users";

fn database() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let connection = super::super::tests::fresh(&folder.path().join("edge.db"));
    (folder, connection)
}

fn asked(scope: &str, n: u32, request: u8) -> IdempotentRequest<u32> {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&n.to_le_bytes());
    IdempotentRequest {
        key,
        scope: scope.to_owned(),
        request: [request; 32],
        answer: |n| body(n.to_string()),
    }
}

fn body(answer: String) -> StoredResponse {
    StoredResponse {
        status: 201,
        answer: Some(answer),
        reference: None,
    }
}

fn ask(c: &Connection, n: u32, request: u8, now: Timestamp) -> Result<Outcome<u32>, StoreError> {
    run(c, Some(asked(SCOPE, n, request)), now, || Ok(n))
}

fn again(n: u32) -> Result<Outcome<u32>, StoreError> {
    Ok(Outcome::Replayed(body(n.to_string())))
}

/// What stands in the table, as the counters should have it: of a scope, or in all.
fn counted(c: &Connection, scope: Option<&str>) -> (i64, i64) {
    let only = "SELECT count(*), coalesce(sum(octet_length(answer)), 0) FROM idempotency WHERE ?1 IS NULL OR principal = ?1";
    c.query_row(only, [scope], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
}

#[test]
fn the_first_answer_comes_again_for_a_day_and_another_request_is_refused() {
    let (_folder, c) = database();
    assert_eq!(ask(&c, 1, 7, NOW), Ok(Outcome::New(1)));
    assert_eq!(ask(&c, 1, 7, NOW), again(1));
    assert_eq!(ask(&c, 1, 8, NOW), Err(StoreError::KeyReused));
    let later = NOW.plus(LIFETIME);
    assert_eq!(ask(&c, 1, 8, later), Ok(Outcome::New(1)));
    assert_eq!(ask(&c, 1, 8, later), again(1));
    assert_eq!(purge(&c, later.plus(LIFETIME)), Ok(1));
    assert_eq!(run(&c, None, NOW, || Ok(2)), Ok(Outcome::New(2)));
}

#[test]
fn an_effect_that_fails_stores_nothing() {
    let (_folder, c) = database();
    let failed = run(&c, Some(asked(SCOPE, 1, 7)), NOW, || {
        Err(StoreError::UserNotFound)
    });
    assert_eq!(failed, Err(StoreError::UserNotFound));
    assert_eq!(ask(&c, 1, 7, NOW), Ok(Outcome::New(1)));
}

#[test]
fn no_answer_is_evicted_and_a_full_scope_refuses_a_new_key_before_its_effect() {
    let (_folder, c) = database();
    let at = |n: u32| NOW.plus(Duration::from_millis(n.into()));
    let transaction = c.unchecked_transaction().unwrap();
    for n in 0..MAX_ROWS as u32 {
        assert_eq!(ask(&c, n, 7, at(n)), Ok(Outcome::New(n)));
    }
    transaction.commit().unwrap();
    let last = at(MAX_ROWS as u32 - 1);
    let new = Some(asked(SCOPE, 20_000, 7));
    let full = run(&c, new, last, || unreachable!());
    let retry_after = LIFETIME - Duration::from_millis(19_999);
    assert_eq!(full, Err(StoreError::IdempotencyFull { retry_after }));
    // Known keys and other scopes go on.
    assert_eq!(ask(&c, 0, 7, last), again(0));
    let other = Some(asked("admin POST /miner/earnings", 20_001, 7));
    assert_eq!(run(&c, other, last, || Ok(5)), Ok(Outcome::New(5)));
    // The oldest expires, and gives its row to one new key; not purged by anybody else.
    let later = NOW.plus(LIFETIME);
    assert_eq!(ask(&c, 20_000, 7, later), Ok(Outcome::New(20_000)));
    assert!(ask(&c, 20_002, 7, later).is_err());
}

#[test]
fn a_response_that_a_clock_ahead_stored_expires_a_day_after_the_clock_is_right() {
    let (_folder, c) = database();
    let ahead = NOW.plus(365 * LIFETIME);
    for n in 0..120 {
        assert_eq!(ask(&c, n, 7, ahead), Ok(Outcome::New(n)));
    }
    assert_eq!(ask(&c, 200, 7, NOW), Ok(Outcome::New(200)));
    let mut shortened = 0;
    while let some @ 1.. = shorten(&c, NOW).unwrap() {
        shortened += some;
    }
    assert_eq!(shortened, 120, "those of the right time stay as they are");
    let nearly = NOW.plus(LIFETIME - Duration::from_millis(1));
    assert_eq!(purge(&c, nearly), Ok(0));
    assert_eq!(ask(&c, 7, 7, nearly), again(7));
    while purge(&c, NOW.plus(LIFETIME)).unwrap() > 0 {}
    assert_eq!(counted(&c, None).0, 0);
}

#[test]
fn a_body_over_the_limit_of_its_scope_or_of_all_leaves_its_status_and_reference() {
    let (_folder, c) = database();
    let stored = |scope, n, length: usize| {
        let asked = IdempotentRequest {
            answer: |(n, length): &(u32, usize)| StoredResponse {
                status: 200,
                answer: Some("1".repeat(*length)),
                reference: Some(format!("led_{n}")),
            },
            key: asked(scope, n, 7).key,
            scope: scope.to_owned(),
            request: [7; 32],
        };
        store(&c, &asked, &(n, length), NOW).unwrap();
        let found = find(&c, &asked.key, &asked.request, NOW).unwrap().unwrap();
        assert_eq!(found.status, 200);
        (found.answer.map(|answer| answer.len()), found.reference)
    };
    let reference = |n: u32| (None, Some(format!("led_{n}")));
    // As if others had left 100 bytes of the scope, and 150 of all.
    assert_eq!(stored("one", 0, 0), (Some(0), None));
    let set = "UPDATE idempotency_usage SET bytes = ?2 WHERE scope = ?1";
    let set = |values| execute(&c, set, values).unwrap();
    set(params!["one", MAX_SCOPE_BYTES - 100]);
    set(params![0, MAX_BYTES - 150]);
    assert_eq!(stored("one", 1, 94), (Some(94), None));
    // 94 and 7 are more than the 100; the reference is stored all the same.
    assert_eq!(stored("one", 2, 7), reference(2));
    // 99 and 52 are more than 150 in all.
    assert_eq!(stored("two", 3, 52), reference(3));
    assert_eq!(stored("two", 4, 40), (Some(40), None));
}

#[test]
fn what_the_answers_take_is_counted_through_rollbacks_purges_and_a_restart() {
    let (folder, mut c) = database();
    let check = |c: &Connection| {
        let (_, total) = counted(c, None);
        for scope in [SCOPE, "other"] {
            let (rows, bytes) = counted(c, Some(scope));
            assert_eq!(usage(c, scope).unwrap(), [rows, bytes, total]);
        }
    };
    for n in 0..150 {
        let scope = if n % 3 == 0 { "other" } else { SCOPE };
        let transaction = c.transaction().unwrap();
        let done = run(&transaction, Some(asked(scope, n, 7)), NOW, || Ok(n));
        assert_eq!(done, Ok(Outcome::New(n)));
        if n % 5 != 0 {
            transaction.commit().unwrap();
        }
    }
    check(&c);
    assert_eq!(counted(&c, None).0, 120);
    assert_eq!(purge(&c, NOW.plus(LIFETIME)), Ok(PURGE_ROWS));
    check(&c);
    // An expired answer gives way to the same key's next.
    assert_eq!(ask(&c, 149, 8, NOW.plus(LIFETIME)), Ok(Outcome::New(149)));
    check(&c);
    drop(c);
    let c = super::super::tests::writing(&folder.path().join("edge.db")).unwrap();
    check(&c);
    while purge(&c, NOW.plus(3 * LIFETIME)).unwrap() > 0 {}
    check(&c);
    let left: i64 = c
        .query_row("SELECT count(*) FROM idempotency_usage", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(left, 1, "a scope without rows is not counted for ever");
}
