//! r3mes-edge: the backend of a decentralised AI network as one process over one SQLite file.
//!
//! It keeps wallets, credits and hashed API keys, takes in a miner's statistics, forwards chat to a local inference
//! server for a price, reads the chain through a circuit breaker, and tells the operator how the node is doing. The
//! binary `r3mes-edge` is this library with a command line around it.
//!
//! # Inside another program
//! The library is a guest: the caller gives runtime, configuration, listener, clock and storage. It reads no environment,
//! handles no signal, installs no logger (it writes through [`log`]), prints nothing and keeps nothing global, so that
//! several servers run in one process. [`EdgeServer::shutdown`] ends what is under way and closes the storage; dropped,
//! a server stops at once.
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
//! // Beside HTTP, in the same process: the verbs that the routes use.
//! let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm")?;
//! let now = Clock::default().now();
//! let sample = Sample::new(wallet, now, 42.5, HashrateUnit::GradientsPerHour);
//! server.repository().record_samples(vec![sample], now).await?;
//!
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! | what a host wants | where it is |
//! |---|---|
//! | its own listener, clock, routes | [`Builder`] |
//! | direct calls without HTTP | [`EdgeServer::repository`], [`Repository`] |
//! | its own storage, or one around ours | [`Repository`] |
//! | to hear of changes | [`store::StoreObserver`] |
//! | settings from a file, or made in code | `Config::read` (feature `toml`), [`Config`] |
//! | keys for its clients | [`auth::issue`] |
//!
//! The folder `examples` has a program for each: `embed`, `miner_agent`, `own_routes`, `custom_store`, and `demo` with
//! stand-ins for everything around it.
//!
//! # Features
//! All are on by default; a host that has what they bring switches them off with `default-features = false`.
//!
//! | feature | what it brings | in this library |
//! |---|---|---|
//! | `cli` | the program `r3mes-edge`: command line, log, signals; with it `toml` | nothing |
//! | `page` | the operator's page at `/` | three rows of [`routes::ROUTES`] |
//! | `tls` | https to upstreams and webhooks | without it such an address is a [`StartError::Config`] |
//! | `toml` | the configuration from a file's text | `Config::read`, and what [`config`] names |
//!
//! # The modules, in reading order
//! [`routes`] is the table of everything that can be asked, [`openapi`] its description for clients; `http` takes a
//! request from top to bottom; `handlers` holds the business steps; `billing` owns the money of one chat; [`store`] says
//! what can be asked of the storage, with SQLite behind it; [`model`] and [`auth`] are the words of the domain;
//! [`import`] reads a database of the R3MES
//! backend; [`breaker`], [`cache`] and [`limits`] are the machines that keep it upright; [`upstream`] and `collector` ask other
//! programs; `alerts` and `metrics` tell how it is; [`server`] binds, accepts and stops.

// docs.rs, which builds with nightly, marks what needs a feature.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "a test that cannot go on may panic"
    )
)]

mod alerts;
mod app;
pub mod auth;
mod billing;
mod body;
pub mod breaker;
pub mod cache;
pub mod clock;
mod collector;
pub mod config;
mod deadline;
pub mod error;
mod handlers;
mod host_routes;
mod http;
pub mod import;
pub mod limits;
mod metrics;
pub mod model;
pub mod openapi;
pub mod routes;
pub mod server;
pub mod store;
mod stream;
pub mod upstream;
mod watch;

pub use clock::Clock;
pub use config::Config;
pub use server::{Builder, Caller, EdgeServer, StartError};
pub use store::{Repository, SqliteStore};
