//! A configuration as TOML that reads back as the same, as a list of its keys, and what differs between two of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;

impl Config {
    /// The configuration as TOML; keys that are not set are left out. With the feature `toml`.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    #[cfg(feature = "toml")]
    pub fn to_toml(&self) -> Result<String, String> {
        let mut value = serde_json::to_value(self).map_err(|error| error.to_string())?;
        remove_nulls(&mut value);
        toml::to_string(&value).map_err(|error| error.to_string())
    }

    /// Every key, as `chat.price` or `inference[0].url`, with its value, in the order of the example; null where it is
    /// not set.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn settings(&self) -> Result<Vec<(String, Value)>, String> {
        let value = serde_json::to_value(self).map_err(|error| error.to_string())?;
        let mut settings = Vec::new();
        list(String::new(), value, &mut settings);
        Ok(settings)
    }

    /// What differs in a newer configuration: each key with its new value and the old, and whether it needs a restart.
    /// A running server can apply rates, prices, alerts and the log's level.
    ///
    /// # Errors
    /// As [`Config::settings`].
    pub fn changes(&self, newer: &Self) -> Result<Vec<String>, String> {
        let mut values: BTreeMap<String, [String; 2]> = BTreeMap::new();
        for (index, config) in [self, newer].into_iter().enumerate() {
            for (key, value) in config.settings()? {
                if !value.is_null() && value != Value::Array(Vec::new()) {
                    let unset = || ["not set", "not set"].map(str::to_owned);
                    values.entry(key).or_insert_with(unset)[index] = value.to_string();
                }
            }
        }
        values.retain(|_, [old, new]| old != new);
        let text = |(key, [old, new]): (String, [String; 2])| {
            let is_live = ["rates.", "alerts.", "log.level"]
                .iter()
                .any(|live| key.starts_with(live))
                || is_term(&key);
            let restart = if is_live { "" } else { " (needs a restart)" };
            format!("{key} = {new} (was {old}){restart}")
        };
        Ok(values.into_iter().map(text).collect())
    }
}

/// Whether a key is of the price or the bounds of requests.
fn is_term(key: &str) -> bool {
    const TERMS: &str = "price max_output_tokens context_length media_tokens prompt_overhead";
    let mut parts = key.split('.');
    matches!(parts.next(), Some("chat" | "adapters"))
        && parts.any(|part| TERMS.split(' ').any(|term| term == part))
}

/// Lists the keys at and below this one.
fn list(key: String, value: Value, settings: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                list(join(&key, &name), value, settings);
            }
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            for (at, item) in items.into_iter().enumerate() {
                list(format!("{key}[{at}]"), item, settings);
            }
        }
        value => settings.push((key, value)),
    }
}

/// TOML has no null.
#[cfg(feature = "toml")]
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// A key below another.
pub(super) fn join(table: &str, name: &str) -> String {
    match table {
        "" => name.to_owned(),
        table => format!("{table}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(config: &Config) {
        let text = config.to_toml().unwrap();
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
        for change in [
            "chain.rpc = \"http://c\" (was not set) (needs a restart)",
            "inference[0].name = not set (was \"a\") (needs a restart)",
            "rates.chat = \"10/min\" (was \"1/s\")",
            "rates.read = \"off\" (was \"300/min\")",
        ] {
            assert!(
                changes.iter().any(|listed| listed == change),
                "{change}: {changes:?}"
            );
        }
    }

    /// A name with every character that TOML treats in its own way.
    const LABEL: &str = "[a-zA-Z0-9\"'\\\\#=.,\\[\\]{}ü☀]{1,9}";

    proptest! {
        #[test]
        fn a_printed_configuration_reads_back_as_the_same(
            words in prop::collection::vec(LABEL, 5),
            list in prop::collection::vec(LABEL, 0..3),
            path in "\\PC{1,9}|\n|\u{7f}",
            adapters in prop::collection::btree_map(LABEL, prop::collection::vec(LABEL, 0..3), 0..3),
            price in 1..1_000_000_000i64,
            (open, rate) in (1..=u32::MAX, 0.0..=1.0),
            nodes in 0..3usize,
        ) {
            let mut config = Config::default();
            config.chat.price = crate::model::Price::per_request(crate::model::Credits::from_micro(price));
            config.chat.default_adapter.clone_from(&words[0]);
            config.miner.worker = format!("worker-{nodes}");
            config.database = path.into();
            config.chain.ca_file = Some(words[3].clone().into());
            config.auth.hosts = vec!["edge.example".to_owned()];
            config.auth.public_reads = Some(nodes == 0);
            config.breaker.open = std::time::Duration::from_millis(open.into());
            config.breaker.failure_rate = rate;
            config.limits.body = open as usize + 1;
            config.adapters = adapters.into_iter().map(|(name, keywords)| (name, crate::config::AdapterConfig { keywords, ..Default::default() })).collect();
            for at in 0..nodes {
                config.inference.push(crate::config::InferenceConfig {
                    name: format!("node-{at}"),
                    kind: crate::config::InferenceKind::OpenAi,
                    url: "http://127.0.0.1:1".to_owned(),
                    model: words[4].clone(),
                    in_flight: (at > 0).then_some(at),
                    adapters: [&list[..], &words[..1]].concat(),
                    pass: vec!["grammar".to_owned(), "*".to_owned()],
                    ca_file: None,
                    api_key_file: Some("key".into()),
                });
            }
            read_back(&config);
        }
    }
}
