//! A configuration as TOML that reads back as the same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;

/// A section of a configuration's text, as [`Config::sections`] gives it.
#[derive(Clone, Debug)]
pub struct Section {
    /// The line it begins with, as `[chat]`; empty for what stands before any section.
    pub head: String,
    /// What stands in it.
    pub lines: Vec<Line>,
}

/// One setting, in its [`Section`].
#[derive(Clone, Debug)]
pub struct Line {
    /// Its whole key, as `chat.price` or `inference[0].url`.
    pub key: String,
    /// Its value; null where it is not set.
    pub value: Value,
    /// Its line of TOML; where it is not set, a comment that says so.
    pub toml: String,
}

/// One setting that is otherwise in another configuration, as [`Config::changes`] finds it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its whole key.
    pub key: String,
    /// What it is now, and what it was.
    pub what: String,
}

impl Change {
    /// Whether a running server can take it over: rates, alerts and the log's level.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let key = &self.key;
        key.starts_with("rates.") || key.starts_with("alerts.") || key == "log.level"
    }
}

impl Config {
    /// Every setting, in the order of the example.
    ///
    /// # Errors
    /// A setting that no text stands for: a path that is not UTF-8, a rate in a time that has no unit.
    pub fn sections(&self) -> Result<Vec<Section>, String> {
        let mut sections = vec![Section {
            head: String::new(),
            lines: Vec::new(),
        }];
        let value = serde_json::to_value(self).map_err(|error| error.to_string())?;
        if let Value::Object(members) = &value {
            for (name, value) in members {
                section(name, &format!("[{}]", quoted(name)), value, &mut sections);
            }
        }
        Ok(sections)
    }

    /// What is otherwise in a newer configuration: each line as it stands there, with what stood here before.
    ///
    /// # Errors
    /// As [`Config::sections`].
    pub fn changes(&self, newer: &Self) -> Result<Vec<Change>, String> {
        let lines = |config: &Self| -> Result<Vec<Line>, String> {
            let sections = config.sections()?.into_iter();
            Ok(sections.flat_map(|section| section.lines).collect())
        };
        let mut before: BTreeMap<_, _> = lines(self)?
            .into_iter()
            .map(|line| (line.key, line.value))
            .collect();
        let mut changes = Vec::new();
        for Line { key, value, .. } in lines(newer)? {
            let before = before.remove(&key).unwrap_or_default();
            if before != value && !(is_nothing(&before) && is_nothing(&value)) {
                let what = format!("{key} = {} (was {})", told(&value), told(&before));
                changes.push(Change { key, what });
            }
        }
        // What is there no longer: an inference server, an adapter.
        changes.extend(
            before
                .into_iter()
                .filter(|(_, value)| !is_nothing(value))
                .map(|(key, value)| {
                    let what = format!("{key} is gone (was {})", told(&value));
                    Change { key, what }
                }),
        );
        Ok(changes)
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn told(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        value => toml(value),
    }
}

/// Adds a setting to the first section, or whole sections with what is in them.
fn section(key: &str, head: &str, value: &Value, sections: &mut Vec<Section>) {
    match value {
        Value::Object(members) => {
            let at = sections.len();
            let (head, lines) = (head.to_owned(), Vec::new());
            sections.push(Section { head, lines });
            for (name, value) in members {
                let key = format!("{key}.{}", quoted(name));
                match value {
                    Value::Object(_) => section(&key, &format!("[{key}]"), value, sections),
                    value => sections[at].lines.push(line(key, &quoted(name), value)),
                }
            }
        }
        Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                section(
                    &format!("{key}[{at}]"),
                    &format!("[{head}]"),
                    item,
                    sections,
                );
            }
        }
        value => sections[0].lines.push(line(key.to_owned(), key, value)),
    }
}

fn line(key: String, name: &str, value: &Value) -> Line {
    let toml = match value {
        Value::Null => format!("# {name} is not set"),
        value => format!("{name} = {}", toml(value)),
    };
    let value = value.clone();
    Line { key, value, toml }
}

/// A key as TOML takes it.
pub(super) fn quoted(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(plain) {
        return key.to_owned();
    }
    toml(&key.into())
}

/// JSON's way to write texts, numbers and lists is TOML's too, but for one character.
fn toml(value: &Value) -> String {
    value.to_string().replace('\x7f', "\\u007F")
}

#[cfg(all(test, feature = "toml"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(config: &Config) -> String {
        let mut text = String::new();
        for section in config.sections().unwrap() {
            text += &format!("{}\n", section.head);
            for line in section.lines {
                text += &format!("{}\n", line.toml);
            }
        }
        text
    }

    fn read_back(config: &Config) {
        let text = text(config);
        let again = Config::read(&text, []).unwrap();
        assert_eq!(format!("{again:#?}"), format!("{config:#?}"), "{text}");
    }

    #[test]
    fn the_defaults_read_back_as_the_same() {
        read_back(&Config::default());
    }

    #[test]
    fn what_changed_is_told_with_what_it_was() {
        let read = |text: &str| Config::read(text, []).unwrap();
        let node = "\n[[inference]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"";
        let older = read(&format!("[rates]\nchat = \"1/s\"{node}"));
        let newer = read("[rates]\nread = \"off\"\n[chain]\nrpc = \"http://c\"");
        assert!(older.changes(&older).unwrap().is_empty());
        let changes = older.changes(&newer).unwrap();
        let told: Vec<_> = changes
            .iter()
            .map(|change| (&*change.what, change.is_live()))
            .collect();
        assert_eq!(
            told[..3],
            [
                ("rates.chat = \"10/min\" (was \"1/s\")", true),
                ("rates.read = \"off\" (was \"300/min\")", true),
                ("chain.rpc = \"http://c\" (was not set)", false),
            ]
        );
        assert!(
            told[3..].contains(&("inference[0].name is gone (was \"a\")", false)),
            "{told:?}"
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_the_same(
            words in prop::collection::vec(any::<String>(), 5),
            list in prop::collection::vec(any::<String>(), 0..3),
            adapters in prop::collection::btree_map(any::<String>(), prop::collection::vec(any::<String>(), 0..3), 0..3),
            price in 1..1_000_000_000i64,
            (open, rate) in (any::<u32>(), 0.0..=1.0),
            nodes in 0..3usize,
        ) {
            let mut config = Config::default();
            config.chat.price = crate::model::Credits::from_micro(price);
            config.chat.default_adapter.clone_from(&words[0]);
            config.miner.worker.clone_from(&words[1]);
            config.database = words[2].clone().into();
            config.chain.ca_file = Some(words[3].clone().into());
            config.auth.hosts = vec!["edge.example".to_owned()];
            config.auth.public_reads = Some(nodes == 0);
            config.breaker.open = std::time::Duration::from_millis(open.into());
            config.breaker.failure_rate = rate;
            config.limits.body = open as usize + 1;
            config.adapters = adapters.into_iter().map(|(name, keywords)| (name, crate::config::AdapterConfig { keywords })).collect();
            for at in 0..nodes {
                config.inference.push(crate::config::InferenceConfig {
                    name: format!("node-{at}"),
                    kind: crate::config::InferenceKind::OpenAi,
                    url: "http://127.0.0.1:1".to_owned(),
                    model: words[4].clone(),
                    adapters: list.clone(),
                    ca_file: None,
                    api_key_file: Some("key".into()),
                });
            }
            read_back(&config);
        }
    }
}
