//! A bounded, fair queue before an inference server: first in, first out for each wallet, round robin over the wallets.
//!
//! A wallet that queues fifty requests waits behind its own; every other wallet has its turn in each round. One whose line is
//! longer than the slots has it in every second round only, while others wait: with equal shares, two requests of a wallet
//! among eight would wait for two rounds, for as long as a single wallet keeps the queue full. Where the queue is full, the
//! newest request of the longest line makes way for one of a clearly shorter line (McKenney, "Stochastic Fairness Queueing"):
//! a single wallet cannot fill it for all.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock::Clock;

/// The queue; `K` is whose turn it is, a wallet.
#[derive(Debug)]
pub(crate) struct FairQueue<K: Copy + Eq + Hash> {
    state: Mutex<State<K>>,
    clock: Clock,
}

#[derive(Debug)]
struct State<K: Copy + Eq + Hash> {
    slots: usize,
    in_use: usize,
    max_waiting: usize,
    waiting: usize,
    /// Those with a line, the next turn first.
    turns: VecDeque<K>,
    /// Never empty lines.
    lines: HashMap<K, Line<K>>,
    next_id: u64,
    /// How long a slot is in use, as a moving average; `None` until the first was.
    mean_service: Option<Duration>,
}

/// Those who wait of one wallet.
#[derive(Debug)]
struct Line<K: Copy + Eq + Hash> {
    waiters: VecDeque<Waiter<K>>,
    /// It gave up its last turn, as it is long.
    gave_way: bool,
}

/// A slot, or why there is none: when to come back.
type Grant<K> = Result<Slot<K>, Duration>;

#[derive(Debug)]
struct Waiter<K: Copy + Eq + Hash> {
    id: u64,
    grant: oneshot::Sender<Grant<K>>,
}

/// The numbers of a queue, for health and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct QueueStatus {
    pub(crate) slots: usize,
    #[serde(rename = "in_flight")]
    pub(crate) in_use: usize,
    pub(crate) waiting: usize,
}

/// The right to one request at a time; dropped, it goes to the next in turn.
#[derive(Debug)]
pub(crate) struct Slot<K: Copy + Eq + Hash> {
    queue: Arc<FairQueue<K>>,
    /// When its holder began to use it.
    since: Option<Instant>,
}

/// A place in a line; dropped, it is left.
struct Place<'a, K: Copy + Eq + Hash> {
    queue: &'a FairQueue<K>,
    key: K,
    id: u64,
    grant: oneshot::Receiver<Grant<K>>,
}

impl<K: Copy + Eq + Hash> FairQueue<K> {
    /// When to come back where the queue is full: at least, and at most.
    const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

    /// With at least one slot.
    pub(crate) fn new(slots: usize, max_waiting: usize, clock: Clock) -> Arc<Self> {
        let state = State {
            slots: slots.max(1),
            in_use: 0,
            max_waiting,
            waiting: 0,
            turns: VecDeque::new(),
            lines: HashMap::new(),
            next_id: 0,
            mean_service: None,
        };
        let state = Mutex::new(state);
        Arc::new(Self { state, clock })
    }

    /// A slot, waited for if there is room in the queue. Dropped while waiting, it leaves the queue.
    ///
    /// # Errors
    /// The queue is full, now or while this waited: when to try again, from the rate at which slots become free.
    pub(crate) async fn acquire(self: &Arc<Self>, key: K) -> Result<Slot<K>, Duration> {
        let mut place = {
            let mut state = self.lock();
            if state.in_use < state.slots {
                state.in_use += 1;
                drop(state);
                return Ok(self.slot(true));
            }
            let (id, grant, displaced) = state.enter(key)?;
            let retry_after = state.retry_after();
            drop(state);
            if let Some(displaced) = displaced {
                let _ = displaced.grant.send(Err(retry_after));
            }
            Place {
                queue: self,
                key,
                id,
                grant,
            }
        };
        let granted = (&mut place.grant).await;
        let mut slot = granted.unwrap_or(Err(Self::RETRY_AFTER[0]))?;
        slot.since = Some(self.clock.instant());
        Ok(slot)
    }

    /// Changes the number of slots, to at least one. Those in use stay in use.
    pub(crate) fn set_slots(self: &Arc<Self>, slots: usize) {
        self.lock().slots = slots.max(1);
        self.grant();
    }

    pub(crate) fn status(&self) -> QueueStatus {
        let state = self.lock();
        QueueStatus {
            slots: state.slots,
            in_use: state.in_use,
            waiting: state.waiting,
        }
    }

    /// When a request that was not served may try again.
    pub(crate) fn retry_after(&self) -> Duration {
        self.lock().retry_after()
    }

    fn slot(self: &Arc<Self>, is_used: bool) -> Slot<K> {
        Slot {
            queue: Arc::clone(self),
            since: is_used.then(|| self.clock.instant()),
        }
    }

    /// Gives free slots to those in turn. The lock is not held while one is sent: a slot whose receiver is gone comes back.
    fn grant(self: &Arc<Self>) {
        while let Some(waiter) = { self.lock().next() } {
            let _ = waiter.grant.send(Ok(self.slot(false)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> State<K> {
    /// A place at the end of the line of `key`, and who lost theirs for it.
    #[expect(clippy::type_complexity, reason = "used in one place")]
    fn enter(
        &mut self,
        key: K,
    ) -> Result<(u64, oneshot::Receiver<Grant<K>>, Option<Waiter<K>>), Duration> {
        let mut displaced = None;
        if self.waiting >= self.max_waiting {
            let length = |key: &K| self.lines.get(key).map_or(0, |line| line.waiters.len());
            let longest = self.turns.iter().copied().max_by_key(length);
            let longest = longest.filter(|longest| length(longest) > length(&key) + 1);
            let Some(longest) = longest else {
                return Err(self.retry_after());
            };
            let line = self.lines.get_mut(&longest);
            displaced = line.and_then(|line| line.waiters.pop_back());
            self.waiting -= 1;
        }
        let (grant, granted) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        let line = self.lines.entry(key).or_insert_with(|| Line {
            waiters: VecDeque::new(),
            gave_way: false,
        });
        if line.waiters.is_empty() {
            self.turns.push_back(key);
        }
        line.waiters.push_back(Waiter { id, grant });
        self.waiting += 1;
        Ok((id, granted, displaced))
    }

    /// Takes a slot for the next in turn, if one is free.
    fn next(&mut self) -> Option<Waiter<K>> {
        if self.in_use >= self.slots {
            return None;
        }
        loop {
            let key = self.turns.pop_front()?;
            let line = self.lines.get_mut(&key)?;
            let is_long = line.waiters.len() > self.slots && !self.turns.is_empty();
            line.gave_way = is_long && !line.gave_way;
            if line.gave_way {
                self.turns.push_back(key);
                continue;
            }
            let waiter = line.waiters.pop_front();
            match line.waiters.is_empty() {
                true => drop(self.lines.remove(&key)),
                false => self.turns.push_back(key),
            }
            self.waiting -= 1;
            self.in_use += 1;
            return waiter;
        }
    }

    fn leave(&mut self, key: K, id: u64) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        let before = line.waiters.len();
        line.waiters.retain(|waiter| waiter.id != id);
        self.waiting -= before - line.waiters.len();
        if line.waiters.is_empty() {
            self.lines.remove(&key);
            self.turns.retain(|turn| *turn != key);
        }
    }

    /// The time until all that wait, and one more, were served: mean service time × waiting ÷ slots (Little's law).
    fn retry_after(&self) -> Duration {
        let [least, most] = FairQueue::<K>::RETRY_AFTER;
        let mean = self.mean_service.unwrap_or_default().as_secs_f64();
        let seconds = mean * (self.waiting + 1) as f64 / self.slots as f64;
        Duration::from_secs_f64(seconds.clamp(least.as_secs_f64(), most.as_secs_f64()))
    }

    fn served(&mut self, took: Duration) {
        // Of about the last eight.
        let mean = self.mean_service.unwrap_or(took);
        self.mean_service = Some((mean * 7 + took) / 8);
    }
}

impl<K: Copy + Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let took = (self.since).map(|since| self.queue.clock.instant().duration_since(since));
        {
            let mut state = self.queue.lock();
            state.in_use -= 1;
            if let Some(took) = took {
                state.served(took);
            }
        }
        self.queue.grant();
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<'_, K> {
    fn drop(&mut self) {
        self.queue.lock().leave(self.key, self.id);
    }
}

#[cfg(test)]
mod tests;
