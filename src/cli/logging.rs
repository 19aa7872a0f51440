//! The program's log: env_logger with lines for people on a terminal and JSON lines elsewhere. A record is one line:
//! control characters in what a client or an upstream sent are escaped.

mod queue;

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use env_logger::{Builder, Target};
use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Record};
use r3mes_edge::config::{LogConfig, LogFormat};
use r3mes_edge::model::Timestamp;
use serde_json::{Map, json};

use self::queue::LineQueue;

static QUEUE: OnceLock<LineQueue> = OnceLock::new();

/// Logs to stderr. `RUST_LOG` lies over the level.
pub(super) fn start(settings: &LogConfig) {
    let mut builder = match std::env::var_os("RUST_LOG") {
        Some(_) => Builder::from_default_env(),
        None => Builder::new(),
    };
    if std::env::var_os("RUST_LOG").is_none() {
        // What this program logs is limited by `log::set_max_level`, which can change later.
        builder.filter_level(LevelFilter::Warn);
        builder.filter_module("r3mes_edge", LevelFilter::Trace);
    }
    let as_json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    builder.format(move |out, record| {
        let now = std::time::SystemTime::now().into();
        let line = match as_json {
            true => json_line(record, now),
            false => text_line(record, now),
        };
        out.write_all(line.as_bytes())
    });
    // Where the system gives no thread, env_logger writes to stderr itself.
    if let Ok(queue) = LineQueue::start(io::stderr()) {
        builder.target(Target::Pipe(Box::new(queue.clone())));
        let _ = QUEUE.set(queue);
    }
    // Fails only where there is a logger already, which is then as good.
    if builder.try_init().is_ok() {
        set_level(settings);
    }
}

/// From now on this program logs from `log.level` on, unless `RUST_LOG` is set.
pub(super) fn set_level(settings: &LogConfig) {
    if let Ok(level) = settings.level.parse()
        && std::env::var_os("RUST_LOG").is_none()
    {
        log::set_max_level(level);
    }
}

/// Waits until what was logged is written, one second at most.
pub(super) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush_now();
    }
}

fn json_line(record: &Record<'_>, now: Timestamp) -> String {
    let mut fields = Map::new();
    for (name, value) in [
        ("time", now.to_string()),
        ("level", record.level().to_string()),
        ("target", record.target().to_owned()),
        ("message", record.args().to_string()),
    ] {
        fields.insert(name.to_owned(), value.into());
    }
    // The visitor never fails.
    let _ = record.key_values().visit(&mut Fields(&mut fields));
    format!("{}\n", serde_json::Value::Object(fields))
}

fn text_line(record: &Record<'_>, now: Timestamp) -> String {
    let mut line = format!("{now} {:<5} {}", record.level(), record.args());
    let mut fields = Map::new();
    let _ = record.key_values().visit(&mut Fields(&mut fields));
    for (name, value) in fields {
        // The message of an access line has these.
        let in_message = matches!(&*name, "method" | "route" | "status");
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if !in_message && !matches!(&*text, "-" | "0" | "0.0") {
            line.push_str(&format!(" {name}={text}"));
        }
    }
    let mut plain = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        match c.is_control() {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain + "\n"
}

/// Collects a record's key-value pairs; one that is there already stays.
struct Fields<'a>(&'a mut Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let number = value.to_u64().map(|number| json!(number));
        let number = number.or_else(|| value.to_i64().map(|number| json!(number)));
        let number = number.or_else(|| value.to_f64().map(|number| json!(number)));
        let value = number.unwrap_or_else(|| json!(value.to_string()));
        self.0.entry(key.as_str()).or_insert(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(message: &str, request_id: &str) -> (String, String) {
        let pairs = [
            ("request_id", Value::from(request_id)),
            ("bytes", Value::from(7u64)),
        ];
        let now = Timestamp::from_millis(1_795_489_200_000);
        let line = |write: fn(&Record<'_>, Timestamp) -> String| {
            let arguments = format_args!("{message}");
            let mut record = Record::builder();
            record
                .args(arguments)
                .level(log::Level::Info)
                .target("test")
                .key_values(&pairs);
            write(&record.build(), now)
        };
        (line(json_line), line(text_line))
    }

    #[test]
    fn a_line_has_time_level_message_and_fields() {
        let (json, text) = written("hello", "req_1");
        assert_eq!(
            json,
            "{\"time\":\"2026-11-24T03:00:00.000Z\",\"level\":\"INFO\",\"target\":\"test\",\"message\":\"hello\",\"request_id\":\"req_1\",\"bytes\":7}\n"
        );
        assert_eq!(
            text,
            "2026-11-24T03:00:00.000Z INFO  hello request_id=req_1 bytes=7\n"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_logged_is_one_line_without_control_characters(message in any::<String>(), id in any::<String>()) {
            let (json, text) = written(&message, &id);
            for line in [&json, &text] {
                let inside = line.strip_suffix('\n').unwrap();
                prop_assert!(!inside.chars().any(|c| matches!(c, '\n' | '\r' | '\x1b' | '\0'..='\x1f')), "{inside:?}");
            }
            prop_assert!(!text.trim_end_matches('\n').chars().any(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read["message"].as_str().unwrap(), &message);
        }
    }
}
