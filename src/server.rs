//! The server: bind, accept, stop.
//!
//! A [`Builder`] takes what the caller has (configuration, store, listener, clock); [`EdgeServer`] is the running server.
//! It reads no environment, handles no signal and installs no logger: it is a guest in its caller's process.

mod connection_limiter;
mod io_timeout;
mod listener;
mod reset;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, interval_at, timeout};

use self::connection_limiter::ConnectionLimiter;
use self::io_timeout::WriteTimeoutStream;
use self::listener::{Listener, Stream};
use self::reset::ResetOnClose;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, Listen, Peer};
use crate::host_routes::HostRoutes;
use crate::http::Exchange;
use crate::routes::{self, ROUTES};
use crate::store::{Repository, StoreError};
use crate::upstream::discovery::Upstreams;
use crate::{billing, collector, http};

pub use crate::host_routes::Caller;

/// Why a server did not start.
///
/// ```
/// use std::sync::Arc;
/// use r3mes_edge::{Config, EdgeServer, SqliteStore, StartError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let store = Arc::new(SqliteStore::open(&folder.path().join("edge.db"), true)?);
/// let mut config = Config::default();
/// config.auth.cors_origins = vec!["*".to_owned()];
/// let Err(StartError::Config(what)) = EdgeServer::builder(config, store).start().await else {
///     return Err("everybody's pages may call it".into());
/// };
/// assert!(what.starts_with("auth.cors_origins"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// This place cannot be listened on.
    Bind(Listen, std::io::Error),
    /// The configuration cannot be used, or a file or folder that it names; names the setting.
    Config(String),
    /// The operating system gave no random bytes.
    Random(getrandom::Error),
    /// The storage failed before the first request.
    Store(StoreError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(place, error) => write!(f, "cannot listen on {place}: {error}"),
            Self::Config(what) => f.write_str(what),
            Self::Random(error) => write!(f, "no random bytes: {error}"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// What a server is started with.
pub struct Builder {
    config: Config,
    store: Arc<dyn Repository>,
    listener: Option<TcpListener>,
    clock: Clock,
    own: Vec<HostRoutes>,
}

impl Builder {
    /// Takes a bound listener instead of binding what `config.listen` names.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Hands requests to `handler` whose path is `prefix` or below it and none of ours; more prefixes by more calls. They go the way of all requests:
    /// what holds for connections, hosts, origins, keys, rates (class `read`), places and times holds for them, they have
    /// a request id and a line in the log, and metrics know them all as the one route `own`. Who asks stands in the
    /// request's extensions, as [`Caller`]; whether they may is for the handler to say. A panic in it is a 500.
    ///
    /// Its body is not read before; who reads it says how much of it (`http_body_util::Limited`). The handler is dropped
    /// when its client leaves.
    #[must_use]
    pub fn own_routes<A, B>(
        mut self,
        prefix: impl Into<String>,
        handler: impl Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    ) -> Self
    where
        A: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        self.own.push(HostRoutes::new(prefix.into(), handler));
        self
    }

    /// Starts serving in the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError::Bind`] where a place cannot be listened on: then none of the others is either. [`StartError::Config`]
    /// for what no server is started with, [`StartError::Store`] where the storage fails.
    ///
    /// # Panics
    /// Outside a tokio runtime, or in one without its I/O and time.
    pub async fn start(self) -> Result<EdgeServer, StartError> {
        let Self {
            mut config,
            store,
            listener,
            clock,
            own,
        } = self;
        if let Some(mistake) = own.iter().find_map(HostRoutes::invalid_prefix) {
            return Err(StartError::Config(mistake));
        }
        let valid = config.validate_access();
        valid.map_err(|error| StartError::Config(error.to_string()))?;
        let listeners = match listener {
            Some(listener) => vec![Listener::Tcp(listener)],
            None => bind(&config.listen).await?,
        };
        // Who may read and which Host is ours depend on where it really listens.
        let places: Result<Vec<_>, _> = listeners.iter().map(Listener::place).collect();
        let places = places
            .map_err(|error| StartError::Config(format!("a listener has no address: {error}")))?;
        config.listen.clone_from(&places);
        for risk in config.risks() {
            log::warn!("{}; {}", risk.what, risk.advice);
        }
        let refunded = store
            .refund_open(clock.now())
            .await
            .map_err(StartError::Store)?;
        if refunded > 0 {
            log::warn!("{refunded} chats were in flight at the last shutdown and were refunded");
        }
        let upstreams = Upstreams::new(&config, &clock).map_err(StartError::Config)?;
        let routes = routes::labels();
        let app =
            App::new(config, upstreams, store, clock, own, routes).map_err(StartError::Random)?;
        let app = Arc::new(app);
        let (stop, stopping) = watch::channel(false);
        let background = vec![
            tokio::spawn(collector::collect(Arc::clone(&app))),
            tokio::spawn(discover(Arc::clone(&app))),
            tokio::spawn(watch_chain(Arc::clone(&app))),
            tokio::spawn(close_unwritten(Arc::clone(&app))),
            tokio::spawn(note_usage(Arc::clone(&app))),
            tokio::spawn(housekeeping(Arc::clone(&app))),
            tokio::spawn(compact(Arc::clone(&app))),
            tokio::spawn(verify(Arc::clone(&app))),
            tokio::spawn(back_up(Arc::clone(&app))),
            tokio::spawn(crate::watch::alert_loop(Arc::clone(&app))),
            tokio::spawn(tell(Arc::clone(&app))),
        ];
        let serving = tokio::spawn(serve(Arc::clone(&app), listeners, stopping));
        Ok(EdgeServer {
            app,
            listeners: places,
            stop,
            serving: Some(serving),
            background,
        })
    }
}

/// Binds all of them or none.
async fn bind(places: &[Listen]) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::with_capacity(places.len());
    for place in places {
        listeners.push(Listener::bind(place, places).await?);
    }
    Ok(listeners)
}

/// A running server. Dropped, it stops without waiting for anybody; [`EdgeServer::shutdown`] is the kind way.
pub struct EdgeServer {
    app: Arc<App>,
    listeners: Vec<Listen>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    background: Vec<JoinHandle<()>>,
}

impl EdgeServer {
    /// What a server is started with; the rest has defaults.
    #[must_use]
    pub fn builder(config: Config, store: Arc<dyn Repository>) -> Builder {
        Builder {
            config,
            store,
            listener: None,
            clock: Clock::default(),
            own: Vec::new(),
        }
    }

    /// The storage it was started with, for direct calls. The server hears of what they change: its answers follow at
    /// once, and a key that is revoked opens nothing more.
    #[must_use]
    pub fn repository(&self) -> &Arc<dyn Repository> {
        &self.app.store
    }

    /// Every place it listens on, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[Listen] {
        &self.listeners
    }

    /// The first address it listens on; `0.0.0.0:0` where it listens on Unix sockets only.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let first = self.listeners.iter().find_map(Listen::address);
        first.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Takes rates and alerts over from another configuration, for the next request and the next look; nothing under way
    /// is disturbed. Everything else goes on as it was started. A class whose rate is another begins with full buckets.
    pub fn reload(&self, config: &Config) {
        self.app.reload(config);
    }

    /// Stops: no new connections, no new requests; what is under way has `limits.shutdown_grace`, then it is ended and
    /// what it cost is settled or refunded. Returns when everything is written and the storage is closed.
    pub async fn shutdown(mut self) {
        self.app.drain();
        self.stop.send_replace(true);
        for task in &self.background {
            task.abort();
        }
        if let Some(serving) = self.serving.take() {
            // Bounded by the grace inside; a panic in there was logged by the runtime.
            let _ = serving.await;
        }
        self.app.note_key_use().await;
        billing::write_notes(&self.app).await;
        billing::retry(&self.app).await;
        let left = self.app.unwritten.len();
        if left > 0 {
            log::error!("{left} reservations could not be closed; the next start refunds them");
        }
        let store = Arc::clone(&self.app.store);
        if tokio::task::spawn_blocking(move || store.close())
            .await
            .is_err()
        {
            log::error!("the storage was not closed cleanly");
        }
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        self.app.drain();
        self.app.cut();
        for task in self.background.iter().chain(&self.serving) {
            task.abort();
        }
    }
}

async fn serve(app: Arc<App>, listeners: Vec<Listener>, mut stopping: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(app.config.limits.connections));
    let limiter = Arc::new(ConnectionLimiter::default());
    let graceful = GracefulShutdown::new();
    let mut protocol = http1::Builder::new();
    // Without the timer hyper ignores the timeout. It bounds the head of a request and the pause before the next one.
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.limits.header_timeout)
        .max_header_size(64 << 10)
        .max_buf_size(64 << 10);
    let mut turn = 0;
    loop {
        // The permit first: a connection nobody can serve is left in the kernel's queue.
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await.ok()?;
            Some((permit, accept(&listeners, &mut turn).await?))
        };
        let (permit, (stream, peer)) = tokio::select! {
            next = next => match next {
                Some(next) => next,
                None => continue,
            },
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        let address_permit = if app.config.auth.trusts(peer) {
            // It brings many people, and takes no place of anybody.
            None
        } else {
            let most = app.config.limits.per_address;
            let Some(address_permit) = limiter.try_acquire(peer.address(), most) else {
                continue;
            };
            Some(address_permit)
        };
        let exchange = Arc::new(Exchange::default());
        let reset = Arc::new(ResetOnClose::default());
        let asked = Arc::new(AtomicBool::new(false));
        let stream = WriteTimeoutStream::new(
            stream,
            app.config.limits.write_timeout,
            Arc::clone(&exchange),
            Arc::clone(&reset),
        );
        let service = {
            let (app, asked) = (Arc::clone(&app), Arc::clone(&asked));
            service_fn(move |request: Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                http::handle(
                    Arc::clone(&app),
                    ROUTES,
                    peer,
                    Arc::clone(&exchange),
                    request,
                )
            })
        };
        let connection = graceful.watch(protocol.serve_connection(TokioIo::new(stream), service));
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            app.metrics.table.connections.inc();
            tokio::select! {
                biased;
                // An error here is the client's: it left, or sent what is not HTTP.
                _ = connection => {}
                () = waited_enough(&app, &asked) => {}
            }
            reset.close().await;
            app.metrics.table.connections.dec();
            drop((permit, address_permit));
        });
    }
    drop(listeners);
    let grace = app.config.limits.shutdown_grace;
    if timeout(grace, graceful.shutdown()).await.is_err() {
        log::warn!("requests were still under way after {grace:?}; they are ended now");
        app.cut();
    }
    // Billing outlives its connection: wait until every request's place is back.
    let all = u32::try_from(app.config.limits.in_flight).unwrap_or(u32::MAX);
    if timeout(Duration::from_secs(5), app.in_flight.acquire_many(all))
        .await
        .is_err()
    {
        log::error!("some requests did not end");
    }
}

/// When a connection has been waited for: a moment after the stop where nobody has asked anything, as hyper waits for the
/// rest of a first head; else a little after the grace, time for an ended stream's last bytes to leave.
async fn waited_enough(app: &App, asked: &AtomicBool) {
    app.past_waiting().await;
    if asked.load(Ordering::Relaxed) {
        app.cut_off().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The next connection; `None` where one was not taken.
async fn accept(listeners: &[Listener], turn: &mut usize) -> Option<(Box<dyn Stream>, Peer)> {
    match listener::accept(listeners, turn).await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // A connection that failed before it was taken says nothing; no file descriptors left is worth a pause.
            if !matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset
            ) {
                log::error!("a connection was not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        }
    }
}

async fn discover(app: Arc<App>) {
    app.upstreams.discover().await;
}

async fn tell(app: Arc<App>) {
    let node = app.config.public_name();
    app.alerts.deliver_webhooks(&app.clock, &node).await;
}

/// Looks at the chain now and then, so that its halt is noticed and its last answer is there when it goes down, also where
/// no client asks for it.
async fn watch_chain(app: Arc<App>) {
    loop {
        tokio::time::sleep(Duration::from_secs(15)).await;
        if let Some(chain) = app.upstreams.chain() {
            // The breaker counts a failure and says when it opens.
            let _ = app.cached_chain_status(chain).await;
        }
    }
}

/// Adds the ledger up now and then.
async fn verify(app: Arc<App>) {
    let mut every = interval(Duration::from_secs(3600));
    loop {
        every.tick().await;
        if let Err(error) = app.verify_ledger().await {
            log::warn!("the ledger was not verified: {error}");
        }
    }
}

/// Makes copies by schedule: when the newest one is old enough, so that a restart neither repeats nor forgets one.
async fn back_up(app: Arc<App>) {
    const AGAIN: Duration = Duration::from_secs(60);
    let folder = app.config.backup.folder().map(std::path::Path::to_owned);
    let last = app.store.last_backup(folder.clone(), app.clock.now());
    let mut last = last.await.unwrap_or(None);
    if last.is_some() {
        app.metrics.backed_up(last);
    }
    let Some(every) = app.config.backup.every else {
        return;
    };
    let mut look = interval(Duration::from_secs(1));
    let (mut wait, mut not_before) = (AGAIN, app.clock.instant());
    loop {
        look.tick().await;
        let now = app.clock.now();
        let due = last.is_none_or(|last| last.plus(every) <= now || last > now);
        if !due || app.clock.instant() < not_before {
            continue;
        }
        let made = async {
            let made = app.back_up().await?;
            let keep = app.config.backup.keep;
            let now = app.clock.now();
            app.store
                .thin_out_backups(folder.clone(), keep, now)
                .await?;
            Ok::<_, StoreError>(made)
        };
        match made.await {
            Ok(made) => {
                log::info!("{} holds a copy of the database", made.file);
                (last, wait) = (Some(now), AGAIN);
            }
            Err(error) => {
                log::error!("no copy of the database was made: {error}; again in {wait:?}");
                not_before = app.clock.instant() + wait;
                wait = (wait * 2).min(Duration::from_secs(3600));
            }
        }
    }
}

/// Rolls up samples and deletes what was kept long enough. Apart from the other housekeeping, as after a long pause or an
/// import there may be much to do.
async fn compact(app: Arc<App>) {
    let mut every = interval(Duration::from_secs(60));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let retention = app.config.retention;
        if let Err(error) = app.store.compact(retention, app.clock.now()).await {
            log::warn!("samples were not rolled up or not deleted: {error}");
        }
    }
}

/// Closes the reservations that could not be closed. While there are none it sleeps: a timer that ticks for nothing keeps
/// waking a processor that rests.
async fn close_unwritten(app: Arc<App>) {
    loop {
        app.unwritten.wait_non_empty().await;
        let mut every = interval(Duration::from_secs(1));
        for round in 0u64.. {
            every.tick().await;
            // Soon after a fault of the storage; while it lasts not so often.
            if round > 0 && (app.store.is_ready() || round.is_multiple_of(10)) {
                billing::retry(&app).await;
            }
            if app.unwritten.len() == 0 {
                break;
            }
        }
    }
}

/// Writes into the ledger what the models counted, a little later.
async fn note_usage(app: Arc<App>) {
    loop {
        app.notes.wait_non_empty().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        billing::write_notes(&app).await;
    }
}

/// What is due now and then: what ran out, the last use of keys, limiter entries.
async fn housekeeping(app: Arc<App>) {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut every = interval_at(tokio::time::Instant::now() + MINUTE, MINUTE);
    loop {
        every.tick().await;
        app.limits.sweep();
        if let Err(error) = app.store.purge(app.clock.now()).await {
            log::warn!("what ran out was not deleted: {error}");
        }
        app.note_key_use().await;
    }
}
