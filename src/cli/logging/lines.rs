//! Lines on their way to the standard error stream.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where lines wait for the one thread that writes them: a request pays for a copy in memory, not for a call to the system,
/// and a reader of the log that takes nothing holds up nobody. What waits has a bound; lines beyond it are counted and told
/// of. A process that is killed takes the lines of its last moment with it.
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write, or no time to wait for more.
    told: Condvar,
    /// What was taken is written.
    written: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Lines for which there was no room.
    lost: u64,
    at_once: bool,
    writing: bool,
}

impl Lines {
    /// Bytes that may wait.
    const ROOM: usize = 1 << 20;
    /// How long a line waits for others, so that they are written together.
    const GATHER: Duration = Duration::from_millis(10);
    /// How long the end waits for a reader that takes nothing.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// Starts the thread, which writes to `out` for as long as the process lives.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn to(out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let lines = Self(Arc::default());
        let shared = Arc::clone(&lines.0);
        std::thread::Builder::new()
            .name("r3mes-log".to_owned())
            .spawn(move || shared.write(out))?;
        Ok(lines)
    }

    /// Has a line written: soon, or at once with all that wait.
    pub(super) fn push(&self, line: &[u8], at_once: bool) {
        let mut waiting = self.0.lock();
        // While something waits, the thread knows already.
        let tell = at_once || waiting.text.is_empty();
        if waiting.text.len() + line.len() > Self::ROOM {
            waiting.lost += 1;
        } else {
            waiting.text.extend_from_slice(line);
        }
        waiting.at_once |= at_once;
        drop(waiting);
        if tell {
            self.0.told.notify_one();
        }
    }

    /// Waits until everything is written, for a while.
    pub(super) fn finish(&self) {
        let pending = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
        let mut waiting = self.0.lock();
        waiting.at_once = true;
        self.0.told.notify_one();
        let _ = self
            .0
            .written
            .wait_timeout_while(waiting, Self::PATIENCE, pending);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut out: impl Write) {
        let mut taken = Vec::new();
        loop {
            let lost = self.take(&mut taken);
            // Where nobody reads the log there is nobody to tell.
            let _ = out.write_all(&taken);
            if lost > 0 {
                let _ = writeln!(
                    out,
                    "r3mes-edge: {lost} lines of the log were lost, as nobody took them"
                );
            }
            let _ = out.flush();
            taken.clear();
            self.lock().writing = false;
            self.written.notify_all();
        }
    }

    /// Takes all lines, once there are some and others had time to join them; how many were lost meanwhile.
    fn take(&self, taken: &mut Vec<u8>) -> u64 {
        let none = |waiting: &mut Waiting| waiting.text.is_empty();
        let waiting = self
            .told
            .wait_while(self.lock(), none)
            .unwrap_or_else(PoisonError::into_inner);
        let has_time = |waiting: &mut Waiting| !waiting.at_once;
        let (mut waiting, _) = self
            .told
            .wait_timeout_while(waiting, Lines::GATHER, has_time)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.at_once = false;
        waiting.writing = true;
        std::mem::swap(&mut waiting.text, taken);
        std::mem::take(&mut waiting.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Takes one write each time it is let, and says what it took.
    struct Slow(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Lines, Sender<()>, Receiver<Vec<u8>>) {
        let (let_one, may) = channel();
        let (took, taken) = channel();
        (Lines::to(Slow(may, took)).unwrap(), let_one, taken)
    }

    #[test]
    fn lines_are_written_whole_and_in_order_once_those_before_them_are() {
        let (lines, let_one, taken) = slow();
        for number in 0..1000 {
            lines.push(format!("{number}\n").as_bytes(), false);
        }
        // Dropped, it lets everything through.
        drop(let_one);
        lines.finish();
        let written: Vec<u8> = taken.try_iter().flatten().collect();
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_nobody_and_says_afterwards_what_was_lost() {
        let (lines, let_one, taken) = slow();
        let mut line = [b'x'; 1024];
        line[1023] = b'\n';
        // Three times what fits; what the thread has in hand, perhaps, is beside that.
        for _ in 0..3 * Lines::ROOM / 1024 {
            lines.push(&line, false);
        }
        assert!(lines.0.lock().text.len() <= Lines::ROOM);
        drop(let_one);
        lines.finish();
        let written: Vec<u8> = taken.try_iter().flatten().collect();
        let text = String::from_utf8(written).unwrap();
        assert!(
            text.contains("lines of the log were lost"),
            "{}",
            text.len()
        );
        assert!(text.len() <= 2 * Lines::ROOM + 100);
    }
}
