//! How far a long command is: a line on stderr while that is a terminal, else nothing.

use std::fmt::Write;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The line. It goes when this is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins to show how many of `total` are done, how many a second, and how long the rest takes; `what` they are, in the
    /// plural. Quiet commands show nothing, and neither does one whose errors go to a file.
    pub(super) fn begin(total: u64, what: &str, quiet: bool) -> Self {
        let rate = |state: &ProgressState, line: &mut dyn Write| {
            // What it cannot write it does not show.
            let _ = write!(line, "{:.0}", state.per_sec());
        };
        let template = "[{bar:30}] {percent:>3}%  {human_pos} of {human_len} {msg}, {rate} a second, {eta} left";
        Self::of(
            Some(total),
            what,
            style(template).with_key("rate", rate),
            quiet,
        )
    }

    /// Begins to show how many thousandths of it are done, where no number would tell anybody more.
    pub(super) fn share(what: &str, quiet: bool) -> Self {
        let style = style("[{bar:30}] {percent:>3}%  {msg}, {elapsed}, {eta} left");
        Self::of(Some(1000), what, style, quiet).ticking()
    }

    /// Begins to show how much of a database has come to stand in its copy, which leaves out the pages that are free.
    pub(super) fn copying(database: &Path, copy: &Path, quiet: bool) -> Self {
        let size = |file: &Path| std::fs::metadata(file).map_or(0, |about| about.len());
        let (all, copy) = (size(database), copy.to_owned());
        let copied = move |_: &ProgressState, line: &mut dyn Write| {
            let (copied, all) = (HumanBytes(size(&copy)), HumanBytes(all));
            let _ = write!(line, "{copied} of at most {all}");
        };
        let style = style("{spinner} {copied} copied, {msg}, {elapsed}").with_key("copied", copied);
        Self::of(None, "then the copy is checked", style, quiet).ticking()
    }

    /// Begins to show what is being done, and for how long by now, where nobody can tell how much there is to do.
    pub(super) fn wait(what: &str, quiet: bool) -> Self {
        Self::of(None, what, style("{spinner} {msg}, {elapsed}"), quiet).ticking()
    }

    fn of(total: Option<u64>, what: &str, style: ProgressStyle, quiet: bool) -> Self {
        if quiet || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let bar = ProgressBar::with_draw_target(total, target).with_message(what.to_owned());
        bar.set_style(style);
        bar.tick();
        Self(bar)
    }

    /// Shows that time passes, whether it gets on or not.
    fn ticking(self) -> Self {
        if !self.0.is_hidden() {
            self.0.enable_steady_tick(Duration::from_millis(100));
        }
        self
    }

    /// So many more are done.
    pub(super) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// So many are done by now.
    pub(super) fn reach(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Does what writes to the terminal itself, with the line out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

fn style(template: &str) -> ProgressStyle {
    // A wrong template would only cost the words.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
        .tick_chars("|/-\\ ")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
