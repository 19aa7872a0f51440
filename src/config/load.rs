//! Loads a configuration: a file's text, then single settings over it (environment variables, flags). Remembers where each
//! setting comes from, for errors and for `config print`; the first error ends it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Value, json};
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::print::join;
use super::{Config, ConfigError, Origin};

/// The position of a span in the file.
type At<'a> = dyn Fn(Range<usize>) -> Origin + 'a;

/// Where the settings of a configuration come from, as a [`Loader`] found them. With the feature `toml`.
#[derive(Clone, Default, Debug)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a setting comes from, by its key as in `chat.price` or `inference[0].url`.
    #[must_use]
    pub fn of(&self, key: &str) -> Origin {
        match self.nearest(key) {
            // A file's section sets only the keys in it, but a variable that holds a list sets everything in that.
            Origin::File { .. } if !self.0.contains_key(key) => Origin::Default,
            origin => origin,
        }
    }

    /// The same for an error's key, which may name a section, or what is missing in one.
    fn nearest(&self, key: &str) -> Origin {
        let found = outward(key).find_map(|outer| self.0.get(outer));
        let inside = || self.0.iter().find(|(known, _)| is_inside(known, key));
        let found = found.or_else(|| inside().map(|(_, origin)| origin));
        found.cloned().unwrap_or(Origin::Default)
    }

    /// Records the position of a key of the file, and of every key and item in its value.
    fn record(&mut self, key: String, from: Origin, value: &DeValue<'_>, at: &At<'_>) {
        match value {
            DeValue::Table(keys) => {
                for (name, value) in keys {
                    let key = join(&key, name.get_ref());
                    self.record(key, at(name.span()), value.get_ref(), at);
                }
            }
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let key = format!("{key}[{index}]");
                    self.record(key, at(item.span()), item.get_ref(), at);
                }
            }
            _ => {}
        }
        self.0.insert(key, from);
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
/// assert_eq!((config.chat.price.request.to_string().as_str(), config.chat.queue), ("2", 32));
/// assert_eq!(origins.of("chat.price").to_string(), "edge.toml:2:1");
/// assert_eq!(origins.of("chat.queue").to_string(), "R3MES_EDGE_CHAT__QUEUE");
/// assert_eq!(origins.of("listen"), Origin::Default);
/// # Ok::<_, r3mes_edge::config::ConfigError>(())
/// ```
#[derive(Default)]
pub struct Loader {
    values: Value,
    origins: Origins,
}

impl Loader {
    /// Reads a configuration file's text, before any setting over it; `name` is what errors call the file.
    ///
    /// # Errors
    /// Where it is not TOML.
    pub fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let at = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Origin::File {
                name: name.to_owned(),
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
            }
        };
        let invalid = |error: toml::de::Error| {
            let message = format!("invalid TOML: {}", error.message().replace('\n', ", "));
            ConfigError::new(at(error.span().unwrap_or_default()), "", message)
        };
        let table = DeTable::parse(text).map_err(invalid)?;
        let table = DeValue::Table(table.into_inner());
        self.origins.record(String::new(), at(0..0), &table, &at);
        self.values = toml::from_str(text).map_err(invalid)?;
        Ok(())
    }

    /// Sets one key over what came before. It is written as in the file, `__` between section and name, letters in any
    /// case; its value as in the file, a text without quotes. `origin` is the variable or flag that holds it.
    ///
    /// # Errors
    /// Where the value is not UTF-8.
    pub fn set(&mut self, key: &str, value: &OsStr, origin: &str) -> Result<(), ConfigError> {
        // No key is nested deeper than that.
        let lower = key.to_ascii_lowercase();
        let path: Vec<&str> = lower.splitn(5, "__").collect();
        let key = path.join(".");
        let name = origin.to_owned();
        let origin = Origin::Named { name };
        let Some(text) = value.to_str() else {
            return Err(ConfigError::new(origin, &key, "must be UTF-8"));
        };
        self.origins.0.retain(|known, _| !is_inside(known, &key));
        self.origins.0.insert(key, origin);
        let mut setting = &mut self.values;
        for name in &path {
            if !setting.is_object() {
                *setting = json!({});
            }
            setting = &mut setting[*name];
        }
        *setting = parse(&path, text);
        Ok(())
    }

    /// The configuration, and where its settings come from.
    ///
    /// # Errors
    /// The first setting, or combination of them, that is wrong.
    pub fn finish(mut self) -> Result<(Config, Origins), ConfigError> {
        if self.values.is_null() {
            self.values = json!({});
        }
        let error = |key: &str, message| ConfigError::new(self.origins.nearest(key), key, message);
        let config: Config = serde_path_to_error::deserialize(self.values).map_err(|found| {
            let key = found.path().to_string();
            error(&key, describe(&found.inner().to_string(), &key))
        })?;
        config.validate().map_err(|found| {
            let mut error = error(&found.key, found.message);
            if error.origin == Origin::Default {
                // A default is invalid only beside certain inference servers.
                error.origin = self.origins.nearest("inference");
            }
            error
        })?;
        Ok((config, self.origins))
    }
}

/// A setting's text as a value: a string where the default is one, else what it is in TOML.
fn parse(path: &[&str], text: &str) -> Value {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let default = defaults.pointer(&format!("/{}", path.join("/")));
    let is_valid = |value: &Value| match default {
        Some(Value::String(_)) => false,
        // Not set: a path or an address, a number or a switch.
        Some(Value::Null) => value.is_boolean() || value.is_number(),
        _ => !value.is_string(),
    };
    let parsed = ValueDeserializer::parse(text.trim()).and_then(Value::deserialize);
    parsed.ok().filter(is_valid).unwrap_or_else(|| text.into())
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

/// serde's message as what the value must be; that of an unknown key with the nearest known one.
fn describe(message: &str, key: &str) -> String {
    if !message.starts_with("unknown field") {
        let found = [
            "invalid type: ",
            "invalid value: ",
            "invalid length ",
            "unknown variant ",
        ];
        let found = found.iter().find_map(|kind| message.strip_prefix(kind));
        let Some((found, expected)) = found.and_then(|found| found.split_once(", expected "))
        else {
            return message.to_owned();
        };
        let expected = match expected {
            "usize" | "u32" => "a whole number, 0 or more",
            "f64" => "a number",
            "a boolean" => "true or false",
            "a string" | "path string" | "a borrowed string" => "a text in quotes",
            "a sequence" => "a list in brackets",
            "string or map" => "one of the words that the example lists",
            "a map" => "a section",
            section if section.starts_with("struct ") => "a section",
            words => words,
        };
        return format!("must be {expected}, not {found}");
    }
    let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    let (section, unknown) = key.rsplit_once('.').unwrap_or(("", key));
    match nearest(unknown, &known) {
        Some(near) => format!("unknown key; did you mean {}?", join(section, near)),
        None => format!("unknown key; known are {}", known.join(", ")),
    }
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
