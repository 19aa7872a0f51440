//! A configuration as TOML that reads back as the same, and what differs between two of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;

/// One key of a configuration, as [`Config::settings`] lists them.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The table it is in, as `chat` or `inference[0]`; empty at the top.
    pub table: String,
    /// The whole key, as `chat.price` or `inference[0].url`.
    pub key: String,
    /// Its value; null where it is not set.
    pub value: Value,
}

impl Setting {
    /// The line that opens its table: `[chat]` or `[[inference]]`.
    #[must_use]
    pub fn header(&self) -> String {
        let list = self
            .table
            .strip_suffix(']')
            .and_then(|table| table.rsplit_once('['));
        list.map_or_else(
            || format!("[{}]", self.table),
            |(list, _)| format!("[[{list}]]"),
        )
    }

    /// Its line of TOML; a comment where it is not set.
    #[must_use]
    pub fn toml(&self) -> String {
        let name = self.key.strip_prefix(&*self.table).unwrap_or(&self.key);
        let name = name.trim_start_matches('.');
        match &self.value {
            Value::Null => format!("# {name} is not set"),
            value => format!("{name} = {}", toml(value)),
        }
    }
}

/// One difference between two configurations, as [`Config::changes`] finds it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The whole key.
    pub key: String,
    /// The new value and the old.
    pub what: String,
}

impl Change {
    /// Whether a running server can apply it: rates, alerts and the log's level.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let key = &self.key;
        key.starts_with("rates.") || key.starts_with("alerts.") || key == "log.level"
    }
}

impl Config {
    /// Every key, in the order of the example, the keys of a table together.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn settings(&self) -> Result<Vec<Setting>, String> {
        let mut settings = Vec::new();
        let value = serde_json::to_value(self).map_err(|error| error.to_string())?;
        list("", String::new(), value, &mut settings);
        // TOML wants the keys outside of any table first.
        settings.sort_by_key(|setting| !setting.table.is_empty());
        Ok(settings)
    }

    /// What differs in a newer configuration: each key with its new value and the old.
    ///
    /// # Errors
    /// As [`Config::settings`].
    pub fn changes(&self, newer: &Self) -> Result<Vec<Change>, String> {
        let is_unset =
            |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let shown = |value: &Value| match value {
            Value::Null => "not set".to_owned(),
            value => toml(value),
        };
        let old = self.settings()?.into_iter();
        let mut old: BTreeMap<_, _> = old.map(|setting| (setting.key, setting.value)).collect();
        let mut changes = Vec::new();
        for Setting { key, value, .. } in newer.settings()? {
            let before = old.remove(&key).unwrap_or_default();
            if before != value && !(is_unset(&before) && is_unset(&value)) {
                let what = format!("{key} = {} (was {})", shown(&value), shown(&before));
                changes.push(Change { key, what });
            }
        }
        // The keys of an inference server or an adapter that is gone.
        for (key, before) in old.into_iter().filter(|(_, before)| !is_unset(before)) {
            let what = format!("{key} is gone (was {})", shown(&before));
            changes.push(Change { key, what });
        }
        Ok(changes)
    }
}

/// Lists the keys at and below this one, which is in a table.
fn list(table: &str, key: String, value: Value, settings: &mut Vec<Setting>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                list(&key, join(&key, &name), value, settings);
            }
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            for (at, item) in items.into_iter().enumerate() {
                list(table, format!("{key}[{at}]"), item, settings);
            }
        }
        value => settings.push(Setting {
            table: table.to_owned(),
            key,
            value,
        }),
    }
}

/// A key below another, quoted where TOML needs it.
pub(super) fn join(table: &str, name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let name = match !name.is_empty() && name.bytes().all(plain) {
        true => name.to_owned(),
        false => toml(&name.into()),
    };
    match table {
        "" => name,
        table => format!("{table}.{name}"),
    }
}

/// JSON's way to write texts, numbers and lists is TOML's too, but for one character.
fn toml(value: &Value) -> String {
    value.to_string().replace('\x7f', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(config: &Config) -> String {
        let (mut text, mut table) = (String::new(), String::new());
        for setting in config.settings().unwrap() {
            if setting.table != table {
                text += &format!("{}\n", setting.header());
                table.clone_from(&setting.table);
            }
            text += &format!("{}\n", setting.toml());
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
    fn a_change_is_listed_with_the_new_value_and_the_old() {
        let read = |text: &str| Config::read(text, []).unwrap();
        let node = "\n[[inference]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"";
        let older = read(&format!("[rates]\nchat = \"1/s\"{node}"));
        let newer = read("[rates]\nread = \"off\"\n[chain]\nrpc = \"http://c\"");
        assert!(older.changes(&older).unwrap().is_empty());
        let changes = older.changes(&newer).unwrap();
        let listed: Vec<_> = changes
            .iter()
            .map(|change| (&*change.what, change.is_live()))
            .collect();
        assert_eq!(
            listed[..3],
            [
                ("rates.chat = \"10/min\" (was \"1/s\")", true),
                ("rates.read = \"off\" (was \"300/min\")", true),
                ("chain.rpc = \"http://c\" (was not set)", false),
            ]
        );
        assert!(
            listed[3..].contains(&("inference[0].name is gone (was \"a\")", false)),
            "{listed:?}"
        );
    }

    proptest! {
        #[test]
        fn a_printed_configuration_reads_back_as_the_same(
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
