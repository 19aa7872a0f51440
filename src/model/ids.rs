use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::Timestamp;

/// Makes identifiers that sort by time: 48 bits of milliseconds, then 80 bits that no other identifier shares, in
/// Crockford's base 32 (the layout of a ULID, <https://github.com/ulid/spec>).
///
/// They are names, not secrets: the tail is a mixed counter over a random start, so making one costs no system call. Where
/// the clock is set back they go on from the latest time they had, until it comes again: lists are in the order of them.
#[derive(Debug)]
pub struct Ids {
    latest: AtomicI64,
    next: AtomicU64,
    salt: u64,
}

impl Ids {
    /// Starts from a random place.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            latest: AtomicI64::new(0),
            next: AtomicU64::new(getrandom::u64()?),
            salt: getrandom::u64()?,
        })
    }

    /// A new identifier, `prefix` first: `req_01J…`.
    pub fn make(&self, prefix: &str, now: Timestamp) -> String {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let after = |latest: i64| match now.millis() {
            now if now < latest => latest.saturating_add(1),
            now => now,
        };
        let raise = |latest: i64| Some(after(latest)).filter(|after| *after != latest);
        // Many are made in one millisecond, and change nothing of it.
        let time = match self
            .latest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise)
        {
            Ok(latest) => after(latest),
            Err(same) => same,
        };
        let now = Timestamp::from_millis(time);
        // Mixing is a bijection, so two counts never give one tail.
        let tail = u128::from(mix(count)) << 16 | u128::from(mix(count ^ self.salt) & 0xFFFF);
        Self::fixed(prefix, now, tail)
    }

    /// The identifier of something that comes from elsewhere, the same each time: `tail` has 80 bits of its own.
    pub(crate) fn fixed(prefix: &str, time: Timestamp, tail: u128) -> String {
        let time = time.millis().unsigned_abs() & 0xFFFF_FFFF_FFFF;
        // 10, 8 and 8 digits of five bits, each from a number that a register holds.
        let mut digits = [0; 26];
        let (first, rest) = digits.split_at_mut(10);
        let (middle, last) = rest.split_at_mut(8);
        for (digits, mut value) in [
            (first, time),
            (middle, (tail >> 40) as u64),
            (last, tail as u64),
        ] {
            for digit in digits.iter_mut().rev() {
                *digit = ALPHABET[value as usize & 31];
                value >>= 5;
            }
        }
        let mut id = String::with_capacity(prefix.len() + digits.len());
        id.push_str(prefix);
        // All of the alphabet is ASCII.
        id.push_str(std::str::from_utf8(&digits).unwrap_or_default());
        id
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_differ_and_sort_by_time() {
        let ids = Ids::new().unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(ids.make("req_", Timestamp::from_millis(1_795_489_200_000))));
        }
        let earlier = ids.make("key_", Timestamp::from_millis(1_795_489_200_000));
        let later = ids.make("key_", Timestamp::from_millis(1_795_489_200_001));
        assert!(earlier < later);
        assert_eq!(earlier.len(), 30);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_identifier_that_sorts_before_earlier_ones() {
        let ids = Ids::new().unwrap();
        let make = |millis| ids.make("key_", Timestamp::from_millis(millis));
        let mut before = make(1_795_489_200_000);
        for millis in [0, 1_795_402_800_000, 1_795_489_199_999, 1_795_489_200_004] {
            let id = make(millis);
            assert!(id > before, "{id} after {before}");
            before = id;
        }
    }

    proptest! {
        #[test]
        fn whatever_the_time_an_identifier_has_one_shape_and_sorts(one in 0i64..1 << 48, other in 0i64..1 << 48, odd in any::<i64>()) {
            let make = |millis| Ids::new().unwrap().make("led_", Timestamp::from_millis(millis));
            if one != other {
                prop_assert_eq!(make(one) < make(other), one < other);
            }
            let id = make(odd);
            prop_assert!(id.len() == 30 && id[4..].bytes().all(|byte| ALPHABET.contains(&byte)), "{}", id);
        }
    }
}
