//! The server: builder, bind, serve, graceful shutdown.
//!
//! It reads no environment, handles no signal and installs no logger: it is a guest in its caller's process.

mod check;
mod connection;
mod io_timeout;
mod listener;
mod local;
mod probe;
mod reset;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::listener::Listener;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::host_routes::HostRoutes;
use crate::store::Repository;
use crate::{routes, tasks};

pub use self::check::check;
pub use self::local::serve_local;
pub use crate::host_routes::Caller;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {0}: {1}")]
    Bind(Listen, std::io::Error),
    /// The configuration, or a file or folder it names, is invalid; names the key.
    #[error("{0}")]
    Config(String),
}

/// Everything a server is started with.
pub struct Builder {
    config: Config,
    store: Arc<dyn Repository>,
    listener: Option<TcpListener>,
    clock: Clock,
    own: Vec<HostRoutes>,
}

impl Builder {
    /// Uses a bound listener instead of binding `config.listen`.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Uses this clock instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Adds routes of the embedding program: requests for `prefix` and below it go to `handler`, unless a route of ours
    /// matches. They pass the same checks as all others (connections, hosts, origins, keys, rates of the class `read`),
    /// have a request id and an access log line, and are the one route `own` in the metrics. The caller is in the request's
    /// extensions as [`Caller`]; to authorise it is for the handler. A panic in it is a 500.
    ///
    /// The body has not been read and has no size limit (see `http_body_util::Limited`). The handler is dropped when its
    /// client disconnects.
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
    /// [`StartError::Bind`] where an address cannot be bound; then none is. [`StartError::Config`] for an invalid
    /// configuration. A storage with a fault makes the server not ready.
    ///
    /// # Panics
    /// Outside a tokio runtime, or in one without I/O and time.
    pub async fn start(self) -> Result<EdgeServer, StartError> {
        let (mut config, store, clock) = (self.config, self.store, self.clock);
        if let Some(error) = self.own.iter().find_map(HostRoutes::invalid_prefix) {
            return Err(StartError::Config(error));
        }
        if let Some((key, message)) = config.auth.invalid() {
            return Err(StartError::Config(format!("auth.{key}: {message}")));
        }
        let sockets = match self.listener {
            Some(listener) => vec![Listener::Tcp(listener)],
            None => Listener::bind_all(&config.listen).await?,
        };
        // Access rules depend on the addresses that were really bound.
        let listeners: Result<Vec<_>, _> = sockets.iter().map(Listener::address).collect();
        config.listen = listeners
            .map_err(|error| StartError::Config(format!("a listener has no address: {error}")))?;
        for risk in config.risks() {
            log::warn!("{}", risk.text);
        }
        let app = App::new(config, store, clock, self.own, routes::labels());
        let app = app.map_err(StartError::Config)?;
        app.resume_clock().await;
        let mut serving = JoinSet::new();
        serving.spawn(connection::serve(Arc::clone(&app), sockets));
        Ok(EdgeServer {
            tasks: tasks::start(&app),
            serving,
            app,
        })
    }
}

/// A running server. [`EdgeServer::shutdown`] stops it gracefully; dropped, it stops immediately.
pub struct EdgeServer {
    app: Arc<App>,
    serving: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl EdgeServer {
    /// A server with this configuration and storage; everything else has defaults.
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

    /// The storage, for direct calls. The server observes what they change: its responses follow immediately, and a revoked
    /// key is refused.
    #[must_use]
    pub fn repository(&self) -> &Arc<dyn Repository> {
        &self.app.store
    }

    /// Every address it listens on, in the order of the configuration.
    #[must_use]
    pub fn listeners(&self) -> &[Listen] {
        &self.app.config.listen
    }

    /// The first TCP address it listens on; `0.0.0.0:0` where it listens on Unix sockets only.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let first = self.listeners().iter().find_map(Listen::address);
        first.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Applies the rates and alerts of another configuration from the next request on; everything else stays as it was
    /// started. Every bucket is full then.
    pub fn reload(&self, config: &Config) {
        self.app.reload(config);
    }

    /// Stops gracefully: no new connections or requests; what is in flight has `limits.shutdown_grace`, then it is aborted
    /// and charged or released. Returns when everything is written and the storage is closed.
    pub async fn shutdown(mut self) {
        self.app.shutdown.drain();
        self.tasks.abort_all();
        // Bounded by the grace; the runtime has logged a panic.
        let _ = self.serving.join_next().await;
        self.app.record_key_use().await;
        tasks::record_clock(Arc::clone(&self.app)).await;
        let store = Arc::clone(&self.app.store);
        let closed = tokio::task::spawn_blocking(move || store.close());
        if closed.await.is_err() {
            log::error!("the storage was not closed cleanly");
        }
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        self.app.shutdown.abort();
    }
}
