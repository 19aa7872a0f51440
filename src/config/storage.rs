use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::units;
use crate::model::Retention;

/// Copies by schedule.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupConfig {
    /// How often; `None` is never.
    #[serde(deserialize_with = "units::duration_or_off")]
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

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut retention = Self::default();
        for (name, text) in BTreeMap::<String, String>::deserialize(deserializer)? {
            let kept = match name.as_str() {
                "raw" => &mut retention.raw,
                "minutes" => &mut retention.minutes,
                "hours" => &mut retention.hours,
                "days" => &mut retention.days,
                _ => {
                    return Err(serde::de::Error::custom(format!(
                        "unknown retention {name:?}; known are raw, minutes, hours, days"
                    )));
                }
            };
            *kept = match text.as_str() {
                "forever" => None,
                text => {
                    let duration = units::parse_duration(text).map_err(|what| {
                        serde::de::Error::custom(format!("{name}: {what}, or forever"))
                    })?;
                    Some(duration)
                }
            };
        }
        Ok(retention)
    }
}
