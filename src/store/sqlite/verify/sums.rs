//! Sums by which the verification compares rows without keeping them in memory.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use rusqlite::Row;

use super::super::usage;
use crate::model::Timestamp;

/// What the entries of a wallet add up to so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) balance: i64,
    pub(super) charged: Marked,
    pub(super) mined: Marked,
}

/// A sum, and the sum of each amount times a random number that belongs to its row: the second differs, but for one time in
/// millions of millions, if an amount belongs to another row. So rows are compared without keeping them in memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) sum: i64,
    mark: u64,
}

impl Marked {
    pub(super) fn add(&mut self, hasher: &RandomState, row: impl Hash, amount: i64) {
        // An odd factor loses no bit of the amount.
        let factor = hasher.hash_one(row) | 1;
        self.sum = self.sum.saturating_add(amount);
        self.mark = (self.mark).wrapping_add(factor.wrapping_mul(amount.cast_unsigned()));
    }
}

/// Adds what was charged to the sum of its day, key and adapter; those are in three columns from `column` on.
pub(super) fn add_used(
    hasher: &RandomState,
    sums: &mut Sums,
    charged: i64,
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<()> {
    let at: Timestamp = row.get(column)?;
    let day = usage::day(at);
    let (key, adapter): (i64, &str) = (row.get(column + 1)?, row.get_ref(column + 2)?.as_str()?);
    sums.charged.add(hasher, (day, key, adapter), charged);
    Ok(())
}
