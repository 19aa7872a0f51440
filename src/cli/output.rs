//! Standard output, which may be gone: a reader that has seen enough (`| head`) is no mistake.

use std::fmt::Arguments;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write, stdout};
use std::sync::OnceLock;

use serde::Serialize;

use super::Failure;

/// Why lines are not written any more.
static BROKEN: OnceLock<ErrorKind> = OnceLock::new();

/// What `println!` is in this program: where a line cannot be written the command goes on to its end, and then
/// [`all_written`] says so.
pub(super) fn line(text: Arguments<'_>) {
    if BROKEN.get().is_none()
        && let Err(error) = writeln!(stdout().lock(), "{text}")
    {
        // The first one stays.
        let _ = BROKEN.set(error.kind());
    }
}

/// A line on stderr, which may be gone too: what was done stays done.
pub(super) fn note(text: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether every line was written.
pub(super) fn all_written() -> Result<(), Failure> {
    match BROKEN.get() {
        None => Ok(()),
        Some(kind) => Err(unwritten((*kind).into())),
    }
}

/// What ends a command that writes much as it comes.
pub(super) fn unwritten(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Failed(format!("the answer cannot be written: {error}")),
    }
}

/// A JSON array that is written item by item, so that no number of them takes memory.
pub(super) struct Items {
    out: BufWriter<Stdout>,
    any: bool,
}

impl Items {
    /// Writes what stands before the first item.
    pub(super) fn begin(before: &str) -> Result<Self, Failure> {
        let mut out = BufWriter::new(stdout());
        out.write_all(before.as_bytes()).map_err(unwritten)?;
        Ok(Self { out, any: false })
    }

    /// Writes an item.
    pub(super) fn add(&mut self, item: &impl Serialize) -> Result<(), Failure> {
        let before: &[u8] = if self.any { b",\n" } else { b"\n" };
        self.any = true;
        self.out.write_all(before).map_err(unwritten)?;
        serde_json::to_writer(&mut self.out, item).map_err(|error| unwritten(error.into()))
    }

    /// Writes what stands after the last.
    pub(super) fn end(mut self, after: &str) -> Result<(), Failure> {
        let written = writeln!(self.out, "\n{after}");
        written.and_then(|()| self.out.flush()).map_err(unwritten)
    }
}
