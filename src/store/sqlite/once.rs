//! Doing a thing once, however often it is asked for (`Idempotency-Key`). The answer is kept in the transaction of its
//! effect, so a crash leaves both or neither, and nothing is ever "running": writes are done one after the other, and the
//! second of two at once finds the first one's answer.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{count, sql, storage_error};
use crate::model::Timestamp;
use crate::store::{Done, Kept, Once, StoreError};

/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// Answers kept for one principal; the oldest gives way.
const MOST: i64 = 1000;
/// Bytes of an answer at most.
const MOST_BYTES: usize = Once::<()>::MOST_BYTES;

/// Runs `effect`, unless it was run for this key before.
pub(super) fn once<T>(
    c: &Connection,
    once: Option<Once<T>>,
    now: Timestamp,
    effect: impl FnOnce() -> Result<T, StoreError>,
) -> Result<Done<T>, StoreError> {
    let Some(once) = once else {
        return effect().map(Done::New);
    };
    let found = find(c, &once.key, now).map_err(storage_error)?;
    if let Some(kept) = same(found, &once.request)? {
        return Ok(Done::Again(kept));
    }
    let result = effect()?;
    let (status, answer) = (once.answer)(&result);
    if answer
        .as_ref()
        .is_some_and(|answer| answer.len() > MOST_BYTES)
    {
        return Err(StoreError::Internal(
            "an answer is too long to be kept".to_owned(),
        ));
    }
    keep(c, &once, status, answer.as_deref(), now).map_err(storage_error)?;
    Ok(Done::New(result))
}

/// What was found, if it was the answer to this request.
pub(super) fn same(
    found: Option<([u8; 32], Kept)>,
    request: &[u8; 32],
) -> Result<Option<Kept>, StoreError> {
    match found {
        Some((asked, _)) if asked != *request => Err(StoreError::KeyReused),
        found => Ok(found.map(|(_, kept)| kept)),
    }
}

/// The answer kept for a key, with the hash of the request it answered.
pub(super) fn find(
    c: &Connection,
    key: &[u8; 32],
    now: Timestamp,
) -> rusqlite::Result<Option<([u8; 32], Kept)>> {
    let read = |row: &Row<'_>| {
        Ok((
            row.get(0)?,
            Kept {
                status: row.get(1)?,
                answer: row.get(2)?,
            },
        ))
    };
    c.prepare_cached(sql::SELECT_ONCE)?
        .query_row(params![key, now.millis()], read)
        .optional()
}

fn keep<T>(
    c: &Connection,
    once: &Once<T>,
    status: u16,
    answer: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let held: i64 = c
        .prepare_cached(sql::COUNT_ONCE)?
        .query_row([&once.principal], |row| row.get(0))?;
    if held >= MOST {
        c.prepare_cached(sql::DELETE_OLDEST_ONCE)?
            .execute([&once.principal])?;
    }
    let values = params![
        once.key,
        once.principal,
        once.request,
        status,
        answer,
        now.plus(KEPT_FOR).millis()
    ];
    c.prepare_cached(sql::INSERT_ONCE)?
        .execute(values)
        .map(drop)
}

/// Deletes at most `limit` answers that have run out; how many.
pub(super) fn purge(c: &Connection, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
    let mut delete = c.prepare_cached(sql::PURGE_ONCE).map_err(storage_error)?;
    delete
        .execute(params![now.millis(), count(limit)])
        .map_err(storage_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_489_200_000);

    fn asked(n: u32, request: u8) -> Option<Once<u32>> {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let answer = |n: &u32| (201, Some(n.to_string()));
        Some(Once {
            key,
            principal: "key_1".to_owned(),
            request: [request; 32],
            answer,
        })
    }

    fn run(c: &Connection, n: u32, request: u8, now: Timestamp) -> Result<Done<u32>, StoreError> {
        once(c, asked(n, request), now, || Ok(n))
    }

    fn again(n: u32) -> Result<Done<u32>, StoreError> {
        Ok(Done::Again(Kept {
            status: 201,
            answer: Some(n.to_string()),
        }))
    }

    #[test]
    fn the_first_answer_comes_again_for_a_day_and_another_request_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let c = super::super::open::writing(&folder.path().join("edge.db"), true).unwrap();
        assert_eq!(run(&c, 1, 7, NOW), Ok(Done::New(1)));
        assert_eq!(run(&c, 1, 7, NOW), again(1));
        assert_eq!(run(&c, 1, 8, NOW), Err(StoreError::KeyReused));
        let later = NOW.plus(KEPT_FOR);
        assert_eq!(run(&c, 1, 8, later), Ok(Done::New(1)));
        assert_eq!(run(&c, 1, 8, later), again(1));
        assert_eq!(purge(&c, later.plus(KEPT_FOR), 500), Ok(1));
        assert_eq!(once(&c, None, NOW, || Ok(2)), Ok(Done::New(2)));
    }

    #[test]
    fn an_effect_that_fails_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let c = super::super::open::writing(&folder.path().join("edge.db"), true).unwrap();
        let failed = once(&c, asked(1, 7), NOW, || Err(StoreError::UserNotFound));
        assert_eq!(failed, Err(StoreError::UserNotFound));
        assert_eq!(run(&c, 1, 7, NOW), Ok(Done::New(1)));
    }

    #[test]
    fn of_a_thousand_and_one_answers_the_oldest_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let c = super::super::open::writing(&folder.path().join("edge.db"), true).unwrap();
        for n in 0..=MOST as u32 {
            assert_eq!(
                run(&c, n, 7, NOW.plus(Duration::from_millis(n.into()))),
                Ok(Done::New(n))
            );
        }
        assert_eq!(run(&c, 1, 7, NOW), again(1));
        assert_eq!(run(&c, 0, 7, NOW), Ok(Done::New(0)));
    }
}
