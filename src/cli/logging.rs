//! How a line of the log is written: for people, or for programs. A line is a line: whatever an upstream or a client put
//! into it, no control character leaves as one.

mod lines;

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Record};
use r3mes_edge::config::{LogConfig, LogFormat};
use r3mes_edge::model::Timestamp;
use serde::Serializer as _;
use serde_json::Map;

use self::lines::Lines;

/// Logs to the standard error stream; `RUST_LOG` lies over the level.
pub(super) fn start(settings: &LogConfig) {
    let named = std::env::var_os("RUST_LOG").is_some();
    let logger = Logger {
        named: named.then(|| env_logger::Builder::from_default_env().build()),
        json: match settings.format {
            LogFormat::Json => true,
            LogFormat::Text => false,
            LogFormat::Auto => !std::io::stderr().is_terminal(),
        },
        lines: Lines::to(std::io::stderr()).ok(),
    };
    let most = logger.named.as_ref().map(env_logger::Logger::filter);
    // Fails only where there is a logger, and nobody else sets one.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(most.unwrap_or(OTHERS));
        set_level(settings);
    }
}

/// From now on what this program says is logged from `log.level` on, unless `RUST_LOG` says it.
pub(super) fn set_level(settings: &LogConfig) {
    if let Ok(level) = settings.level.parse::<LevelFilter>()
        && std::env::var_os("RUST_LOG").is_none()
    {
        LEVEL.store(level as usize, Ordering::Relaxed);
        log::set_max_level(level.max(OTHERS));
    }
}

static LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);
/// What the libraries underneath say is logged from here on.
const OTHERS: LevelFilter = LevelFilter::Warn;

/// A logger whose level can be changed while it logs. It writes each line itself, as env_logger would copy it twice more.
struct Logger {
    /// Which lines there are, where `RUST_LOG` says it.
    named: Option<env_logger::Logger>,
    json: bool,
    lines: Option<Lines>,
}

/// What a thread keeps from one line to the next.
#[derive(Default)]
struct Kept {
    line: Vec<u8>,
    moment: Moment,
}

thread_local! {
    static KEPT: Cell<Kept> = Cell::default();
}

impl log::Log for Logger {
    fn enabled(&self, line: &log::Metadata<'_>) -> bool {
        if let Some(named) = &self.named {
            return named.enabled(line);
        }
        let ours = line.target().starts_with("r3mes_edge");
        let least = if ours {
            LEVEL.load(Ordering::Relaxed)
        } else {
            OTHERS as usize
        };
        line.level() as usize <= least
    }

    fn log(&self, record: &Record<'_>) {
        let wanted = match &self.named {
            Some(named) => named.matches(record),
            None => self.enabled(record.metadata()),
        };
        if !wanted {
            return;
        }
        // Taken out of its place, as what is shown may log a line of its own; at a thread's end there is none.
        let mut kept = KEPT.try_with(Cell::take).unwrap_or_default();
        kept.line.clear();
        let time = kept.moment.at(std::time::SystemTime::now().into());
        if self.json {
            put_json(&mut kept.line, record, time);
        } else {
            kept.line
                .extend_from_slice(as_text(record, time).as_bytes());
        }
        match &self.lines {
            Some(lines) => lines.push(&kept.line, record.level() <= Level::Warn),
            // Whom should it be told?
            None => drop(std::io::stderr().write_all(&kept.line)),
        }
        if kept.line.capacity() <= 4096 {
            let _ = KEPT.try_with(|place| place.set(kept));
        }
    }

    fn flush(&self) {
        if let Some(lines) = &self.lines {
            lines.finish();
        }
    }
}

/// How the moment is written: of many lines in a second only the milliseconds differ.
#[derive(Default)]
struct Moment {
    second: Option<i64>,
    text: String,
}

impl Moment {
    fn at(&mut self, now: Timestamp) -> &str {
        let (second, millis) = (now.millis().div_euclid(1000), now.millis().rem_euclid(1000));
        if self.second == Some(second) {
            self.text.truncate(self.text.len() - "000Z".len());
            for unit in [100, 10, 1] {
                self.text
                    .push(char::from(b'0' + (millis / unit % 10) as u8));
            }
            self.text.push('Z');
        } else {
            self.text = now.to_string();
            self.second = Some(second);
        }
        &self.text
    }
}

fn put_json(line: &mut Vec<u8>, record: &Record<'_>, time: &str) {
    line.extend_from_slice(br#"{"time":"#);
    put_text(line, time);
    line.extend_from_slice(br#","level":"#);
    put_text(line, record.level().as_str());
    line.extend_from_slice(br#","target":"#);
    put_text(line, record.target());
    line.extend_from_slice(br#","message":"#);
    let begin = line.len();
    // Here and below: a writer of ours, which cannot fail.
    let _ = write!(line, "\"{}\"", record.args());
    if !is_plain(&line[begin + 1..line.len() - 1]) {
        line.truncate(begin);
        let _ = serde_json::Serializer::new(&mut *line).collect_str(record.args());
    }
    let _ = record.key_values().visit(&mut Members(line));
    line.extend_from_slice(b"}\n");
}

fn put(line: &mut Vec<u8>, value: impl serde::Serialize) -> Result<(), Error> {
    serde_json::to_writer(line, &value).map_err(Error::boxed)
}

/// Most texts stand in a line as they are.
fn put_text(line: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        line.push(b'"');
        line.extend_from_slice(text.as_bytes());
        line.push(b'"');
    } else {
        let _ = put(line, text);
    }
}

/// Whether JSON escapes none of it. Every byte is looked at, so that many are at once.
fn is_plain(text: &[u8]) -> bool {
    let escaped = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    text.iter()
        .fold(0, |any, byte| any | u8::from(escaped(*byte)))
        == 0
}

/// Writes what stands beside a message as members of its object.
struct Members<'a>(&'a mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Members<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let Self(line) = self;
        // Each member once.
        if matches!(key.as_str(), "time" | "level" | "target" | "message") {
            return Ok(());
        }
        line.push(b',');
        put_text(line, key.as_str());
        line.push(b':');
        value.visit(Member(line))
    }
}

/// Writes one value.
struct Member<'a>(&'a mut Vec<u8>);

impl VisitValue<'_> for Member<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        put_text(self.0, &value.to_string());
        Ok(())
    }

    fn visit_str(&mut self, text: &str) -> Result<(), Error> {
        put_text(self.0, text);
        Ok(())
    }

    fn visit_u64(&mut self, number: u64) -> Result<(), Error> {
        put(self.0, number)
    }

    fn visit_i64(&mut self, number: i64) -> Result<(), Error> {
        put(self.0, number)
    }

    fn visit_f64(&mut self, number: f64) -> Result<(), Error> {
        put(self.0, number)
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        put(self.0, value)
    }
}

fn as_text(record: &Record<'_>, time: &str) -> String {
    let mut line = format!("{time} {:<5} {}", record.level(), record.args());
    let mut pairs = Map::new();
    let _ = record.key_values().visit(&mut Pairs(&mut pairs));
    // What stands in the message already.
    for said in ["method", "route", "status"] {
        pairs.remove(said);
    }
    for (key, value) in pairs {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if text != "-" && text != "0.0" && text != "0" {
            let _ = write!(line, " {key}={text}");
        }
    }
    let plain: String = line
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let kept = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(kept)
        })
        .collect();
    plain + "\n"
}

/// Takes what stands beside a message, for people.
struct Pairs<'a>(&'a mut Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else {
            value.to_string().into()
        };
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn written(message: &str, request_id: &str) -> (String, String) {
        let pairs = [
            ("request_id", Value::from(request_id)),
            ("bytes", Value::from(7u64)),
        ];
        let line = |write: fn(&Record<'_>) -> Vec<u8>| {
            let arguments = format_args!("{message}");
            let mut record = Record::builder();
            record
                .args(arguments)
                .level(log::Level::Info)
                .target("test")
                .key_values(&pairs);
            String::from_utf8(write(&record.build())).unwrap()
        };
        const TIME: &str = "2026-11-24T03:00:00.000Z";
        let json = line(|record| {
            let mut line = Vec::new();
            put_json(&mut line, record, TIME);
            line
        });
        (json, line(|record| as_text(record, TIME).into_bytes()))
    }

    #[test]
    fn a_line_tells_when_how_grave_what_and_what_belongs_to_it() {
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
        fn the_moment_is_written_as_if_it_were_the_only_one(start in -10i64.pow(14)..10i64.pow(14), steps in vec(-1500i64..1500, 1..20)) {
            let (mut moment, mut now) = (Moment::default(), start);
            for step in steps {
                now += step;
                let now = Timestamp::from_millis(now);
                prop_assert_eq!(moment.at(now), now.to_string());
            }
        }

        #[test]
        fn whatever_is_said_it_is_one_line_without_control_characters(message in any::<String>(), id in any::<String>()) {
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
