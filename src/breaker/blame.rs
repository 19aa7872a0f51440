use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// Who made a call, known only to be the same or another: the breaker learns no wallet.
///
/// ```
/// use r3mes_edge::breaker::Source;
///
/// assert_eq!(Source::of(&"wallet 1"), Source::of(&"wallet 1"));
/// assert_ne!(Source::of(&"wallet 1"), Source::of(&"wallet 2"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source(u64);

impl Source {
    /// The source that `who` always is. Were two of them taken for one, the upstream would be looked at once too often.
    #[must_use]
    pub fn of(who: &impl Hash) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::default().hash_one(who))
    }
}

/// Whose calls went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Blame {
    Nobody,
    /// One source's alone: the fault may be theirs.
    One(Source),
    /// Of several, or of a kind that no request brings about.
    Several,
}

impl Blame {
    /// With one more call that went wrong; `None` where that says nothing about who made it.
    pub(super) fn and(self, source: Option<Source>) -> Self {
        match (self, source) {
            (Self::Nobody, Some(source)) => Self::One(source),
            (Self::One(known), Some(source)) if known == source => self,
            _ => Self::Several,
        }
    }
}

/// Why a breaker opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Reason {
    /// So many failures in a row.
    InARow(u32),
    /// So many of so many last calls failed.
    Failures(usize, usize),
    /// So many of so many last calls were slow.
    Slow(usize, usize),
    /// The probe failed.
    Probe,
    /// An operator said so.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(count) => write!(f, "{count} failures in a row"),
            Self::Failures(count, of) => write!(f, "{count} of the last {of} calls failed"),
            Self::Slow(count, of) => write!(f, "{count} of the last {of} calls were slow"),
            Self::Probe => f.write_str("the probe failed"),
            Self::Forced => f.write_str("forced by the operator"),
        }
    }
}
