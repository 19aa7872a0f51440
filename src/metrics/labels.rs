//! The values of labels, each from a bounded set.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::store::Estimated;

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

/// Why a charge is an estimate.
pub(super) const ESTIMATES: [Estimated; 3] =
    [Estimated::Cut, Estimated::ClientLeft, Estimated::NoUsage];

/// The label of each [`Release`].
pub(super) const RELEASES: [&str; 3] = ["failed", "client_left", "not_written"];

/// The label of a status; the first is for a client that left before there was one.
pub(super) const STATUSES: [&str; 5] = ["left", "2xx", "3xx", "4xx", "5xx"];
pub(super) const SERVER_ERROR: usize = 4;

/// The models that metrics name: the configured adapters, and the first of those that servers have. Lists change, and no series
/// ends before the server does.
#[derive(Debug)]
pub(super) struct Models {
    names: Mutex<BTreeSet<String>>,
    most: usize,
}

impl Models {
    /// Models beside the adapters.
    const OWN: usize = 256;

    pub(super) fn new(adapters: &BTreeSet<String>) -> Self {
        Self {
            names: Mutex::new(adapters.clone()),
            most: adapters.len() + Self::OWN,
        }
    }

    /// The label of a model.
    pub(super) fn label<'a>(&self, model: &'a str) -> &'a str {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(model) {
            if names.len() >= self.most {
                return "other";
            }
            names.insert(model.to_owned());
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_and_a_bounded_number_of_other_models_have_labels_of_their_own() {
        let models = Models::new(&BTreeSet::from(["general".to_owned()]));
        for at in 0..Models::OWN {
            let name = format!("model-{at}");
            assert_eq!(models.label(&name), name);
        }
        assert_eq!(models.label("one more"), "other");
        assert_eq!(models.label("general"), "general");
        assert_eq!(models.label("model-0"), "model-0");
    }
}
