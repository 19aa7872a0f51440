//! Reads a configuration: a file's text, then single settings laid over it (environment variables, flags), and remembers
//! where each setting comes from. The first error ends it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Table, Value};

use super::Config;
use super::print::quoted;

/// Where a setting comes from. With the feature `toml`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// It was not set.
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

/// Why a configuration was refused. With the feature `toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where the setting comes from.
    pub origin: Origin,
    /// The setting, as `chat.price`; empty where the file is not TOML.
    pub key: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Where the settings of a configuration come from, as a [`Loader`] found them. With the feature `toml`.
#[derive(Clone, Default, Debug)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a setting comes from, by its key as in `chat.price` or `inference[0].url`.
    #[must_use]
    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }

    /// The same for an error's key, which may name a section, or what is missing in one.
    fn nearest(&self, key: &str) -> Origin {
        let mut outward =
            std::iter::successors(Some(key), |key| Some(&key[..key.rfind(['.', '['])?]));
        let inside = || self.0.iter().filter(|(known, _)| is_inside(known, key));
        let found = outward.find_map(|key| self.0.get(key));
        let found = found.or_else(|| inside().map(|(_, origin)| origin).max());
        found.cloned().unwrap_or(Origin::Default)
    }

    /// Records the origin of every key in a value.
    fn record(&mut self, key: &str, value: &DeValue<'_>, place: &dyn Fn(Range<usize>) -> Origin) {
        let mut found = |key: String, span, value: &DeValue<'_>| {
            self.0.insert(key.clone(), place(span));
            self.record(&key, value, place);
        };
        match value {
            DeValue::Table(members) => {
                for (name, value) in members {
                    found(join(key, name.get_ref()), name.span(), value.get_ref());
                }
            }
            DeValue::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    if item.get_ref().is_table() {
                        found(format!("{key}[{at}]"), item.span(), item.get_ref());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Reads a configuration: a file, then what lies over it. With the feature `toml`.
///
/// ```
/// use r3mes_edge::config::{Loader, Origin};
///
/// let mut loader = Loader::default();
/// loader.file("edge.toml", "[chat]\nprice = 2\nqueue = 8")?;
/// loader.set("CHAT__QUEUE", "32".as_ref(), "R3MES_EDGE_CHAT__QUEUE")?;
/// let (config, origins) = loader.finish()?;
/// assert_eq!((config.chat.price.to_string().as_str(), config.chat.queue), ("2", 32));
/// assert_eq!(origins.of("chat.price").to_string(), "edge.toml:2:1");
/// assert_eq!(origins.of("chat.queue").to_string(), "R3MES_EDGE_CHAT__QUEUE");
/// assert_eq!(*origins.of("listen"), Origin::Default);
/// # Ok::<_, r3mes_edge::config::ConfigError>(())
/// ```
#[derive(Default)]
pub struct Loader {
    table: Table,
    origins: Origins,
}

impl Loader {
    /// Takes a configuration file's text, before anything is laid over it; `name` is what errors call the file.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and column.
    pub fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let name: Arc<str> = name.into();
        let place = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Origin::File {
                name: Arc::clone(&name),
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
            }
        };
        let invalid = |error: toml::de::Error| ConfigError {
            origin: place(error.span().unwrap_or_default()),
            key: String::new(),
            message: format!("invalid TOML: {}", error.message().replace('\n', ", ")),
        };
        let table = DeTable::parse(text).map_err(invalid)?;
        let value = DeValue::Table(table.into_inner());
        self.origins.record("", &value, &place);
        self.table = toml::from_str(text).map_err(invalid)?;
        self.config().map(drop)
    }

    /// Lays one setting over what came before. Its key is written as in the file, `__` between section and name, letters
    /// in any case; its value as in the file, a text without quotes. `origin` is the variable or flag that holds it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&mut self, key: &str, value: &OsStr, origin: &str) -> Result<(), ConfigError> {
        let lower = key.to_ascii_lowercase();
        // No setting is nested deeper than that.
        let path: Vec<&str> = lower.splitn(5, "__").collect();
        let name = path
            .iter()
            .fold(String::new(), |name, step| join(&name, step));
        let origin = Origin::Named(origin.to_owned());
        let origins = &mut self.origins.0;
        origins.retain(|known, _| !is_inside(known, &name));
        origins.insert(name.clone(), origin.clone());
        let Some(text) = value.to_str() else {
            return Err(ConfigError {
                origin,
                key: name,
                message: "must be UTF-8".to_owned(),
            });
        };
        let literal = DeValue::parse(text.trim()).ok().filter(|value| {
            let value = value.get_ref();
            value.is_integer() || value.is_float() || value.is_bool() || value.is_array()
        });
        let mut literal_error = None;
        if let Some(literal) = literal {
            let mut origins = self.origins.clone();
            origins.record(&name, literal.get_ref(), &|_| origin.clone());
            if let Ok(value) = Value::deserialize(ValueDeserializer::from(literal)) {
                match self.with(&path, value) {
                    Ok(table) => {
                        (self.table, self.origins) = (table, origins);
                        return Ok(());
                    }
                    Err(error) => literal_error = Some(error),
                }
            }
        }
        // A name may be made of digits.
        match self.with(&path, Value::String(text.to_owned())) {
            Ok(table) => self.table = table,
            Err(error) => {
                // Of two errors, the one that says more than that the type is another.
                let literal_error =
                    literal_error.filter(|e| !e.message.starts_with("invalid type"));
                return Err(literal_error.unwrap_or(error));
            }
        }
        Ok(())
    }

    /// The configuration, and where its settings come from.
    ///
    /// # Errors
    /// A setting, or a combination of them, that makes no sense.
    pub fn finish(self) -> Result<(Config, Origins), ConfigError> {
        let config = self.config()?;
        if let Err(error) = config.validate() {
            return Err(ConfigError {
                origin: self.origins.nearest(&error.key),
                key: error.key,
                message: error.message,
            });
        }
        Ok((config, self.origins))
    }

    /// The table with one more value, where a configuration can be read from it.
    fn with(&self, path: &[&str], value: Value) -> Result<Table, ConfigError> {
        let mut table = self.table.clone();
        insert(&mut table, path, value);
        let changed = Self {
            table,
            origins: self.origins.clone(),
        };
        changed.config()?;
        Ok(changed.table)
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let value = Value::Table(self.table.clone());
        serde_path_to_error::deserialize(value).map_err(|error| {
            let mut key = String::new();
            for segment in error.path() {
                match segment {
                    Segment::Map { key: name } => key = join(&key, name),
                    Segment::Seq { index } => key = format!("{key}[{index}]"),
                    Segment::Enum { .. } | Segment::Unknown => {}
                }
            }
            let message = error.inner().message();
            // Where the section itself refuses a name, the path ends before it.
            if let Some(name) = unknown_field(message)
                && !key.ends_with(&quoted(name))
            {
                key = join(&key, name);
            }
            let message = describe(message, &key);
            ConfigError {
                origin: self.origins.nearest(&key),
                key,
                message,
            }
        })
    }
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    let [name, rest @ ..] = path else {
        return;
    };
    if rest.is_empty() {
        table.insert((*name).to_owned(), value);
        return;
    }
    let entry = table
        .entry(*name)
        .or_insert_with(|| Value::Table(Table::new()));
    if !entry.is_table() {
        *entry = Value::Table(Table::new());
    }
    if let Value::Table(inner) = entry {
        insert(inner, rest, value);
    }
}

fn join(key: &str, name: &str) -> String {
    match key {
        "" => quoted(name),
        key => format!("{key}.{}", quoted(name)),
    }
}

/// Whether a key is of something in the section or list at `outer`.
fn is_inside(key: &str, outer: &str) -> bool {
    let rest = key.strip_prefix(outer);
    rest.is_some_and(|rest| rest.starts_with(['.', '[']))
}

fn unknown_field(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `")?;
    rest.split('`').next()
}

/// serde's message in an operator's words; an unknown name is answered with the nearest known one.
fn describe(message: &str, key: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    if unknown_field(message).is_some() {
        let unknown = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        return match nearest(unknown, &known) {
            Some(near) => {
                let section = key.rfind('.').map_or("", |dot| &key[..dot]);
                format!("unknown key; did you mean {}?", join(section, near))
            }
            None => format!("unknown key; known are {}", known.join(", ")),
        };
    }
    if message.starts_with("unknown variant") {
        let unknown = names.next().unwrap_or_default();
        let known: Vec<&str> = names.collect();
        return format!("must be {}, not {unknown:?}", known.join(" or "));
    }
    let (found, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    match expected {
        "" => message.to_owned(),
        "usize" | "u32" => format!("{found}, expected a non-negative integer"),
        "f64" => format!("{found}, expected a number"),
        "path string" => format!("{found}, expected a string"),
        structure if structure.starts_with("struct ") || structure == "a map" => {
            format!("{found}, expected a table")
        }
        other => format!("{found}, expected {other}"),
    }
}

/// The known word that is most like this one; `None` where none is much like it.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // A slip changes a third of the letters at most, or their case.
    let distance = |known: &&&str| strsim::osa_distance(&word.to_lowercase(), known);
    let found = known.iter().min_by_key(distance)?;
    let most = found.len().max(word.chars().count()).div_ceil(3);
    (distance(&found) <= most).then_some(*found)
}

#[cfg(test)]
mod tests;
