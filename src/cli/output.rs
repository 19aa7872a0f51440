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
use serde_json::json;
use serde_json::value::RawValue;

use super::{Failure, Result};

/// Why lines are not written any more.
static BROKEN: OnceLock<ErrorKind> = OnceLock::new();
/// Whether the answer has begun.
static BEGUN: AtomicBool = AtomicBool::new(false);

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

/// Prints why a command failed as JSON, unless its answer has begun: that is one value.
pub(super) fn failure(code: u8, text: impl Display) {
    if !BEGUN.load(Ordering::Relaxed) {
        println!(
            "{}",
            json!({ "error": { "message": text.to_string(), "exit_code": code } })
        );
    }
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

/// Members of a JSON object as one line, each by its name and minimum width. Numbers stay as they are written: an amount
/// must not become a float. Of an object those of its members that are set.
pub(super) fn row(object: &str, columns: &[(&str, usize)]) -> Result<String> {
    let members: HashMap<&str, &RawValue> = serde_json::from_str(object)?;
    let column = |&(name, width): &(&str, usize)| {
        let text = match members.get(name).map_or("null", |raw| raw.get()) {
            "true" => name.trim_start_matches("is_"),
            "false" if name == "is_active" => "off",
            "null" | "false" => "",
            raw if raw.starts_with('{') => &set_members(raw).unwrap_or_default(),
            raw => raw.trim_matches('"'),
        };
        format!("{text:width$}")
    };
    let line: Vec<_> = columns.iter().map(column).collect();
    Ok(line.join("  ").trim_end().to_owned())
}

/// The names of the columns, over their rows.
pub(super) fn header(columns: &[(&str, usize)]) -> String {
    let names = columns.iter().map(|(name, width)| format!("{name:width$}"));
    names.collect::<Vec<_>>().join("  ")
}

/// `credit_limit=5 credit_period=day`
fn set_members(object: &str) -> Result<String> {
    let members: BTreeMap<&str, &RawValue> = serde_json::from_str(object)?;
    let set = members.iter().filter(|(_, raw)| raw.get() != "null");
    let texts = set.map(|(name, raw)| format!("{name}={}", raw.get().trim_matches('"')));
    Ok(texts.collect::<Vec<_>>().join(" "))
}

/// A list that is written item by item, so that its length costs no memory: a JSON array, or a line for each.
pub(super) struct List {
    json: bool,
    separator: &'static str,
}

impl List {
    /// Begins with `start` if it is JSON.
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
        line: impl FnOnce() -> Result<String>,
    ) -> Result {
        match self.json {
            true => println!("{}{}", self.separator, serde_json::to_string(item)?),
            false => println!("{}", line()?),
        }
        self.separator = ",";
        all_written()
    }
}
