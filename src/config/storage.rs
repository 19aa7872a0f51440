use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;
use crate::model::Retention;

/// Copies by schedule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BackupConfig {
    /// How often; `None` is never.
    #[serde(with = "units::duration_or_off")]
    pub every: Option<Duration>,
    /// Where copies go, also those that are asked for; empty: beside the database.
    pub folder: PathBuf,
    /// How many are kept after one by schedule.
    pub keep: usize,
}

impl BackupConfig {
    /// The folder, where one is set.
    #[must_use]
    pub fn folder(&self) -> Option<&std::path::Path> {
        let set = !self.folder.as_os_str().is_empty();
        set.then_some(&*self.folder)
    }
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            every: None,
            folder: PathBuf::new(),
            keep: 7,
        }
    }
}

/// How [`Retention`] is written.
#[derive(Serialize, Deserialize)]
#[serde(
    remote = "Retention",
    default = "Retention::default",
    deny_unknown_fields
)]
pub(super) struct Kept {
    #[serde(with = "units::duration_or_forever")]
    raw: Option<Duration>,
    #[serde(with = "units::duration_or_forever")]
    minutes: Option<Duration>,
    #[serde(with = "units::duration_or_forever")]
    hours: Option<Duration>,
    #[serde(with = "units::duration_or_forever")]
    days: Option<Duration>,
}
