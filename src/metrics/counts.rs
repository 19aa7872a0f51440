//! Shares of requests and chats that alerts compare.

/// The shares that alerts compare over five minutes: since the start, or of such a window.
pub(crate) type AlertCounts = [Share; SHARES];
pub(crate) const SHARES: usize = 5;
/// Requests that failed because of this server itself, of its storage, and of an upstream.
pub(crate) const OWN_ERRORS: usize = 0;
pub(crate) const STORAGE_ERRORS: usize = 1;
pub(crate) const UPSTREAM_ERRORS: usize = 2;
/// Slow ones of the answers that waited for no model.
pub(crate) const SLOW_ANSWERS: usize = 3;
/// Chats that waited long for this server, apart from their model.
pub(crate) const SLOW_CHATS: usize = 4;

/// So many of all.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Share {
    pub(crate) part: u64,
    pub(crate) all: u64,
}

impl Share {
    pub(super) fn count(&mut self, is_part: bool) {
        self.all += 1;
        self.part += u64::from(is_part);
    }

    /// What was counted after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            part: self.part - earlier.part,
            all: self.all - earlier.all,
        }
    }

    /// 0 to 1; 0 of none.
    pub(crate) fn rate(self) -> f64 {
        self.part as f64 / self.all.max(1) as f64
    }
}
