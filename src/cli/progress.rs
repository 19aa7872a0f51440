//! How far a long command is: a line on stderr while that is a terminal, else nothing.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The line. It goes when this is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins to show how many of `total` are done, how many a second, and how long the rest takes; `what` they are, in the
    /// plural. Quiet commands show nothing, and neither does one whose errors go to a file.
    pub(super) fn begin(total: u64, what: &str, quiet: bool) -> Self {
        if quiet || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let template = format!(
            "[{{bar:30}}] {{percent:>3}}%  {{human_pos}} of {{human_len}} {what}, {{rate}} a second, {{eta}} left"
        );
        let bar = ProgressBar::with_draw_target(Some(total), target);
        // A wrong template would only cost the words.
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ")
            .with_key(
                "rate",
                |state: &ProgressState, line: &mut dyn std::fmt::Write| {
                    // What it cannot write it does not show.
                    let _ = write!(line, "{:.0}", state.per_sec());
                },
            );
        bar.set_style(style);
        Self(bar)
    }

    /// Begins to show what is being done, and for how long by now, where nobody can tell how much there is to do.
    pub(super) fn wait(what: &'static str, quiet: bool) -> Self {
        if quiet || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_spinner())
                .tick_chars("|/-\\ "),
        );
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// So many more are done.
    pub(super) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// Does what writes to the terminal itself, with the line out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
