//! A bounded queue of log lines between the server and stderr. A slow reader of stderr costs lines, which are counted,
//! and never delays a request.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The sending side; clones send to the same thread.
#[derive(Clone)]
pub(super) struct LineQueue {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines that are not written yet.
    pending: AtomicU64,
    /// Lines dropped since the last note.
    dropped: AtomicU64,
}

impl LineQueue {
    const CAPACITY: usize = 4096;
    const BUFFER: usize = 64 << 10;

    /// Starts the thread that writes to `out` until the process ends.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, received) = sync_channel(Self::CAPACITY);
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("r3mes-log".to_owned())
            .spawn(move || write_lines(out, &received, &shared))?;
        Ok(Self { lines, counts })
    }

    /// Waits until all lines are written, one second at most; for the end of the process.
    pub(super) fn wait_written(&self) {
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.counts.pending.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// env_logger writes one whole line at a time, and flushes after each.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.pending.fetch_add(1, Ordering::Relaxed);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            self.counts.pending.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Buffers lines while more are pending. A closed stderr leaves nowhere to report its errors to.
fn write_lines(out: impl Write, lines: &Receiver<Vec<u8>>, counts: &Counts) {
    let mut out = BufWriter::with_capacity(LineQueue::BUFFER, out);
    while let Ok(line) = lines.recv() {
        let _ = out.write_all(&line);
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(
                out,
                "dropped {dropped} log lines: the reader of stderr is too slow"
            );
        }
        if counts.pending.load(Ordering::Relaxed) == 1 {
            let _ = out.flush();
        }
        counts.pending.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Accepts one write per permit, and all when the sender of permits is dropped.
    struct SlowReader(Receiver<()>, Sender<Vec<u8>>);

    impl Write for SlowReader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (LineQueue, Sender<()>, Receiver<Vec<u8>>) {
        let (permits, permitted) = channel();
        let (sender, written) = channel();
        let queue = LineQueue::start(SlowReader(permitted, sender)).unwrap();
        (queue, permits, written)
    }

    fn text(written: &Receiver<Vec<u8>>) -> String {
        String::from_utf8(written.try_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn lines_are_written_whole_and_in_order() {
        let (mut queue, permits, written) = slow();
        for number in 0..1000 {
            writeln!(queue, "{number}").unwrap();
        }
        drop(permits);
        queue.wait_written();
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(text(&written), expected);
    }

    #[test]
    fn a_reader_that_blocks_delays_no_line_and_dropped_lines_are_counted() {
        let (mut queue, permits, written) = slow();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..3 * LineQueue::CAPACITY {
            queue.write_all(&line).unwrap();
        }
        drop(permits);
        queue.wait_written();
        let text = text(&written);
        let notes = text
            .lines()
            .filter_map(|line| line.strip_prefix("dropped "));
        let counts = notes.map(|note| note.split(' ').next().unwrap());
        let dropped: usize = counts.map(|count| count.parse::<usize>().unwrap()).sum();
        // The buffer of the thread is not part of the queue.
        let in_hand = LineQueue::BUFFER / line.len() + 1;
        assert!(dropped >= 2 * LineQueue::CAPACITY - in_hand, "{dropped}");
        assert_eq!(
            text.matches("x\n").count() + dropped,
            3 * LineQueue::CAPACITY
        );
    }
}
