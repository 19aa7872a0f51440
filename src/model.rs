//! The types of the domain, each parsed once at the edge and trusted afterwards.
//!
//! Nothing here knows HTTP or SQL: a [`Wallet`] has a valid checksum, [`Credits`] never passed through a float, a
//! [`Sample`] is within its ranges.

mod clock;
mod credits;
mod csv;
mod fields;
pub(crate) mod guard;
mod input;
mod parse;
mod period;
mod price;
mod retention;
mod sample;
pub(crate) mod section;
mod time;
pub(crate) mod units;
mod wallet;

pub use clock::ClockReading;
pub use credits::Credits;
pub use csv::csv_field;
pub use input::{InputError, InputKind};
pub use parse::ParseError;
pub use period::Period;
pub use price::{Price, Tokens};
pub use retention::Retention;
pub use sample::{HashrateUnit, Sample};
pub use time::Timestamp;
pub use wallet::Wallet;

pub(crate) use fields::{Member, items, members};
pub(crate) use input::{
    Whole, check_depth, exact_credits, optional_credits, percent_decoded, pointer, read_object,
    read_query, shortened,
};
pub(crate) use sample::{MOST_COUNT, MOST_FIGURE};

/// A new identifier that sorts by its time of creation: `prefix` and a UUID of version 7 (RFC 9562) in 26 digits of
/// Crockford's base 32. Within a process ids are in order even when the system clock is set back.
#[must_use]
pub fn new_id(prefix: &str) -> String {
    id_text(prefix, uuid::Uuid::now_v7())
}

/// The same with the server's time, for what is stored: the wall clock may be wrong.
pub(crate) fn new_id_at(prefix: &str, now: Timestamp) -> String {
    const TIME: u32 = 80;
    let millis = u128::try_from(now.millis()).unwrap_or_default();
    let rest = uuid::Uuid::now_v7().as_u128() & ((1 << TIME) - 1);
    id_text(prefix, uuid::Uuid::from_u128(millis << TIME | rest))
}

/// An identifier derived from data, the same each time.
pub(crate) fn id_from(prefix: &str, time: Timestamp, hash: &[u8; 32]) -> String {
    let mut tail = [0; 10];
    tail.copy_from_slice(&hash[..10]);
    let millis = u64::try_from(time.millis()).unwrap_or_default();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &tail);
    id_text(prefix, id.into_uuid())
}

pub(crate) fn id_text(prefix: &str, id: uuid::Uuid) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |at| char::from(DIGITS[(id.as_u128() >> (5 * at)) as usize % 32]);
    prefix.chars().chain((0..26).rev().map(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn new_ids_are_unique_and_in_order() {
        let ids: Vec<_> = (0..10_000).map(|_| new_id("req_")).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
    }

    #[test]
    fn an_id_of_a_time_sorts_by_it_whatever_the_wall_clock_shows() {
        let at = |millis| new_id_at("key_", Timestamp::from_millis(millis));
        let ids = [
            0,
            1,
            1_796_000_000_000,
            1_796_000_000_001,
            4_000_000_000_000,
        ]
        .map(at);
        assert!(
            ids.is_sorted_by(|earlier, later| earlier < later),
            "{ids:?}"
        );
        assert_eq!(ids[0].len(), new_id("key_").len());
    }

    proptest! {
        #[test]
        fn derived_ids_have_one_form_and_sort_by_time(one in 0i64..1 << 48, other in 0i64..1 << 48, hash in any::<[u8; 32]>(), odd in any::<i64>()) {
            let make = |millis, hash| id_from("key_", Timestamp::from_millis(millis), &hash);
            if one != other {
                prop_assert_eq!(make(one, hash) < make(other, [7; 32]), one < other);
            }
            let id = make(odd, hash);
            let crockford = |b: u8| b.is_ascii_digit() || b.is_ascii_uppercase() && !b"ILOU".contains(&b);
            prop_assert!(id.len() == 30 && id[4..].bytes().all(crockford), "{}", id);
            prop_assert_eq!(id, make(odd, hash));
        }
    }
}
