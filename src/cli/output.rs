//! Standard output, which may be closed: a reader that has seen enough (`| head`) is no error. Every command prints through
//! this module: one value, a line, or a list of any length.

use std::collections::HashMap;
use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, IsTerminal, Write, stdout};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Failure, Result};

/// Why lines are not written any more.
static BROKEN: OnceLock<ErrorKind> = OnceLock::new();

/// Whether a line was written, or tried.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// What `println!` is in this program: if a line cannot be written the command completes, and [`all_written`] then makes it
/// a failure.
pub(super) fn line(text: Arguments<'_>) {
    PRINTED.store(true, Ordering::Relaxed);
    if BROKEN.get().is_none()
        && let Err(error) = writeln!(stdout().lock(), "{text}")
    {
        let _ = BROKEN.set(error.kind());
    }
}

/// Prints why a command failed as JSON, unless it has printed its result already.
pub(super) fn failure(message: impl Display, exit_code: u8) {
    if !PRINTED.load(Ordering::Relaxed) {
        let error = json!({ "message": message.to_string(), "exit_code": exit_code });
        println!("{}", json!({ "error": error }));
    }
}

/// Whether what is written on standard output is lost: it was closed, which the runtime replaces by /dev/null.
pub(super) fn is_discarded() -> bool {
    let device = std::fs::metadata("/dev/null").map(|null| null.rdev());
    rustix::fs::fstat(stdout()).is_ok_and(|out| device.is_ok_and(|null| out.st_rdev == null))
}

/// Prints the result of a command: its JSON, or a text for people. Never fails: see [`all_written`].
pub(super) fn answer(json: bool, value: impl Display, text: impl Display) -> Result {
    match json {
        true => println!("{value}"),
        false => println!("{text}"),
    }
    Ok(())
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
/// must not become a float.
pub(super) fn row(object: &str, columns: &[(&str, usize)]) -> Result<String> {
    let members: HashMap<&str, &RawValue> = serde_json::from_str(object)?;
    let column = |&(name, width): &(&str, usize)| {
        let text = match members.get(name).map_or("null", |raw| raw.get()) {
            "null" => "",
            "true" => "active",
            "false" => "off",
            raw => raw.trim_matches('"'),
        };
        format!("{text:width$}")
    };
    let line: Vec<_> = columns.iter().map(column).collect();
    Ok(line.join("  ").trim_end().to_owned())
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
