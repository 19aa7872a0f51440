//! The program's log: env_logger with text lines on a terminal and JSON lines elsewhere. A record is one line: control
//! characters that a client or an upstream sent are escaped.

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

/// Logs to stderr. `RUST_LOG` overrides the level.
pub(super) fn start(settings: &LogConfig) {
    let mut builder = Builder::from_default_env();
    if std::env::var_os("RUST_LOG").is_none() {
        // Our own level is `log::max_level`, which can change at run time.
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
        let line = format_line(as_json, record, now);
        out.write_all(line.as_bytes())
    });
    // Without the queue's thread env_logger writes to stderr itself.
    if let Ok(queue) = LineQueue::start(io::stderr()) {
        builder.target(Target::Pipe(Box::new(queue.clone())));
        let _ = QUEUE.set(queue);
    }
    if builder.try_init().is_ok() {
        set_level(settings);
    }
}

/// Sets `log.level`, unless `RUST_LOG` is set.
pub(super) fn set_level(settings: &LogConfig) {
    if let Ok(level) = settings.level.parse()
        && std::env::var_os("RUST_LOG").is_none()
    {
        log::set_max_level(level);
    }
}

/// Waits until all lines are written, one second at most.
pub(super) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.wait_written();
    }
}

fn format_line(as_json: bool, record: &Record<'_>, now: Timestamp) -> String {
    let mut fields = Fields(Map::new());
    if as_json {
        fields.0.insert("time".to_owned(), json!(now));
        fields
            .0
            .insert("level".to_owned(), json!(record.level().as_str()));
        fields.0.insert("target".to_owned(), json!(record.target()));
        fields
            .0
            .insert("message".to_owned(), json!(record.args().to_string()));
    }
    // The visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    if as_json {
        return format!("{}\n", serde_json::Value::Object(fields.0));
    }
    let mut line = format!("{now} {:<5} {}", record.level(), record.args());
    for (name, value) in fields.0 {
        // The message of an access line has these.
        let in_message = matches!(&*name, "method" | "route" | "status");
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if !in_message && !matches!(&*text, "-" | "0" | "0.0") {
            line.push_str(&format!(" {name}={text}"));
        }
    }
    let mut escaped = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        match c.is_control() {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped + "\n"
}

/// Collects the key-value pairs of a record; the first of a name wins.
struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
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

    fn formatted(message: &str, request_id: &str) -> (String, String) {
        let pairs = [
            ("request_id", Value::from(request_id)),
            ("bytes", Value::from(7u64)),
        ];
        let now = Timestamp::from_millis(1_795_489_200_000);
        let line = |as_json| {
            let arguments = format_args!("{message}");
            let mut record = Record::builder();
            record
                .args(arguments)
                .level(log::Level::Info)
                .target("test")
                .key_values(&pairs);
            format_line(as_json, &record.build(), now)
        };
        (line(true), line(false))
    }

    #[test]
    fn a_line_has_time_level_message_and_fields() {
        let (json, text) = formatted("hello", "req_1");
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
        fn a_record_is_one_line_without_control_characters(message in any::<String>(), id in any::<String>()) {
            let (json, text) = formatted(&message, &id);
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
