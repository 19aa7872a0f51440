use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

type Acquire = Pin<Box<dyn Future<Output = Result<Slot<u8>, Duration>>>>;

/// The queue beside a model of it, which keeps who waits in one list.
struct Pair {
    queue: Arc<FairQueue<u8>>,
    /// Those that wait, by their number.
    pending: Vec<(usize, Acquire)>,
    /// Slots that are held, by the number of their holder.
    held: Vec<(usize, Slot<u8>)>,
    /// The model: who waits in order of arrival, and the wallets in order of their turns.
    waiting: Vec<(usize, u8)>,
    turns: Vec<u8>,
    /// Those with a long line who gave up their last turn.
    gave_way: std::collections::BTreeSet<u8>,
    slots: usize,
    in_use: usize,
    max_waiting: usize,
    arrived: usize,
}

impl Pair {
    fn new(slots: usize, max_waiting: usize) -> Self {
        Self {
            queue: FairQueue::new(slots, max_waiting, Clock::default()),
            pending: Vec::new(),
            held: Vec::new(),
            waiting: Vec::new(),
            turns: Vec::new(),
            gave_way: Default::default(),
            slots,
            in_use: 0,
            max_waiting,
            arrived: 0,
        }
    }

    /// Polls all that wait; returns who got a slot and who was refused.
    fn poll(&mut self) -> (Vec<usize>, Vec<usize>) {
        let mut context = Context::from_waker(Waker::noop());
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        for (number, mut acquire) in std::mem::take(&mut self.pending) {
            match acquire.as_mut().poll(&mut context) {
                Poll::Pending => self.pending.push((number, acquire)),
                Poll::Ready(Ok(slot)) => {
                    self.held.push((number, slot));
                    granted.push(number);
                }
                Poll::Ready(Err(_)) => refused.push(number),
            }
        }
        (granted, refused)
    }

    fn line(&self, key: u8) -> usize {
        self.waiting.iter().filter(|(_, of)| *of == key).count()
    }

    fn remove(&mut self, number: usize) {
        let at = self.waiting.iter().position(|(of, _)| *of == number);
        let (_, key) = self.waiting.remove(at.unwrap());
        if self.line(key) == 0 {
            self.turns.retain(|turn| *turn != key);
            self.gave_way.remove(&key);
        }
    }

    /// Whom the model serves now.
    fn serve(&mut self) -> Vec<usize> {
        let mut served = Vec::new();
        while self.in_use < self.slots && !self.turns.is_empty() {
            let key = self.turns.remove(0);
            let is_long = self.line(key) > self.slots && !self.turns.is_empty();
            if is_long && self.gave_way.insert(key) {
                self.turns.push(key);
                continue;
            }
            self.gave_way.remove(&key);
            let first = self.waiting.iter().find(|(_, of)| *of == key).unwrap().0;
            self.remove(first);
            if self.line(key) > 0 {
                self.turns.push(key);
            }
            self.in_use += 1;
            served.push(first);
        }
        served
    }

    fn arrive(&mut self, key: u8) {
        let number = self.arrived;
        self.arrived += 1;
        let queue = Arc::clone(&self.queue);
        let acquire: Acquire = Box::pin(async move { queue.acquire(key).await });
        self.pending.push((number, acquire));
        let mut expected_refused = Vec::new();
        if self.in_use < self.slots {
            self.in_use += 1;
            assert_eq!(self.poll(), (vec![number], vec![]));
            return;
        }
        let mut enters = true;
        if self.waiting.len() >= self.max_waiting {
            let longest = self.turns.iter().map(|key| self.line(*key)).max();
            enters = longest.is_some_and(|longest| longest > self.line(key) + 1);
            let refused = match enters {
                true => {
                    let of_longest = |key: &&u8| Some(self.line(**key)) == longest;
                    let longest = *self.turns.iter().rfind(of_longest).unwrap();
                    let newest = self.waiting.iter().rfind(|(_, of)| *of == longest);
                    let newest = newest.unwrap().0;
                    self.remove(newest);
                    newest
                }
                false => number,
            };
            expected_refused.push(refused);
        }
        if enters {
            if self.line(key) == 0 {
                self.turns.push(key);
            }
            self.waiting.push((number, key));
        }
        let (granted, mut refused) = self.poll();
        // The displaced one was polled before the newcomer took its place.
        refused.extend(self.poll().1);
        assert_eq!((granted, refused), (vec![], expected_refused));
    }

    fn finish(&mut self, at: prop::sample::Index) {
        if self.held.is_empty() {
            return;
        }
        drop(self.held.swap_remove(at.index(self.held.len())));
        self.in_use -= 1;
        self.served();
    }

    fn leave(&mut self, at: prop::sample::Index) {
        if self.pending.is_empty() {
            return;
        }
        let (number, acquire) = self.pending.remove(at.index(self.pending.len()));
        drop(acquire);
        self.remove(number);
        self.served();
    }

    /// One whose turn comes leaves before it knows.
    fn finish_and_leave(&mut self, at: prop::sample::Index) {
        if self.held.is_empty() {
            return;
        }
        drop(self.held.swap_remove(at.index(self.held.len())));
        self.in_use -= 1;
        for number in self.serve() {
            let at = self.pending.iter().position(|(of, _)| *of == number);
            drop(self.pending.remove(at.unwrap()));
            self.in_use -= 1;
            // Its slot goes to the next, who did not leave.
            self.served();
        }
    }

    fn resize(&mut self, slots: usize) {
        self.slots = slots;
        self.queue.set_slots(slots);
        self.served();
    }

    fn served(&mut self) {
        let mut expected = self.serve();
        let (mut granted, refused) = self.poll();
        expected.sort_unstable();
        granted.sort_unstable();
        assert_eq!((granted, refused), (expected, vec![]));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(u8),
    Finish(prop::sample::Index),
    Leave(prop::sample::Index),
    FinishAndLeave(prop::sample::Index),
    Resize(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..5u8).prop_map(Step::Arrive),
        4 => index().prop_map(Step::Finish),
        1 => index().prop_map(Step::Leave),
        1 => index().prop_map(Step::FinishAndLeave),
        1 => (1..5usize).prop_map(Step::Resize),
    ]
}

proptest! {
    #[test]
    fn it_serves_like_its_model(slots in 1..4usize, max_waiting in 0..8usize, steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new(slots, max_waiting);
        for step in steps {
            match step {
                Step::Arrive(key) => pair.arrive(key),
                Step::Finish(at) => pair.finish(at),
                Step::Leave(at) => pair.leave(at),
                Step::FinishAndLeave(at) => pair.finish_and_leave(at),
                Step::Resize(slots) => pair.resize(slots),
            }
            let expected = QueueStatus {
                slots: pair.slots,
                in_use: pair.in_use,
                waiting: pair.waiting.len(),
            };
            prop_assert_eq!(pair.queue.status(), expected);
            prop_assert!(pair.waiting.is_empty() || pair.in_use >= pair.slots, "a wake-up was lost");
        }
        // Whatever happened, all of it can end.
        pair.pending.clear();
        pair.held.clear();
        let state = pair.queue.lock();
        prop_assert_eq!((state.in_use, state.waiting, state.turns.len(), state.lines.len()), (0, 0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_threads_no_slot_is_lost_and_none_is_given_twice() {
    let queue = FairQueue::<u8>::new(3, 1_000, Clock::default());
    let in_use = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let clients = (0..64u8).map(|client| {
        let (queue, in_use) = (Arc::clone(&queue), Arc::clone(&in_use));
        tokio::spawn(async move {
            for round in 0..50 {
                let acquire = queue.acquire(client % 8);
                if (round + client) % 5 == 0 {
                    // Leaves at a random moment.
                    tokio::select! {
                        biased;
                        () = tokio::task::yield_now() => continue,
                        slot = acquire => drop(slot),
                    }
                    continue;
                }
                let slot = acquire.await.unwrap();
                assert!(in_use.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3);
                tokio::task::yield_now().await;
                in_use.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                drop(slot);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let idle = QueueStatus {
        slots: 3,
        in_use: 0,
        waiting: 0,
    };
    assert_eq!(queue.status(), idle);
}

#[tokio::test]
async fn the_retry_time_is_mean_service_time_times_waiting_over_slots_within_bounds() {
    let clock = Clock::default();
    let queue = FairQueue::<u8>::new(2, 3, clock.clone());
    assert_eq!(queue.retry_after(), Duration::from_secs(1));
    let slot = queue.acquire(0).await.unwrap();
    clock.advance(Duration::from_secs(10));
    drop(slot);
    let seconds = |queue: &FairQueue<u8>| queue.retry_after().as_secs_f64().round();
    assert_eq!(seconds(&queue), 5.0);
    let _held = [queue.acquire(0).await, queue.acquire(0).await];
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(queue.acquire(0))).collect();
    for waits in &mut waiting {
        assert!(waits.as_mut().poll(&mut context).is_pending());
    }
    let refused = queue.acquire(0).await.unwrap_err();
    assert_eq!(refused.as_secs_f64().round(), 20.0);
    clock.advance(Duration::from_secs(100_000));
    drop(waiting);
    drop(_held);
    assert_eq!(queue.retry_after(), Duration::from_secs(300));
}
