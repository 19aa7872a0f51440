//! Loads a configuration: a file's text, then single settings over it (environment variables, flags). Remembers where each
//! setting comes from, for errors and for `config print`; the first error ends it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;

use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::print::join;
use super::{Config, ConfigError, Origin};

/// Where the settings of a configuration come from, as a [`Loader`] found them. With the feature `toml`.
#[derive(Clone, Default, Debug)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a setting comes from, by its key as in `chat.price` or `inference[0].url`.
    #[must_use]
    pub fn of(&self, key: &str) -> &Origin {
        // A variable that holds a list sets everything in it.
        let named = |outer| self.0.get(outer).filter(|o| matches!(o, Origin::Named(_)));
        let found = self.0.get(key).or_else(|| outward(key).find_map(named));
        found.unwrap_or(&Origin::Default)
    }

    /// The same for an error's key, which may name a section, or what is missing in one.
    fn nearest(&self, key: &str) -> Origin {
        let inside = || self.0.iter().filter(|(known, _)| is_inside(known, key));
        let found = outward(key).find_map(|outer| self.0.get(outer));
        let found = found.or_else(|| inside().map(|(_, origin)| origin).max());
        found.cloned().unwrap_or(Origin::Default)
    }

    /// Records every key in a value with its position.
    fn record(&mut self, key: &str, value: &DeValue<'_>, at: &dyn Fn(Range<usize>) -> Origin) {
        match value {
            DeValue::Table(members) => {
                for (name, value) in members {
                    let key = join(key, name.get_ref());
                    self.0.insert(key.clone(), at(name.span()));
                    self.record(&key, value.get_ref(), at);
                }
            }
            DeValue::Array(items) => {
                let tables = items.iter().enumerate();
                for (index, item) in tables.filter(|(_, item)| item.get_ref().is_table()) {
                    let key = format!("{key}[{index}]");
                    self.0.insert(key.clone(), at(item.span()));
                    self.record(&key, item.get_ref(), at);
                }
            }
            _ => {}
        }
    }
}

/// Loads a configuration: a file, then settings over it. With the feature `toml`.
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
    /// Reads a configuration file's text, before any setting over it; `name` is what errors call the file.
    ///
    /// # Errors
    /// Where it is not TOML.
    pub fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let name: Arc<str> = name.into();
        let at = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Origin::File {
                name: Arc::clone(&name),
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
            }
        };
        let invalid = |error: toml::de::Error| {
            let message = format!("invalid TOML: {}", error.message().replace('\n', ", "));
            ConfigError::new(at(error.span().unwrap_or_default()), "", message)
        };
        let table = DeTable::parse(text).map_err(invalid)?;
        self.origins
            .record("", &DeValue::Table(table.into_inner()), &at);
        self.table = toml::from_str(text).map_err(invalid)?;
        Ok(())
    }

    /// Sets one key over what came before. It is written as in the file, `__` between section and name, letters in any
    /// case; its value as in the file, a text without quotes. `origin` is the variable or flag that holds it.
    ///
    /// # Errors
    /// Where the value is not UTF-8.
    pub fn set(&mut self, key: &str, value: &OsStr, origin: &str) -> Result<(), ConfigError> {
        let lower = key.to_ascii_lowercase();
        // No key is nested deeper than that.
        let path: Vec<&str> = lower.splitn(5, "__").collect();
        let key = path
            .iter()
            .fold(String::new(), |key, name| join(&key, name));
        let origin = Origin::Named(origin.to_owned());
        let Some(text) = value.to_str() else {
            return Err(ConfigError::new(origin, &key, "must be UTF-8"));
        };
        self.origins.0.retain(|known, _| !is_inside(known, &key));
        self.origins.0.insert(key, origin);
        insert(&mut self.table, &path, parse(&path, text));
        Ok(())
    }

    /// The configuration, and where its settings come from.
    ///
    /// # Errors
    /// The first setting, or combination of them, that is wrong.
    pub fn finish(self) -> Result<(Config, Origins), ConfigError> {
        let error = |key: &str, message| ConfigError::new(self.origins.nearest(key), key, message);
        let config = serde_path_to_error::deserialize::<_, Config>(Value::Table(self.table));
        let config = config.map_err(|found| {
            let mut key = String::new();
            for segment in found.path() {
                match segment {
                    Segment::Map { key: name } => key = join(&key, name),
                    Segment::Seq { index } => key = format!("{key}[{index}]"),
                    Segment::Enum { .. } | Segment::Unknown => {}
                }
            }
            let message = describe(found.inner().message(), &key);
            error(&key, message)
        })?;
        match config.validate() {
            Ok(()) => Ok((config, self.origins)),
            Err(found) => Err(error(&found.key, found.message)),
        }
    }
}

/// A setting's text as a value: a string where the default is one, else what it is in TOML.
fn parse(path: &[&str], text: &str) -> Value {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let default = path
        .iter()
        .try_fold(&defaults, |value, name| value.get(name));
    let parsed = text.trim().parse::<Value>().ok();
    let parsed = parsed.filter(|value| match default {
        Some(serde_json::Value::String(_)) => false,
        // Not set: a path or an address but for one switch.
        Some(serde_json::Value::Null) => value.is_bool(),
        _ => !value.is_str(),
    });
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [name] => drop(table.insert((*name).to_owned(), value)),
        [name, rest @ ..] => {
            let inner = table.entry(*name).or_insert(Value::Boolean(false));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// A key, and the sections and lists around it.
fn outward(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| Some(&key[..key.rfind(['.', '['])?]))
}

/// Whether a key is in the section or list at `outer`.
fn is_inside(key: &str, outer: &str) -> bool {
    let rest = key.strip_prefix(outer);
    rest.is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// serde's message in an operator's words; an unknown key is answered with the nearest known one.
fn describe(message: &str, key: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (unknown, known) = (names.next().unwrap_or_default(), Vec::from_iter(names));
    if message.starts_with("unknown field") {
        let section = key.rfind('.').map_or("", |dot| &key[..dot]);
        return match nearest(unknown, &known) {
            Some(near) => format!("unknown key; did you mean {}?", join(section, near)),
            None => format!("unknown key; known are {}", known.join(", ")),
        };
    }
    if message.starts_with("unknown variant") {
        return format!("must be {}, not {unknown:?}", known.join(" or "));
    }
    let Some((found, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let expected = match expected {
        "usize" | "u32" => "a non-negative integer",
        "f64" => "a number",
        "path string" => "a string",
        _ if expected.starts_with("struct ") || expected == "a map" => "a table",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// The known word that is most like this one; `None` where none is much like it.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // A typo changes a third of the letters at most, or their case.
    let distance = |known: &&&str| strsim::osa_distance(&word.to_lowercase(), known);
    let found = known.iter().min_by_key(distance)?;
    let most = found.len().max(word.chars().count()).div_ceil(3);
    (distance(&found) <= most).then_some(*found)
}

#[cfg(test)]
mod tests;
