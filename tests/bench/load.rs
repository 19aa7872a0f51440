//! The load: persistent connections, in a closed loop for the throughput, in an open one for how long it
//! takes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{getpriority_process, setpriority_process};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use crate::Result;
use crate::wire::{Connection, alone};

/// Threads that make the load of a closed loop, so that no floor is the speed of one of them.
const THREADS: usize = 2;

/// What is asked for again and again.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) address: SocketAddr,
    /// The next request of a connection.
    pub(crate) requests: Arc<dyn Fn(usize) -> Bytes + Send + Sync>,
    /// The only status that is no failure.
    pub(crate) status: u16,
    /// With what a whole answer ends.
    pub(crate) ends: &'static [u8],
    /// Whether the wait for the first byte of the body counts, not that for the last.
    pub(crate) first: bool,
}

impl Job {
    /// The same request by every connection.
    pub(crate) fn same(address: SocketAddr, request: Bytes) -> Self {
        Self {
            address,
            requests: Arc::new(move |_| request.clone()),
            status: 200,
            ends: b"",
            first: false,
        }
    }
}

/// What the processors did so far: for the process that is measured, and for this one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) theirs: Duration,
    pub(crate) ours: Duration,
}

/// What came of a round.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) done: usize,
    pub(crate) took: Duration,
    /// How long each answer was waited for, the shortest first.
    pub(crate) waits: Vec<Duration>,
    pub(crate) used: Used,
}

impl Round {
    pub(crate) fn rate(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn take(&mut self, began: Instant, before: Used, after: Used) {
        self.took = began.elapsed();
        self.used = Used {
            theirs: after.theirs.saturating_sub(before.theirs),
            ours: after.ours.saturating_sub(before.ours),
        };
    }

    /// The wait that this share of all was not longer than.
    pub(crate) fn wait(&self, share: f64) -> Duration {
        let last = self.waits.len().saturating_sub(1);
        let at = (self.waits.len() as f64 * share) as usize;
        self.waits.get(at.min(last)).copied().unwrap_or_default()
    }
}

/// One exchange of a job; when its answer was there, or began.
async fn exchange(job: &Job, connection: &mut Connection, number: usize) -> Result<Instant> {
    let (status, first) = connection.ask(&(job.requests)(number)).await?;
    if status != job.status || !connection.body.ends_with(job.ends) {
        let body = String::from_utf8_lossy(&connection.body);
        return Err(format!("answered with {status}: {body}").into());
    }
    Ok(if job.first { first } else { Instant::now() })
}

/// How far a closed loop is.
#[derive(Default)]
struct Phase {
    counting: AtomicBool,
    over: AtomicBool,
}

async fn over_and_over(job: Job, number: usize, phase: Arc<Phase>) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    let mut connection = Connection::open(job.address).await?;
    while !phase.over.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let came = exchange(&job, &mut connection, number).await?;
        if phase.counting.load(Ordering::Relaxed) {
            waits.push(came - sent);
        }
    }
    Ok(waits)
}

/// Every connection asks as soon as it was answered. The first tenth of the time is not counted.
pub(crate) fn closed(
    job: &Job,
    connections: usize,
    length: Duration,
    cpu: &dyn Fn() -> Used,
) -> Result<Round> {
    let state = Arc::<Phase>::default();
    let threads = THREADS.min(connections);
    let thread = |thread: usize| {
        let numbers = (thread..connections).step_by(threads);
        let tasks = numbers.map(|number| {
            let state = Arc::clone(&state);
            over_and_over(job.clone(), number, state)
        });
        alone()?.block_on(gather(tasks))
    };
    let mut round = Round::default();
    std::thread::scope(|scope| {
        let thread = &thread;
        let threads = (0..threads).map(|number| scope.spawn(move || thread(number)));
        let threads: Vec<_> = threads.collect();
        std::thread::sleep(length / 10);
        let (began, before) = (Instant::now(), cpu());
        state.counting.store(true, Ordering::Relaxed);
        std::thread::sleep(length);
        state.counting.store(false, Ordering::Relaxed);
        round.take(began, before, cpu());
        state.over.store(true, Ordering::Relaxed);
        for thread in threads {
            let waits = thread.join().map_err(|_| "the load panicked")?;
            round.waits.extend(waits?);
        }
        Result::Ok(())
    })?;
    round.done = round.waits.len();
    round.waits.sort_unstable();
    Ok(round)
}

async fn so_often(
    job: Job,
    number: usize,
    mut connection: Connection,
    times: usize,
    late: Duration,
) -> Result<Vec<Duration>> {
    tokio::time::sleep(late).await;
    let mut waits = Vec::with_capacity(times);
    for _ in 0..times {
        let sent = Instant::now();
        let came = exchange(&job, &mut connection, number).await?;
        waits.push(came - sent);
    }
    Ok(waits)
}

/// Every connection asks so many times, so it is known how much was asked for in all; each begins a little later than the
/// one before it, the last when `spread` is over.
pub(crate) fn each(
    job: &Job,
    connections: usize,
    times: usize,
    spread: Duration,
    cpu: &dyn Fn() -> Used,
) -> Result<Round> {
    let threads = THREADS.min(connections);
    let ready = Barrier::new(threads + 1);
    let thread = |thread: usize| {
        alone()?.block_on(async {
            let mut tasks = Vec::new();
            for number in (thread..connections).step_by(threads) {
                match Connection::open(job.address).await {
                    Ok(connection) => tasks.push((number, connection)),
                    Err(error) => {
                        ready.wait();
                        return Err(error.into());
                    }
                }
            }
            ready.wait();
            let ask = |(number, connection)| {
                let late = spread.mul_f64(number as f64 / connections as f64);
                so_often(job.clone(), number, connection, times, late)
            };
            gather(tasks.into_iter().map(ask)).await
        })
    };
    let mut round = Round::default();
    std::thread::scope(|scope| {
        let thread = &thread;
        let threads = (0..threads).map(|number| scope.spawn(move || thread(number)));
        let threads: Vec<_> = threads.collect();
        ready.wait();
        let (began, before) = (Instant::now(), cpu());
        for thread in threads {
            let waits = thread.join().map_err(|_| "the load panicked")?;
            round.waits.extend(waits?);
        }
        round.take(began, before, cpu());
        Result::Ok(())
    })?;
    round.done = round.waits.len();
    round.waits.sort_unstable();
    Ok(round)
}

async fn on_time(job: Job, number: usize, due: Rc<Due>, skip: u32) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    let mut connection = Connection::open(job.address).await?;
    while let Some((count, at)) = due.next().await {
        let came = exchange(&job, &mut connection, number).await?;
        if count >= skip {
            waits.push(came.saturating_duration_since(at));
        }
    }
    Ok(waits)
}

/// Requests fall due at a fixed rate, whether or not answers come, and each one's wait counts from when it was due: no
/// request that arrives while others wait is left out. The first tenth is not counted.
pub(crate) fn open(
    job: &Job,
    connections: usize,
    rate: f64,
    length: Duration,
    cpu: &dyn Fn() -> Used,
) -> Result<Round> {
    let step = Duration::from_secs_f64(1.0 / rate);
    let all = ((rate * length.as_secs_f64() * 1.1) as u32).max(1);
    let mut round = Round::default();
    let due = Rc::new(Due::default());
    let pace = async {
        let timer = ticks(step.max(Duration::from_micros(20)))?;
        let (began, before) = (Instant::now(), cpu());
        let mut next = 0;
        while next < all {
            timer.readable().await?.clear_ready();
            // How often it ticked does not matter, the clock does.
            let _ = rustix::io::read(timer.get_ref(), &mut [0u8; 8]);
            let now = Instant::now();
            while next < all && began + step * next <= now {
                due.push(next, began + step * next);
                next += 1;
            }
        }
        due.end();
        round.take(began, before, cpu());
        Result::Ok(())
    };
    let tasks = (0..connections).map(|number| {
        let due = Rc::clone(&due);
        on_time(job.clone(), number, due, all / 11)
    });
    let both = async { tokio::join!(gather(tasks), pace) };
    // The client has a higher priority than the servers, where that is allowed: its own delay would count as theirs.
    let usual = getpriority_process(None)?;
    let is_first = setpriority_process(None, usual - 10).is_ok();
    let (waits, paced) = alone()?.block_on(both);
    if is_first {
        setpriority_process(None, usual)?;
    }
    paced?;
    round.done = all as usize;
    round.waits = waits?;
    round.waits.sort_unstable();
    Ok(round)
}

/// All of these side by side, on this thread; ends at the first that fails.
async fn gather<F>(tasks: impl Iterator<Item = F>) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<Vec<Duration>>> + 'static,
{
    let (set, mut running) = (LocalSet::new(), JoinSet::new());
    for task in tasks {
        running.spawn_local_on(task, &set);
    }
    set.run_until(async {
        let mut waits = Vec::new();
        while let Some(ended) = running.join_next().await {
            waits.append(&mut ended??);
        }
        Ok(waits)
    })
    .await
}

/// Ticks more finely than the timers of a runtime, whose wheel turns once a millisecond.
fn ticks(every: Duration) -> Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let every = Timespec {
        tv_sec: every.as_secs().cast_signed(),
        tv_nsec: every.subsec_nanos().into(),
    };
    let interval = Itimerspec {
        it_interval: every,
        it_value: every,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &interval)?;
    #[allow(
        deprecated,
        reason = "its successor is unsafe, for descriptors that are not owned; this one is"
    )]
    let timer = AsyncFd::new(timer)?;
    Ok(timer)
}

/// Requests that are due and that no connection has taken yet.
#[derive(Default)]
struct Due {
    waiting: RefCell<VecDeque<(u32, Instant)>>,
    over: Cell<bool>,
    more: Notify,
}

impl Due {
    fn push(&self, count: u32, at: Instant) {
        self.waiting.borrow_mut().push_back((count, at));
        self.more.notify_one();
    }

    fn end(&self) {
        self.over.set(true);
        self.more.notify_waiters();
    }

    /// The next one; `None` after the last.
    async fn next(&self) -> Option<(u32, Instant)> {
        loop {
            let more = self.more.notified();
            let next = self.waiting.borrow_mut().pop_front();
            if next.is_some() || self.over.get() {
                return next;
            }
            more.await;
        }
    }
}
