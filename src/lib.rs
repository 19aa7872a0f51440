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
//! let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
//! let now = Clock::default().now();
//! let sample = Sample::new(wallet, now, 42.5, HashrateUnit::GradientsPerHour);
//! server.repository().record_samples(vec![sample], 1000, now).await?;
//!
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! | for | see |
//! |---|---|
//! | an own listener, clock or routes | [`Builder`] |
//! | direct calls without HTTP | [`EdgeServer::repository`], [`Repository`] |
//! | another storage, or one around ours | [`Repository`] |
//! | changes as they are committed | [`store::StoreObserver`] |
//! | settings from a file, or made in code | `Config::read` (feature `toml`), [`Config`] |
//! | API keys | [`store::issue_key`] |
//!
//! The folder `examples` has a program for each: `embed`, `miner_agent`, `own_routes`, `custom_store`. `r3mes-edge demo`
//! is the program with stand-ins for everything around it.
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
pub use server::{Builder, Caller, EdgeServer, StartError};
pub use store::{Repository, SqliteStore};
