//! Standard output, which may be gone: a reader that has seen enough (`| head`) is no error. Every command prints through
//! this module: one value, a line, or a list of any length.

use std::collections::HashMap;
use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, Write, stdout};
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Failure;

/// Why lines are not written any more.
static BROKEN: OnceLock<ErrorKind> = OnceLock::new();

/// What `println!` is in this program: where a line cannot be written the command goes on to its end, which [`all_written`]
/// makes a failure.
pub(super) fn line(text: Arguments<'_>) {
    if BROKEN.get().is_none()
        && let Err(error) = writeln!(stdout().lock(), "{text}")
    {
        let _ = BROKEN.set(error.kind());
    }
}

/// Prints an answer: as the JSON it is, or what `text` makes of it.
pub(super) fn answer(
    answer: &str,
    json: bool,
    text: impl FnOnce(&str) -> Result<String, Failure>,
) -> Result<(), Failure> {
    match json {
        true => println!("{}", answer.trim_end()),
        false => println!("{}", text(answer)?),
    }
    Ok(())
}

/// A line on stderr, which may be gone too: what was done stays done.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether every line was written.
pub(super) fn all_written() -> Result<(), Failure> {
    BROKEN
        .get()
        .map_or(Ok(()), |kind| Err(unwritten((*kind).into())))
}

fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::ReaderClosed,
        _ => Failure::Failed(format!("the answer cannot be written: {error}")),
    }
}

/// A JSON object, its members as texts for people. Numbers stay as they are written: an amount must not be a float.
pub(super) struct Members(HashMap<String, Box<RawValue>>);

impl Members {
    pub(super) fn of(object: &str) -> Result<Self, Failure> {
        Ok(Self(serde_json::from_str(object)?))
    }

    /// A member's text; `absent` where it is null or missing.
    pub(super) fn get(&self, name: &str, absent: &str) -> String {
        let raw = self.0.get(name).map_or("null", |raw| raw.get());
        match serde_json::from_str(raw) {
            Ok(Value::Null) => absent.to_owned(),
            Ok(Value::Number(_)) | Err(_) => raw.to_owned(),
            Ok(value) => text(&value),
        }
    }
}

/// A value as a text for people.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A list that is written item by item, so that no number of them takes memory: a JSON array, or a line for each.
pub(super) struct List {
    json: bool,
    separator: &'static str,
}

impl List {
    /// Begins with `start`, where it is JSON.
    pub(super) fn begin(json: bool, start: &str) -> Self {
        if json {
            println!("{start}");
        }
        let separator = "";
        Self { json, separator }
    }

    /// Writes an item as JSON, or its line.
    pub(super) fn add(
        &mut self,
        item: &impl Serialize,
        line: impl FnOnce() -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        match self.json {
            true => println!("{}{}", self.separator, serde_json::to_string(item)?),
            false => println!("{}", line()?),
        }
        self.separator = ",";
        all_written()
    }
}
