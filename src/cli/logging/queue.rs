//! Log lines on their way to stderr. A request pays for a send into a bounded channel, never for a write: a reader of
//! stderr that is too slow costs lines, which are counted, and no time.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// The sending side; clones send to the same thread.
#[derive(Clone)]
pub(super) struct LineQueue {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

enum Item {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl LineQueue {
    /// Lines that may wait.
    const CAPACITY: usize = 4096;
    /// Bytes that are written together.
    const BATCH: usize = 64 << 10;
    /// How long a flush waits for a reader of stderr that takes nothing.
    const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

    /// Starts the thread that writes to `out` for as long as the process lives.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (items, received) = sync_channel(Self::CAPACITY);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("r3mes-log".to_owned())
            .spawn(move || write_lines(out, &received, &counter))?;
        Ok(Self { items, dropped })
    }

    /// Waits until every line sent so far is written, one second at most; called at the end of the process.
    pub(super) fn flush_now(&self) {
        let deadline = Instant::now() + Self::FLUSH_TIMEOUT;
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(refused)) = self.items.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = refused;
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// env_logger writes one whole line at a time.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.items.try_send(Item::Line(line.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    /// env_logger flushes after each line; that must not wait.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(mut out: impl Write, items: &Receiver<Item>, dropped: &AtomicU64) {
    let mut batch = Vec::new();
    // The logger is never dropped, so this ends with the process.
    while let Ok(first) = items.recv() {
        let mut flushed = Vec::new();
        for item in std::iter::once(first).chain(items.try_iter()) {
            match item {
                Item::Line(line) => batch.extend_from_slice(&line),
                Item::Flush(done) => flushed.push(done),
            }
            if batch.len() >= LineQueue::BATCH {
                break;
            }
        }
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let note = format!("dropped {count} log lines: the reader of stderr is too slow\n");
            batch.extend_from_slice(note.as_bytes());
        }
        // A closed stderr leaves nowhere to report that to.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        for done in flushed {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Takes one write for each permit, then all once the permits' sender is dropped.
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
        queue.flush_now();
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(text(&written), expected);
    }

    #[test]
    fn a_reader_that_takes_nothing_delays_no_line_and_the_dropped_ones_are_counted() {
        let (mut queue, permits, written) = slow();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..3 * LineQueue::CAPACITY {
            queue.write_all(&line).unwrap();
        }
        drop(permits);
        queue.flush_now();
        let text = text(&written);
        let notes = text
            .lines()
            .filter_map(|line| line.strip_prefix("dropped "));
        let counts = notes.map(|note| note.split(' ').next().unwrap());
        let dropped: usize = counts.map(|count| count.parse::<usize>().unwrap()).sum();
        // What the thread has in hand is not in the queue.
        let in_hand = LineQueue::BATCH / line.len() + 1;
        assert!(dropped >= 2 * LineQueue::CAPACITY - in_hand, "{dropped}");
        assert_eq!(
            text.matches("x\n").count() + dropped,
            3 * LineQueue::CAPACITY
        );
    }
}
