//! The parts that every request shares.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nonzero_ext::nonzero;
use tokio::sync::{Notify, Semaphore, watch};

use crate::alerts::Alerts;
use crate::auth::{Challenges, KeyCache};
use crate::cache::{Cache, Cached, Policy, Source};
use crate::clock::Clock;
use crate::config::Config;
use crate::host_routes::HostRoutes;
use crate::limits::Limits;
use crate::metrics::{Gauges, Metrics};
use crate::model::{Credits, Timestamp};
use crate::store::{Backup, Change, LedgerReport, Repository, StoreError, StoreObserver};
use crate::upstream::UpstreamError;
use crate::upstream::chain::{Blocks, Chain, ChainStatus};
use crate::upstream::discovery::Upstreams;

/// Everything a running server is made of.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) store: Arc<dyn Repository>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) challenges: Challenges,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// The adapters a client may ask for.
    pub(crate) adapters: BTreeSet<String>,
    pub(crate) upstreams: Upstreams,
    pub(crate) chain_status: Cache<(), ChainStatus>,
    pub(crate) blocks: Cache<usize, Arc<Blocks>>,
    pub(crate) alerts: Alerts,
    /// The host's, asked for what is none of ours.
    pub(crate) own: Vec<HostRoutes>,
    pub(crate) unwritten: PendingQueue<(i64, Credits, Closing)>,
    /// What the ledger is to say of chats besides their price.
    pub(crate) notes: PendingQueue<(i64, String)>,
    pub(crate) running_keys: InFlightKeys,
    /// Requests that may be worked on at once; the shutdown waits until all are back.
    pub(crate) in_flight: Arc<Semaphore>,
    halted: AtomicBool,
    ledger_mistakes: AtomicUsize,
    draining: watch::Sender<bool>,
    cut_off: watch::Sender<bool>,
}

/// What is kept of the storage, so that a known key and a page asked for often cost no look at the file. The storage tells
/// of every change, whoever made it.
pub(crate) struct Caches {
    pub(crate) keys: KeyCache,
    pub(crate) pages: Cache<Page, Bytes>,
    metrics: Arc<Metrics>,
}

impl StoreObserver for Caches {
    fn committed(&self, jobs: usize, took: Duration, ok: bool) {
        self.metrics.committed(jobs, took, ok);
    }

    fn read(&self, took: Duration) {
        self.metrics.read(took);
    }

    fn changed(&self, change: &Change) {
        self.metrics.changed(change);
        match change {
            Change::Key(hash) => self.keys.drop_key(hash),
            Change::Samples { first: false, .. } => {}
            Change::Account | Change::Granted(_) | Change::Earned(_) | Change::Samples { .. } => {
                self.pages.invalidate(&Page::NetworkStats);
            }
        }
    }
}

/// A page that is kept whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Page {
    NetworkStats,
    Leaderboard { days: Option<u16>, limit: usize },
}

impl App {
    /// A wallet mines as long as its last sample is not older than this.
    pub(crate) const ACTIVE: Duration = Duration::from_secs(300);
    /// A wallet counts as an active user for this long after an authenticated request.
    const SEEN: Duration = Duration::from_secs(15 * 60);

    pub(crate) fn new(
        config: Config,
        upstreams: Upstreams,
        store: Arc<dyn Repository>,
        clock: Clock,
        own: Vec<HostRoutes>,
        routes: impl Iterator<Item = (&'static str, &'static str)>,
    ) -> Result<Self, getrandom::Error> {
        let adapters = config.adapter_names();
        let nodes = upstreams.nodes.iter().map(|node| node.at.breaker().name());
        let metrics = Metrics::new(&adapters, nodes, routes, config.alerts.slow_query);
        let metrics = Arc::new(metrics);
        let caches = Arc::new(Caches {
            keys: KeyCache::new(nonzero!(16_384usize)),
            pages: Cache::new(nonzero!(64usize)),
            metrics: Arc::clone(&metrics),
        });
        let observer: Weak<Caches> = Arc::downgrade(&caches);
        store.observe(observer);
        Ok(Self {
            started: clock.instant(),
            challenges: Challenges::new()?,
            caches,
            limits: Limits::new(|class| config.rates.get(class), &clock),
            metrics,
            adapters,
            upstreams,
            chain_status: Cache::new(nonzero!(1usize)),
            blocks: Cache::new(nonzero!(16usize)),
            alerts: Alerts::new(config.alerts.clone()),
            own,
            unwritten: PendingQueue::default(),
            notes: PendingQueue::default(),
            running_keys: InFlightKeys::default(),
            in_flight: Arc::new(Semaphore::new(config.limits.in_flight)),
            halted: AtomicBool::new(false),
            ledger_mistakes: AtomicUsize::new(0),
            draining: watch::Sender::new(false),
            cut_off: watch::Sender::new(false),
            store,
            clock,
            config,
        })
    }

    /// Takes over what can change while it runs: rates and alerts.
    pub(crate) fn reload(&self, config: &Config) {
        self.limits.change(|class| config.rates.get(class));
        self.metrics.set_slow_query(config.alerts.slow_query);
        self.alerts.change(config.alerts.clone());
    }

    /// Notes when keys were last used; called now and then, and at the end.
    pub(crate) async fn note_key_use(&self) {
        let touched = self.caches.keys.take_touched();
        if !touched.is_empty()
            && let Err(error) = self.store.touch_keys(touched).await
        {
            log::warn!("the last use of keys was not noted: {error}");
        }
    }

    /// From when on a miner counts as active.
    pub(crate) fn active_since(&self) -> Timestamp {
        self.clock.now().minus(Self::ACTIVE)
    }

    /// How answers of the chain are kept: long enough to spare it a crowd, short against a block's time.
    pub(crate) fn chain_policy(&self) -> Policy {
        Policy {
            ttl: Duration::from_secs(2),
            stale_if_error: self.config.chain.stale_if_error,
        }
    }

    /// The chain's status, from its cache where that is fresh or the chain is down.
    pub(crate) async fn cached_chain_status(
        &self,
        chain: &Chain,
    ) -> Result<Cached<ChainStatus>, UpstreamError> {
        let now = || self.clock.instant();
        let policy = self.chain_policy();
        let status = self.chain_status.get((), policy, now, || chain.status());
        let status = status.await?;
        if status.source == Source::Miss {
            let halted = self.chain_halted(&status);
            if self.halted.swap(halted, Ordering::AcqRel) != halted {
                let (height, time) = (
                    status.value.latest_block_height,
                    status.value.latest_block_time,
                );
                if halted {
                    log::error!("the chain is halted: its last block is {height} of {time}");
                } else {
                    log::warn!("the chain goes on: block {height} of {time}");
                }
            }
        }
        Ok(status)
    }

    /// Whether the chain made no block for too long when it was asked. It says nothing of that itself: a halted chain is
    /// not catching up.
    pub(crate) fn chain_halted(&self, status: &Cached<ChainStatus>) -> bool {
        let asked = self.clock.now().minus(status.age);
        let since = status.value.latest_block_time;
        !status.value.catching_up && since.plus(self.config.chain.max_block_age) < asked
    }

    /// Whether the chain was halted when it was asked last.
    pub(crate) fn is_chain_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Makes a copy in the configured folder, and counts how that went.
    pub(crate) async fn back_up(&self) -> Result<Backup, StoreError> {
        let folder = self.config.backup.folder().map(Path::to_owned);
        let now = self.clock.now();
        let made = self.store.back_up(folder, now).await;
        match &made {
            Ok(_) => self.metrics.backed_up(Some(now)),
            // One is being made; that is no failure.
            Err(StoreError::Conflict(_)) => {}
            Err(_) => self.metrics.backed_up(None),
        }
        made
    }

    /// Checks every wallet, and remembers how many places do not add up.
    pub(crate) async fn verify_ledger(&self) -> Result<LedgerReport, StoreError> {
        let report = self.store.verify_ledger().await?;
        self.ledger_mistakes
            .store(report.mistakes.len(), Ordering::Release);
        Ok(report)
    }

    /// Places where the ledger did not add up when it was checked last.
    pub(crate) fn ledger_mistakes(&self) -> usize {
        self.ledger_mistakes.load(Ordering::Acquire)
    }

    /// Brings the metrics up to date with what is read where it lives.
    pub(crate) fn measure(&self) {
        self.metrics.set_gauges(&Gauges {
            active_users: self
                .caches
                .keys
                .active_wallets(self.clock.now().minus(Self::SEEN)),
            in_flight: self.config.limits.in_flight - self.in_flight.available_permits(),
            limiter_entries: self.limits.entries(),
            unwritten: self.unwritten.len(),
            store: self.store.gauges(),
        });
        for breaker in self.upstreams.breakers() {
            self.metrics.set_breaker(breaker);
        }
        self.metrics.set_alerts(self.alerts.count());
        self.metrics.set_cache("pages", self.caches.pages.counts());
        self.metrics.set_cache("chain", self.chain_status.counts());
        self.metrics.set_cache("blocks", self.blocks.counts());
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// From now on nothing new begins.
    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Returns a moment after [`App::drain`] was called, when no rest of a request is waited for any more: a client that is
    /// slow, or says nothing, would keep the server from stopping.
    pub(crate) async fn past_waiting(&self) {
        const MOMENT: Duration = Duration::from_millis(500);
        // The sender is in `self`: it outlives this wait.
        let _ = self.draining.subscribe().wait_for(|drain| *drain).await;
        let _ = tokio::time::timeout(MOMENT, self.cut_off()).await;
    }

    /// From now on nothing goes on either.
    pub(crate) fn cut(&self) {
        self.cut_off.send_replace(true);
    }

    /// Returns when [`App::cut`] was called.
    pub(crate) async fn cut_off(&self) {
        let _ = self.cut_off.subscribe().wait_for(|cut| *cut).await;
    }
}

/// How a reservation is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closing {
    Settle,
    Refund,
}

/// What is still to be written.
#[derive(Debug)]
pub(crate) struct PendingQueue<T> {
    waiting: Mutex<Vec<T>>,
    more: Notify,
}

impl<T> Default for PendingQueue<T> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            more: Notify::default(),
        }
    }
}

impl<T> PendingQueue<T> {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, one: T) {
        self.lock().push(one);
        self.more.notify_one();
    }

    /// Waits until there is one.
    pub(crate) async fn wait_non_empty(&self) {
        while self.len() == 0 {
            self.more.notified().await;
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// The requests with an `Idempotency-Key` that are being worked on, by scope. Nothing of it is in the file: a crash leaves
/// nothing running.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlightKeys(Arc<Mutex<HashMap<String, HashSet<[u8; 32]>>>>);

/// One of them; dropped, it is no longer.
pub(crate) struct InFlightGuard {
    keys: InFlightKeys,
    scope: String,
    key: [u8; 32],
}

impl InFlightKeys {
    /// Adds one, and tells how many of its scope are running with it; `None` where the same is running already.
    pub(crate) fn enter(&self, scope: &str, key: [u8; 32]) -> Option<(InFlightGuard, usize)> {
        let mut running = self.lock();
        let of_scope = running.entry(scope.to_owned()).or_default();
        let new = of_scope.insert(key);
        let count = of_scope.len();
        drop(running);
        new.then(|| {
            let running = InFlightGuard {
                keys: self.clone(),
                scope: scope.to_owned(),
                key,
            };
            (running, count)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, HashSet<[u8; 32]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut running = self.keys.lock();
        if let Some(of_scope) = running.get_mut(&self.scope) {
            of_scope.remove(&self.key);
            if of_scope.is_empty() {
                running.remove(&self.scope);
            }
        }
    }
}
