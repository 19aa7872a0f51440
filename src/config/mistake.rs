//! What is wrong with a configuration, and where it came from.

use std::fmt;
use std::sync::Arc;

/// Where a setting comes from. With the feature `toml`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A place in the file, counted from 1; columns are characters.
    File {
        /// The file's name.
        name: Arc<str>,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// An environment variable or a flag, by its name.
    Named(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong; one of [`Mistakes`]. With the feature `toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where it stands.
    pub origin: Origin,
    /// The setting, as `chat.price`; empty where a whole file cannot be read.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str(&self.what),
            origin => write!(f, "{origin}: {}", self.what),
        }
    }
}

/// Everything that is wrong, a line each: first what stands in the file, in its order. With the feature `toml`.
///
/// ```
/// use r3mes_edge::Config;
///
/// let file = "[chat]\nprize = 2\nqueue = -1";
/// let Err(mistakes) = Config::read(file, []) else {
///     return Err("neither can be meant");
/// };
/// let keys: Vec<_> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
/// assert_eq!(keys, ["chat.prize", "chat.queue"]);
/// let first = mistakes.to_string();
/// assert!(first.starts_with("configuration:2:1: chat.prize is not known; did you mean chat.price?"));
/// # Ok::<_, &str>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The known word that is most like this one; `None` where none is much like it.
pub(super) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    // What somebody meant differs in a third of its letters at most, or in case.
    let far = |known: &&&str| strsim::osa_distance(&word.to_lowercase(), known);
    let found = known.iter().min_by_key(far)?;
    let most = found.len().max(word.chars().count()).div_ceil(3);
    (far(&found) <= most).then_some(*found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_recognised_and_another_word_is_not() {
        let known = ["price", "queue", "idle_timeout", "per_address"];
        for (word, meant) in [
            ("prize", Some("price")),
            ("PRICE", Some("price")),
            ("quue", Some("queue")),
            ("idle_time", Some("idle_timeout")),
            ("idle-timeout", Some("idle_timeout")),
            ("peraddress", Some("per_address")),
            ("temperature", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
        assert_eq!(nearest("price", &[]), None);
    }
}
