//! The values of labels, each from a fixed set.

/// How a chat ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChatEnd {
    /// Whole.
    Success,
    /// Ended by the upstream (or the shutdown) after its first text.
    Cut,
    /// The client did not wait for its end.
    ClientLeft,
    /// The wallet could not pay.
    Refused,
    /// There was no text.
    Failed,
}

/// The label of each [`ChatEnd`].
pub(super) const CHAT_ENDS: [&str; 5] = ["success", "cut", "client_left", "refused", "failed"];

/// Why a hold ended without a charge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    /// No model gave any content.
    Failed,
    /// The client left before there was content, or before it took any.
    ClientLeft,
    /// The charge could not be written.
    NotWritten,
}

/// The label of each [`Release`].
pub(super) const RELEASES: [&str; 3] = ["failed", "client_left", "not_written"];

/// The label of a status; the first is for a client that left before there was one.
pub(super) const STATUSES: [&str; 5] = ["left", "2xx", "3xx", "4xx", "5xx"];
pub(super) const SERVER_ERROR: usize = 4;
