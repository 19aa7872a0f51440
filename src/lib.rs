//! r3mes-edge: the backend of a decentralised AI network as one process over one SQLite file.
//!
//! It stores wallets, credits and hashed API keys, receives miners' telemetry, forwards paid chat to local inference
//! servers, reads the chain through a circuit breaker, and reports the state of the node. The binary `r3mes-edge` is this
//! library with a command line around it.
//!
//! # Embedding
//! The caller provides runtime, configuration, listener, clock and storage. The library reads no environment, handles no
//! signal, installs no logger (it writes through [`log`]), prints nothing and has no global state, so that several servers
//! run in one process. [`EdgeServer::shutdown`] ends what is in flight and closes the storage; a dropped server stops
//! immediately.
//!
//! Types that are read from a text implement [`FromStr`](std::str::FromStr) with [`model::ParseError`].
//!
//! ```
//! use std::sync::Arc;
//! use r3mes_edge::model::{HashrateUnit, Sample, Wallet};
//! use r3mes_edge::{Clock, Config, EdgeServer, SqliteStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("edge.db");
//! let store = Arc::new(SqliteStore::open(&file, true)?);
//! let mut config = Config::default();
//! config.listen = vec!["127.0.0.1:0".parse()?];
//! let server = EdgeServer::builder(config, store).start().await?;
//! println!("http://{}", server.local_addr());
//!
//! // The same operations as over HTTP, in the same process.
//! let wallet: Wallet = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm".parse()?;
//! let now = Clock::default().now();
//! let sample = Sample::new(wallet, now, 42.5, HashrateUnit::GradientsPerHour);
//! server.repository().record_samples(vec![sample], 1000, now).await?;
//!
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Sharing
//! Host and server use one store, each through an [`Arc`](std::sync::Arc) of it, from any number of tasks. The server
//! observes the store: what the host changes shows in the next response, a key that it revokes is refused from then on.
//! The server itself is shared in the same way, so that one task stops it while another waits for its end.
//!
//! ```
//! use std::sync::Arc;
//! use r3mes_edge::model::Credits;
//! use r3mes_edge::store::Actor;
//! use r3mes_edge::{Clock, Config, EdgeServer, Repository, SqliteStore};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";
//!
//! /// The answer of the server, by HTTP.
//! async fn get(server: &EdgeServer, path: &str) -> std::io::Result<String> {
//!     let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await?;
//!     let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
//!     stream.write_all(request.as_bytes()).await?;
//!     let mut answer = String::new();
//!     stream.read_to_string(&mut answer).await?;
//!     Ok(answer)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("edge.db");
//! # let mut config = Config::default();
//! # config.listen = vec!["127.0.0.1:0".parse()?];
//! let store = Arc::new(SqliteStore::open(&file, true)?);
//! let server = EdgeServer::builder(config, Arc::clone(&store) as _).start().await?;
//! let server = Arc::new(server);
//!
//! let path = format!("/users/{WALLET}");
//! assert!(get(&server, &path).await?.starts_with("HTTP/1.1 404"));
//! // Another task of the host grants credits, and the next answer has them.
//! let granting = tokio::spawn({
//!     let store = Arc::clone(&store);
//!     async move {
//!         let (wallet, five): (_, Credits) = (WALLET.parse()?, "5".parse()?);
//!         let actor = Actor::local(Clock::default().now());
//!         store.grant(wallet, five, "welcome".to_owned(), None, actor, None).await?;
//!         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//!     }
//! });
//! granting.await?.map_err(|error| error.to_string())?;
//! assert!(get(&server, &path).await?.contains("\"credits\":5"));
//!
//! // A task stops the server, at a signal, say; this one waits until everything is written.
//! let stopping = Arc::clone(&server);
//! tokio::spawn(async move { stopping.shutdown().await });
//! server.stopped().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to find what
//! | for | see |
//! |---|---|
//! | an own listener, clock or routes | [`Builder`] |
//! | direct calls without HTTP | [`EdgeServer::repository`], [`Repository`] |
//! | another storage, or one around ours | [`Repository`] |
//! | changes as they are committed, with wallet and amount | [`store::StoreObserver`] |
//! | keys at a listener of the host's own | [`EdgeServer::authenticate`] |
//! | settings from a file, or made in code | `Config::read` (feature `toml`), [`Config`] |
//! | API keys | [`store::issue_key`] |
//!
//! The folder `examples` has a program for each: `embed`, `miner_agent`, `own_routes`, `custom_store`. `r3mes-edge demo`
//! is the program with stand-ins for everything around it.
//!
//! # SQLite's options
//! SQLite is compiled from its source, with the options of the program that embeds this library: cargo reads
//! `.cargo/config.toml` of the folder that it is called in, not ours, and no build script can set them for another crate.
//! Nothing depends on them for its correctness. What can be set at run time the store sets for each connection itself;
//! extensions are never loaded, and page caches are not shared between connections. The rest has to be compiled in, as it is
//! one setting for the whole process that no safe call changes. The last two lines are for speed: with
//! `SQLITE_ENABLE_MEMORY_MANAGEMENT` and the counting of memory, the connections that read wait for each other at two locks,
//! and without fdatasync(2) a commit writes the time of the file's last change too. The others leave out what the store does
//! not use; drop those whose feature the program itself needs (JSON, full-text search, R-trees, extensions).
//!
//! In `.cargo/config.toml` of the program:
//!
//! ```toml
//! [env]
//! LIBSQLITE3_FLAGS = """\
//!   -USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS3_PARENTHESIS -USQLITE_ENABLE_FTS5 -USQLITE_ENABLE_RTREE \
//!   -USQLITE_ENABLE_DBSTAT_VTAB -USQLITE_SOUNDEX -DSQLITE_OMIT_JSON \
//!   -USQLITE_ENABLE_LOAD_EXTENSION -DSQLITE_OMIT_LOAD_EXTENSION \
//!   -USQLITE_ENABLE_MEMORY_MANAGEMENT -DSQLITE_DEFAULT_MEMSTATUS=0 \
//!   -DHAVE_FDATASYNC=1"""
//! ```
//!
//! [`store::sqlite_compile_options`] has those of the running process:
//!
//! ```
//! let options = r3mes_edge::store::sqlite_compile_options()?;
//! if !options.iter().any(|option| option == "DEFAULT_MEMSTATUS=0") {
//!     println!("SQLite counts its memory under a lock; set LIBSQLITE3_FLAGS");
//! }
//! # Ok::<_, r3mes_edge::store::StoreError>(())
//! ```
//!
//! # Features
//! All are on by default; disable them with `default-features = false`.
//!
//! | feature | what it adds | in this library |
//! |---|---|---|
//! | `cli` | the program `r3mes-edge`: command line, log, signals; with it `toml` | nothing |
//! | `page` | the operator's page at `/` | three rows of [`routes::ROUTES`] |
//! | `tls` | https to upstreams and webhooks | without it such an address is a [`StartError::Config`] |
//! | `toml` | the configuration from a file's text | `Config::read`, and what [`config`] names |
//!
//! # The modules, in reading order
//! | module | what it holds |
//! |---|---|
//! | [`config`] | types with defaults, loading, validation |
//! | [`server`], `tasks`, `shutdown` | builder, listeners, connections; background tasks; the stages of a shutdown |
//! | `http`, `host_routes` | one request from top to bottom; routes of an embedding program |
//! | [`routes`], `handlers`, [`openapi`] | the table of routes, what each does, its description for clients |
//! | `app` | the state that every request shares |
//! | [`auth`], [`limits`], [`cache`], [`breaker`] | API keys and wallet login; rate limits; responses; circuit breaker |
//! | `billing` | one paid chat, from the hold to the charge |
//! | [`upstream`], `stream` | clients of inference servers, chain and miner |
//! | [`store`] | the [`Repository`] trait and SQLite behind it |
//! | [`error`], `metrics`, `alerts`, `monitoring` | errors for clients; figures; rules over them |
//! | [`model`], [`clock`] | the types of the domain; the time |

// docs.rs, which builds with nightly, marks what needs a feature.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
// A test that cannot go on may panic.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod alerts;
mod app;
pub mod auth;
mod billing;
mod body;
pub mod breaker;
pub mod cache;
pub mod clock;
pub mod config;
pub mod error;
mod handlers;
mod host_routes;
mod http;
pub mod limits;
mod metrics;
pub mod model;
mod monitoring;
pub mod openapi;
pub mod routes;
pub mod server;
mod shutdown;
pub mod store;
mod stream;
mod tasks;
mod timings;
pub mod upstream;

pub use clock::Clock;
pub use config::Config;
pub use server::{AuthError, Builder, Caller, EdgeServer, StartError};
pub use store::{Repository, SqliteStore};
