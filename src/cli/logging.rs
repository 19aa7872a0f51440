//! The program's log: env_logger with text lines on a terminal and JSON lines elsewhere. A record is one line: control
//! characters that a client or an upstream sent are escaped.

mod queue;

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use env_logger::{Builder, Target};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use r3mes_edge::config::{LogConfig, LogFormat};
use r3mes_edge::model::Timestamp;
use serde_json::{Map, json};

use self::queue::LineQueue;

static QUEUE: OnceLock<LineQueue> = OnceLock::new();

/// Logs to stderr from this level on. Does nothing if it was called before.
pub(super) fn start(settings: &LogConfig, level: &str) {
    if QUEUE.get().is_some() {
        return;
    }
    let as_json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let mut builder = Builder::new();
    // Our own level is `log::max_level`, which can change at run time.
    builder.filter_level(LevelFilter::Warn);
    builder.filter_module("r3mes_edge", LevelFilter::Trace);
    builder.format(move |out, record| {
        let line = format_line(as_json, record, SystemTime::now().into());
        out.write_all(line.as_bytes())
    });
    let dropped = move |lines| {
        let text = format_args!("dropped {lines} log lines: the reader of stderr is too slow");
        let mut record = Record::builder();
        record.level(Level::Warn).target("r3mes_edge").args(text);
        format_line(as_json, &record.build(), SystemTime::now().into())
    };
    // Without the queue's thread env_logger writes to stderr itself.
    if let Ok(queue) = LineQueue::start(io::stderr(), dropped) {
        builder.target(Target::Pipe(Box::new(queue.clone())));
        let _ = QUEUE.set(queue);
    }
    if builder.try_init().is_ok() {
        set_level(level);
    }
}

pub(super) fn set_level(level: &str) {
    if let Ok(level) = level.parse() {
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
    let (level, target, message) = (record.level(), record.target(), record.args());
    let mut fields = Fields(Map::new());
    if as_json {
        let mut head = |name: &str, text: String| fields.0.insert(name.to_owned(), text.into());
        head("time", now.to_string());
        head("level", level.to_string());
        head("target", target.to_owned());
        head("message", message.to_string());
    }
    // The visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    if as_json {
        return format!("{}\n", serde_json::Value::Object(fields.0));
    }
    let mut line = format!("{now} {level:<5} {message}");
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
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    if line.contains(char::is_control) {
        line = line.chars().map(escape).collect();
    }
    line + "\n"
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
