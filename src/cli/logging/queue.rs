//! A bounded queue of log lines between the server and stderr. A slow reader of stderr costs lines, which are counted,
//! and never delays a request.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
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
    pending: AtomicUsize,
    /// Lines dropped since the last note.
    dropped: AtomicUsize,
}

impl LineQueue {
    const CAPACITY: usize = 4096;
    /// The maximum number of lines that one write takes.
    const BATCH: usize = 64;
    /// Between two writes, unless more lines wait than one takes: a thread that is woken for every line costs more than the
    /// line.
    const PAUSE: Duration = Duration::from_millis(5);

    /// Starts the thread that writes to `out` until the process ends; `note` is the line for a number of dropped ones. A
    /// closed stderr leaves nowhere to report its errors to.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(
        mut out: impl Write + Send + 'static,
        note: impl Fn(usize) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let (lines, received) = sync_channel::<Vec<u8>>(Self::CAPACITY);
        let shared = Arc::<Counts>::default();
        let counts = Arc::clone(&shared);
        let write = move || {
            while let Ok(first) = received.recv() {
                let mut batch = vec![first];
                batch.extend(received.try_iter().take(Self::BATCH - 1));
                let count = batch.len();
                let dropped = counts.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    batch.push(note(dropped).into_bytes());
                }
                let _ = out.write_all(&batch.concat());
                counts.pending.fetch_sub(count, Ordering::Release);
                if count < Self::BATCH {
                    std::thread::sleep(Self::PAUSE);
                }
            }
        };
        let thread = std::thread::Builder::new().name("r3mes-log".to_owned());
        thread.spawn(write)?;
        let counts = shared;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

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
        let queue = LineQueue::start(SlowReader(permitted, sender), |count| {
            format!("dropped {count}\n")
        })
        .unwrap();
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
        let dropped: usize = notes.map(|count| count.parse::<usize>().unwrap()).sum();
        // The thread has one batch that is not part of the queue.
        let expected = 2 * LineQueue::CAPACITY - LineQueue::BATCH;
        assert!(dropped >= expected, "{dropped}");
        assert_eq!(
            text.matches("x\n").count() + dropped,
            3 * LineQueue::CAPACITY
        );
    }
}
