//! The state that every request shares.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nonzero_ext::nonzero;
use tokio::sync::{Notify, Semaphore, watch};

use crate::alerts::Alerts;
use crate::auth::{Challenges, KeyCache, Principal};
use crate::billing::{Billing, InFlightKeys};
use crate::cache::{Cache, Cached, Policy};
use crate::clock::Clock;
use crate::config::{Config, Terms};
use crate::error::ApiError;
use crate::host_routes::HostRoutes;
use crate::limits::{ConcurrencyLimiter, Limits};
use crate::metrics::Metrics;
use crate::model::{Timestamp, Wallet};
use crate::shutdown::Shutdown;
use crate::store::{
    Backup, Backups, Change, LedgerReport, Origin, Repository, StoreError, StoreObserver, Totals,
    latest_sample,
};
use crate::upstream::UpstreamError;
use crate::upstream::chain::{Blocks, Chain, ChainStatus};
use crate::upstream::discovery::Upstreams;

/// The parts of a running server.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) store: Arc<dyn Repository>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) challenges: Challenges,
    pub(crate) metrics: Arc<Metrics>,
    /// What a client may name beside the models of servers: each adapter and alias, with its adapter.
    pub(crate) adapters: BTreeMap<String, String>,
    pub(crate) upstreams: Upstreams,
    pub(crate) chain_status: Cache<(), ChainStatus, UpstreamError>,
    pub(crate) blocks: Cache<usize, Arc<Blocks>, UpstreamError>,
    /// What is known of the chain without waiting for it.
    chain_known: watch::Sender<ChainKnown>,
    /// Notified when the chain's status is wanted fresh.
    pub(crate) chain_wanted: Notify,
    pub(crate) alerts: Alerts,
    /// The routes of the embedding program.
    pub(crate) own: Vec<HostRoutes>,
    pub(crate) billing: Arc<Billing>,
    /// Mebibytes of answers with embeddings that may be in memory at once.
    pub(crate) embeddings: Arc<Semaphore>,
    /// Requests that may be handled at once; the shutdown waits until all permits are back.
    pub(crate) in_flight: Arc<Semaphore>,
    /// Paid requests by the number of their key's limits.
    pub(crate) key_requests: Arc<ConcurrencyLimiter<i64>>,
    pub(crate) shutdown: Shutdown,
    /// Replaced when the configuration is reloaded.
    limits: watch::Sender<Limits>,
    /// The same, of each adapter, and of every other model.
    terms: watch::Sender<(BTreeMap<String, Terms>, Terms)>,
    /// Whether the chain was halted at the last response.
    pub(crate) chain_halted: AtomicBool,
    /// Errors that the last check of the ledger found.
    pub(crate) ledger_errors: AtomicUsize,
    /// Whether the clock was compared with what the storage last knew.
    clock_resumed: AtomicBool,
}

/// The chain's height, and when it was read.
#[derive(Clone, Copy, Debug, Default)]
struct ChainKnown {
    height: Option<(i64, Instant)>,
    /// Whether the chain was asked, and answered or failed.
    is_asked: bool,
}

/// Cached keys and responses. The store reports every commit here, so that none outlives its source.
pub(crate) struct Caches {
    pub(crate) keys: KeyCache,
    /// Figures over all wallets, those with the newest samples, and when they were read.
    pub(crate) totals: Cache<(), (Totals, Vec<Wallet>, Timestamp), ApiError>,
    /// Leaderboards, by their days (0 is all time), length, and whether they have the form of the R3MES backend.
    pub(crate) pages: Cache<(u16, usize, bool), Bytes, ApiError>,
    metrics: Arc<Metrics>,
}

impl StoreObserver for Caches {
    fn committed(&self, jobs: usize, took: Duration, ok: bool) {
        let table = &self.metrics.table;
        table.commit_duration.observe(took.as_secs_f64());
        table.commit_jobs.observe(jobs as f64);
        table.commit_failures.inc_by(u64::from(!ok));
    }

    fn read(&self, took: Duration) {
        self.metrics.read(took);
    }

    fn changed(&self, change: &Change, origin: Origin) {
        if origin == Origin::Here {
            self.metrics.changed(change);
        }
        match change {
            Change::Key(hash) => return self.keys.drop_key(hash),
            Change::Blocked(wallet) => return self.keys.drop_wallet(wallet),
            Change::Samples { first: false, .. } => return,
            Change::All => self.keys.clear(),
            _ => {}
        }
        self.totals.invalidate(&());
    }
}

impl App {
    pub(crate) fn new(
        config: Config,
        store: Arc<dyn Repository>,
        clock: Clock,
        own: Vec<HostRoutes>,
        routes: impl Iterator<Item = (&'static str, &'static str)>,
    ) -> Result<Arc<Self>, String> {
        let upstreams = Upstreams::new(&config, &clock).map_err(|error| error.to_string())?;
        let challenges = Challenges::new().map_err(|error| format!("no random bytes: {error}"))?;
        let adapters = config.adapters_by_name();
        let names = config.adapter_names();
        let nodes = upstreams.nodes.iter().map(|node| node.at.breaker.name());
        let metrics = Arc::new(Metrics::new(
            &names,
            nodes,
            routes,
            &config.alerts,
            config.metrics.gen_ai,
        ));
        if store.backups().is_some() {
            metrics.add_backups();
        }
        let caches = Arc::new(Caches {
            keys: KeyCache::new(nonzero!(16_384usize)),
            totals: Cache::new(nonzero!(1usize)),
            pages: Cache::new(nonzero!(64usize)),
            metrics: Arc::clone(&metrics),
        });
        let observer: Weak<Caches> = Arc::downgrade(&caches);
        store.observe(observer);
        let shutdown = Shutdown::default();
        let billing = Arc::new(Billing {
            store: Arc::clone(&store),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            config: config.chat.clone(),
            shutdown: shutdown.clone(),
            in_flight_keys: InFlightKeys::default(),
        });
        Ok(Arc::new(Self {
            started: clock.instant(),
            challenges,
            caches,
            metrics,
            adapters,
            upstreams,
            chain_status: Cache::new(nonzero!(1usize)),
            blocks: Cache::new(nonzero!(16usize)),
            chain_known: watch::Sender::default(),
            chain_wanted: Notify::new(),
            alerts: Alerts::default(),
            own,
            billing,
            embeddings: Arc::new(Semaphore::new(64)),
            in_flight: Arc::new(Semaphore::new(config.limits.in_flight)),
            key_requests: Arc::default(),
            shutdown,
            terms: watch::Sender::new(all_terms(&config)),
            limits: watch::Sender::new(Limits::new(|class| config.rates.get(class), &clock)),
            chain_halted: AtomicBool::new(false),
            ledger_errors: AtomicUsize::new(0),
            clock_resumed: AtomicBool::new(false),
            store,
            clock,
            config,
        }))
    }

    /// The rate limits in force.
    pub(crate) fn limits(&self) -> watch::Ref<'_, Limits> {
        self.limits.borrow()
    }

    /// The price and the bounds of an adapter, as they are in force; of a server's own model those of `[chat]`.
    pub(crate) fn terms(&self, adapter: &str) -> Terms {
        let (adapters, others) = &*self.terms.borrow();
        adapters.get(adapter).copied().unwrap_or(*others)
    }

    /// The adapter that a client means by a name, or a server's own model, whose lists are read again where none has it.
    pub(crate) async fn resolve(&self, name: &str) -> Option<String> {
        /// Whatever clients ask for, no list is read more often.
        const AGE: Duration = Duration::from_secs(1);
        if let Some(adapter) = self.adapters.get(name) {
            return Some(adapter.clone());
        }
        let own = || {
            let mut nodes = self.upstreams.nodes.iter();
            nodes.find_map(|node| node.own_model(name))
        };
        if own().is_none() {
            self.upstreams.read_models(AGE).await;
        }
        own()
    }

    /// What the caller may name now: adapters, their aliases and models, each with its adapter or itself.
    pub(crate) fn served_names(&self, caller: Option<&Principal>) -> BTreeMap<String, String> {
        let own = self
            .upstreams
            .nodes
            .iter()
            .flat_map(|node| node.own_models());
        let mut names: BTreeMap<_, _> = own.map(|name| (name.clone(), name)).collect();
        let adapters = self.adapters.clone().into_iter();
        names.extend(adapters.filter(|(_, adapter)| self.is_served(adapter)));
        names.retain(|_, adapter| self.may_use(caller, adapter));
        names
    }

    /// Whether a server has an adapter or a model.
    pub(crate) fn is_served(&self, adapter: &str) -> bool {
        !self.upstreams.serving(adapter, None).is_empty()
    }

    /// Whether the limits of the caller's key leave an adapter to it. An alias in them is its adapter, also where it became one
    /// after the key was made.
    pub(crate) fn may_use(&self, caller: Option<&Principal>, adapter: &str) -> bool {
        let limits = caller.and_then(|caller| caller.limits.as_ref());
        let models = limits.and_then(|limits| limits.models.as_ref());
        let is = |name: &String| self.adapters.get(name).unwrap_or(name) == adapter;
        models.is_none_or(|models| models.iter().any(is))
    }

    /// Applies the rates, prices and alerts of another configuration.
    pub(crate) fn reload(&self, config: &Config) {
        self.terms.send_replace(all_terms(config));
        let limits = Limits::new(|class| config.rates.get(class), &self.clock);
        self.limits.send_replace(limits);
        self.metrics.set_alert_settings(&config.alerts);
    }

    /// Compares the clock with what the storage last knew, until that could be read one time; whether it was.
    pub(crate) async fn resume_clock(&self) -> bool {
        if self.clock_resumed.load(Ordering::Acquire) {
            return true;
        }
        // A store that does not answer must not keep the server from starting.
        let last = tokio::time::timeout(Duration::from_secs(5), self.store.last_clock());
        match last.await.unwrap_or(Err(StoreError::Busy)) {
            Ok(last) => {
                if let Some(last) = last {
                    self.clock.resume(&last);
                }
                self.clock_resumed.store(true, Ordering::Release);
                true
            }
            Err(error) => {
                log::warn!("the clock was not compared with the stored time: {error}");
                false
            }
        }
    }

    /// Stores the clock for the next start.
    pub(crate) async fn record_clock(&self) -> Result<(), StoreError> {
        self.store.record_clock(self.clock.reading()).await
    }

    /// Stores when keys were last used.
    pub(crate) async fn record_key_use(&self) {
        let touched = self.caches.keys.take_touched();
        if !touched.is_empty()
            && let Err(error) = self.store.touch_keys(touched).await
        {
            log::warn!("the last use of keys was not stored: {error}");
        }
    }

    /// From a time until now, with what a clock may be ahead by.
    pub(crate) fn until_now(&self, since: Timestamp) -> Range<Timestamp> {
        since..latest_sample(self.clock.now())
    }

    /// How long responses of the chain are cached: short compared to the block time.
    pub(crate) fn chain_policy(&self) -> Policy {
        Policy {
            ttl: Duration::from_secs(2),
            stale_if_error: self.config.chain.stale_if_error,
            failure_ttl: Duration::from_secs(2),
        }
    }

    /// The chain's status, from the cache where it is fresh or the chain is down.
    pub(crate) async fn cached_chain_status(
        &self,
        chain: &Chain,
    ) -> Result<Cached<ChainStatus>, UpstreamError> {
        let (now, policy) = (|| self.clock.instant(), self.chain_policy());
        let fetch = || async {
            let status = chain.status().await;
            self.chain_known.send_modify(|known| {
                let height = status.as_ref().map(|status| status.latest_block_height);
                let height = height.ok().map(|height| (height, self.clock.instant()));
                known.height = height.or(known.height);
                known.is_asked = true;
            });
            let status = status?;
            // A halted chain does not report that it is catching up; one without a block has not begun.
            let next_due = (status.latest_block_time).plus(self.config.chain.max_block_age);
            let has_begun = !status.catching_up && status.latest_block_height > 0;
            let halted = has_begun && next_due < self.clock.now();
            self.chain_halted.store(halted, Ordering::Release);
            Ok(status)
        };
        self.chain_status.get((), policy, now, fetch).await
    }

    /// The chain's height as it is known. It is not waited for, except for a moment where it was never asked; a refresh that is
    /// due begins in the background.
    pub(crate) async fn known_height(&self) -> Option<i64> {
        const FIRST_ANSWER: Duration = Duration::from_millis(250);
        self.upstreams.chain()?;
        let policy = self.chain_policy();
        let is_younger = |(_, at): &(i64, Instant), than| self.clock.instant() < *at + than;
        let mut known = self.chain_known.subscribe();
        let fresh =
            |known: &ChainKnown| known.height.filter(|height| is_younger(height, policy.ttl));
        if fresh(&known.borrow()).is_none() {
            self.chain_wanted.notify_one();
        }
        let asked = known.wait_for(|known| known.is_asked);
        let _ = tokio::time::timeout(FIRST_ANSWER, asked).await;
        let height = self.chain_known.borrow().height;
        let height = height.filter(|height| is_younger(height, policy.stale_if_error));
        height.map(|(height, _)| height)
    }

    /// Makes a backup in the configured folder, where the newest `keep` remain, and counts its outcome.
    pub(crate) async fn back_up(
        &self,
        backups: &dyn Backups,
        keep: Option<usize>,
    ) -> Result<Backup, StoreError> {
        let folder = self.config.backup.folder().map(Into::into);
        let now = self.clock.now();
        let made = backups.back_up(folder, keep, now).await;
        match &made {
            Ok(_) => self.metrics.backed_up(now),
            // Another backup is running; that is not a failure.
            Err(StoreError::Conflict(_)) => {}
            Err(_) => self.metrics.backup_failed(),
        }
        made
    }

    /// Checks what is new in the ledger, or all of it, and stores the number of errors for the alerts.
    pub(crate) async fn verify_ledger(&self, full: bool) -> Result<LedgerReport, StoreError> {
        let report = self.store.verify_ledger(full).await?;
        let errors = report.mistakes.len();
        self.ledger_errors.store(errors, Ordering::Release);
        Ok(report)
    }
}

fn all_terms(config: &Config) -> (BTreeMap<String, Terms>, Terms) {
    let names = config.adapter_names().into_iter();
    let adapters = names.map(|name| {
        let terms = config.terms(&name);
        (name, terms)
    });
    // No adapter has an empty name.
    (adapters.collect(), config.terms(""))
}
