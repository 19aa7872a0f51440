//! The words of the domain, each parsed once at the edge and trusted after.
//!
//! Nothing here knows HTTP or SQL: a [`Wallet`] that exists has a right checksum, [`Credits`] never passed through a
//! float, a [`Sample`] is within its ranges.

mod credits;
mod fields;
mod ids;
mod retention;
mod sample;
mod time;
mod wallet;

pub use credits::Credits;
pub use fields::{InputError, InputKind};
pub use ids::Ids;
pub use retention::Retention;
pub use sample::{HashrateUnit, Sample};
pub use time::Timestamp;
pub use wallet::Wallet;

pub(crate) use fields::{
    Fields, MOST_COUNT, MOST_FIGURE, check_depth, count, figure, float, integer, items, lines,
    percentage, plain_object, pointer, text,
};
