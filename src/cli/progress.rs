//! Shows on a terminal what a long command is doing. It is one line on stderr, erased when the command is done.

use std::io::{IsTerminal, Write, stderr};

/// The line; erased on drop.
pub(super) struct Progress {
    what: &'static str,
    shown: bool,
}

impl Progress {
    /// Shows what is being done, unless the command is quiet or stderr is no terminal.
    pub(super) fn start(what: &'static str, quiet: bool) -> Self {
        let shown = !quiet && stderr().is_terminal();
        let progress = Self { what, shown };
        progress.write(format_args!("{what} …"));
        progress
    }

    /// Shows how many thousandths are done.
    pub(super) fn reach(&self, done: u64) {
        self.write(format_args!("\r{:3}%  {}", done / 10, self.what));
    }

    fn write(&self, text: std::fmt::Arguments<'_>) {
        if self.shown {
            let _ = stderr().write_fmt(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write(format_args!("\r\x1b[K"));
    }
}
