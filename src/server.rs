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

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use self::listener::Listener;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::host_routes::HostRoutes;
use crate::store::Repository;
use crate::{http, routes, tasks};

pub use self::check::check;
pub use self::local::serve_local;
pub use crate::host_routes::Caller;
pub use crate::http::AuthError;

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
        let background = tasks::start(&app);
        let running = Running {
            serving,
            background,
        };
        Ok(EdgeServer {
            running: Mutex::new(Some(running)),
            app,
        })
    }
}

/// A running server. [`EdgeServer::shutdown`] stops it gracefully; dropped, it stops immediately. Shared in an [`Arc`], one
/// task can stop it while others wait for its [end](EdgeServer::stopped).
pub struct EdgeServer {
    app: Arc<App>,
    running: Mutex<Option<Running>>,
}

/// The tasks of a server that was not stopped yet.
struct Running {
    serving: JoinSet<()>,
    background: JoinSet<()>,
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

    /// The owner of an API key that came by a listener of the host's own, if the key is valid and has `scope` (any key is
    /// enough where it is `None`; an admin's has every scope). As over HTTP, a key in use is cached, a revoked one is refused
    /// from the next call on, and what is no valid key counts against the rate `failures` of its sender's address; the other
    /// rates, and what the key itself may use ([`Principal::limits`]), are for the host to apply. The key of a blocked account is
    /// refused for [`Scope::Chat`] only, and reads otherwise ([`Principal::is_blocked`]).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// use std::net::Ipv4Addr;
    /// use r3mes_edge::auth::{KeyRequest, Scope};
    /// use r3mes_edge::store::{Actor, issue_key};
    /// use r3mes_edge::{AuthError, Clock, Config, EdgeServer, Repository, SqliteStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let file = folder.path().join("edge.db");
    /// # let mut config = Config::default();
    /// # config.listen = vec!["127.0.0.1:0".parse()?];
    /// let store = Arc::new(SqliteStore::open(&file, true)?);
    /// let server = EdgeServer::builder(config, Arc::clone(&store) as _).start().await?;
    /// let wallet = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm".parse()?;
    /// let request = KeyRequest {
    ///     wallet: Some(wallet),
    ///     name: "rig".to_owned(),
    ///     scopes: "miner".parse()?,
    ///     expires_at: None,
    ///     login: false,
    ///     limits: None,
    /// };
    /// let actor = || Actor::local(Clock::default().now());
    /// let issued = issue_key(&*store, request, 10, actor(), None).await?;
    ///
    /// let (sent, client) = (issued.key.reveal(), Ipv4Addr::LOCALHOST.into());
    /// let caller = server.authenticate(sent, Some(Scope::Miner), client).await?;
    /// assert_eq!(caller.wallet, Some(wallet));
    /// let refused = server.authenticate(sent, Some(Scope::Chat), client).await;
    /// assert_eq!(refused, Err(AuthError::MissingScope(Scope::Chat)));
    /// store.revoke_key(issued.record.id, None, actor()).await?;
    /// let refused = server.authenticate(sent, None, client).await;
    /// assert_eq!(refused, Err(AuthError::Revoked));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why the key is refused, or [`AuthError::Store`].
    pub async fn authenticate(
        &self,
        key: &str,
        scope: Option<Scope>,
        client: IpAddr,
    ) -> Result<Principal, AuthError> {
        http::authenticate(&self.app, key, scope, client).await
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
    /// and charged or released. Returns when everything is written and the storage is closed, also where another call began
    /// it. If its future is dropped, the next call goes on.
    pub async fn shutdown(&self) {
        self.app.shutdown.drain();
        let mut guard = self.running.lock().await;
        let Some(running) = guard.as_mut() else {
            return;
        };
        running.background.abort_all();
        // Bounded by the grace; the runtime has logged a panic.
        let _ = running.serving.join_next().await;
        self.app.record_key_use().await;
        tasks::record_clock(Arc::clone(&self.app)).await;
        let store = Arc::clone(&self.app.store);
        let closed = tokio::task::spawn_blocking(move || store.close());
        if closed.await.is_err() {
            log::error!("the storage was not closed cleanly");
        }
        *guard = None;
    }

    /// Waits for a call of [`shutdown`](Self::shutdown) in another task, and then for its end.
    pub async fn stopped(&self) {
        self.app.shutdown.draining().await;
        self.shutdown().await;
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        self.app.shutdown.abort();
    }
}
