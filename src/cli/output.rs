//! Standard output, which may be closed: a reader that has seen enough (`| head`) is no error. Every command prints through
//! this module: one value, a line, or a list of any length.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, IsTerminal, Write, stdout};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Failure, Result};

/// Why lines are not written any more.
static BROKEN: OnceLock<ErrorKind> = OnceLock::new();
/// Whether the answer has begun.
static BEGUN: AtomicBool = AtomicBool::new(false);
/// Whether the answer is a list in JSON that is not closed yet.
static OPEN: AtomicBool = AtomicBool::new(false);

/// What `println!` is in this program: if a line cannot be written the command completes, and [`all_written`] then makes it
/// a failure.
pub(super) fn line(text: Arguments<'_>) {
    BEGUN.store(true, Ordering::Relaxed);
    if BROKEN.get().is_none()
        && let Err(error) = writeln!(stdout().lock(), "{text}")
    {
        let _ = BROKEN.set(error.kind());
    }
}

/// Prints the result of a command: its JSON, or a text for people. Never fails: see [`all_written`].
pub(super) fn answer(json: bool, value: impl Display, text: impl Display) -> Result {
    match json {
        true => println!("{value}"),
        false => println!("{text}"),
    }
    Ok(())
}

/// Prints why a command failed as JSON, unless its answer is complete: that is one object. A list that broke off ends with
/// the error as its last member.
pub(super) fn failure(code: u8, text: impl Display) {
    let error = json!({ "message": text.to_string(), "exit_code": code });
    if OPEN.load(Ordering::Relaxed) {
        println!("],\"error\":{error}}}");
    } else if !BEGUN.load(Ordering::Relaxed) {
        println!("{}", json!({ "error": error }));
    }
}

/// Writes a piece of an answer at once. On a terminal without control characters, by which it could change what is shown.
pub(super) fn piece(bytes: &[u8]) -> Result {
    BEGUN.store(true, Ordering::Relaxed);
    let mut out = stdout().lock();
    let shown = |byte: &u8| !byte.is_ascii_control() || b"\n\t".contains(byte);
    let written = match out.is_terminal() {
        true => out.write_all(&bytes.iter().copied().filter(shown).collect::<Vec<_>>()),
        false => out.write_all(bytes),
    };
    if let Err(error) = written.and_then(|()| out.flush()) {
        let _ = BROKEN.set(error.kind());
    }
    all_written()
}

/// Refuses to go on where stdout was closed by the caller: it is /dev/null then, opened by the standard library to read and
/// write, and what is printed is lost without an error.
pub(super) fn check_open() -> Result {
    let is_null = rustix::fs::fstat(stdout()).is_ok_and(|stdout| {
        let null = std::fs::metadata("/dev/null");
        null.is_ok_and(|null| null.rdev() == stdout.st_rdev)
    });
    let flags = rustix::fs::fcntl_getfl(stdout());
    match is_null && flags.is_ok_and(|flags| flags.contains(OFlags::RDWR)) {
        true => Err(Failure::Failed(
            "standard output is closed, and the key, which is shown only now, would be lost: nothing was made"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// A line on stderr, which may be closed too: what was done stays done.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Shows on a terminal what a long command is doing.
pub(super) fn progress(what: &str) {
    if io::stderr().is_terminal() {
        note(format_args!("{what} …"));
    }
}

/// Whether every line was written.
pub(super) fn all_written() -> Result {
    match BROKEN.get() {
        None => Ok(()),
        Some(ErrorKind::BrokenPipe) => Err(Failure::ReaderClosed),
        Some(kind) => Err(Failure::Failed(format!(
            "the answer cannot be written: {kind}"
        ))),
    }
}

/// A column of a table: the member of a row's object, its heading with the unit, the minimum width.
pub(super) type Column = (&'static str, &'static str, usize);

/// Members of a JSON object as one line. Numbers stay as they are written: an amount must not become a float. Of an object
/// those of its members that are set.
pub(super) fn row(object: &str, columns: &[Column]) -> Result<String> {
    let members: HashMap<&str, &RawValue> = serde_json::from_str(object)?;
    let texts =
        columns.iter().map(
            |&(name, ..)| match members.get(name).map_or("null", |raw| raw.get()) {
                "true" if name == "is_active" => "active".to_owned(),
                "true" => name.to_owned(),
                "false" if name == "is_active" => "off".to_owned(),
                "null" | "false" => String::new(),
                raw => cell(raw),
            },
        );
    Ok(line_of(columns, texts))
}

/// The headings of the columns, over their rows.
pub(super) fn header(columns: &[Column]) -> String {
    line_of(columns, columns.iter().map(|(_, title, _)| title))
}

fn line_of(columns: &[Column], texts: impl Iterator<Item = impl Display>) -> String {
    let pad = |(&(_, title, width), text): (&Column, _)| {
        let width = width.max(title.len());
        format!("{text:width$}")
    };
    let line: Vec<_> = columns
        .iter()
        .zip(texts.map(|text| text.to_string()))
        .map(pad)
        .collect();
    line.join("  ").trim_end().to_owned()
}

/// The members of a JSON object, a line each, in their order.
pub(super) fn members(object: &str) -> Result<String> {
    // The names in their order, and the values as they are written.
    let names: Map<String, Value> = serde_json::from_str(object)?;
    let values: HashMap<&str, &RawValue> = serde_json::from_str(object)?;
    let width = names.keys().map(String::len).max().unwrap_or(0).max(15);
    let lines = names.keys().map(|name| {
        let text = match values.get(&**name).map_or("null", |value| value.get()) {
            "null" => "-".to_owned(),
            raw => cell(raw),
        };
        format!("{name:width$} {text}")
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// A value of JSON as a text: `credit_limit=5 credit_period=day`, `chat,read`.
fn cell(raw: &str) -> String {
    let shown = |raw: &RawValue| raw.get().trim_matches('"').to_owned();
    if let Ok(members) = serde_json::from_str::<BTreeMap<&str, &RawValue>>(raw) {
        let set = members.iter().filter(|(_, raw)| raw.get() != "null");
        let texts = set.map(|(name, raw)| format!("{name}={}", cell(raw.get())));
        texts.collect::<Vec<_>>().join(" ")
    } else if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw) {
        items.into_iter().map(shown).collect::<Vec<_>>().join(",")
    } else {
        raw.trim_matches('"').to_owned()
    }
}

/// A list that is written item by item, so that its length costs no memory: a JSON object with an array, or a line for each
/// under a header.
pub(super) struct List<'a> {
    json: bool,
    name: &'a str,
    header: String,
    is_begun: bool,
}

impl<'a> List<'a> {
    /// A list of `name`. Nothing is printed before its first item, so that an error is the whole answer.
    pub(super) fn new(json: bool, name: &'a str, header: String) -> Self {
        let is_begun = false;
        Self {
            json,
            name,
            header,
            is_begun,
        }
    }

    fn begin(&mut self) {
        if !self.is_begun && self.json {
            println!("{{\"{}\":[", self.name);
            OPEN.store(true, Ordering::Relaxed);
        } else if !self.is_begun && !self.header.is_empty() {
            println!("{}", self.header);
        }
        self.is_begun = true;
    }

    /// Writes an item as JSON, or its line.
    pub(super) fn add(
        &mut self,
        item: &impl Serialize,
        line: impl FnOnce() -> Result<String>,
    ) -> Result {
        let separator = if self.is_begun { "," } else { "" };
        self.begin();
        match self.json {
            true => println!("{separator}{}", serde_json::to_string(item)?),
            false => println!("{}", line()?),
        }
        all_written()
    }

    /// Ends it, with `more` members in JSON. That there is nothing is said on stderr: on stdout is what scripts count.
    pub(super) fn end(mut self, more: &str) -> Result {
        if self.json {
            self.begin();
            println!("]{more}}}");
            OPEN.store(false, Ordering::Relaxed);
        } else if !self.is_begun {
            note(format_args!("no {}", self.name));
        }
        Ok(())
    }
}

/// The rows of an array that was answered, under their header.
pub(super) fn table(items: &[Box<RawValue>], name: &str, columns: &[Column]) -> Result {
    let mut list = List::new(false, name, header(columns));
    for item in items {
        list.add(item, || row(item.get(), columns))?;
    }
    list.end("")
}

/// `1 wallet`, `2 wallets`.
pub(super) fn counted(number: impl Display, one: &str) -> String {
    match number.to_string().as_str() {
        "1" => format!("1 {one}"),
        number if one.ends_with('y') => format!("{number} {}ies", one.trim_end_matches('y')),
        number => format!("{number} {one}s"),
    }
}
