//! r3mes-edge: the backend of a decentralised AI network as one process over one SQLite file.
//!
//! It keeps wallets, credits and hashed API keys, takes in a miner's statistics, forwards chat to a local inference
//! server for a price, reads the chain through a circuit breaker, and tells the operator how the node is doing. The
//! binary `r3mes-edge` is this library with a command line around it; the library itself reads no environment, handles
//! no signal and installs no logger.
//!
//! ```no_run
//! use std::sync::Arc;
//! use r3mes_edge::{Config, EdgeServer, SqliteStore};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(SqliteStore::open("r3mes-edge.db".as_ref(), true)?);
//! let server = EdgeServer::builder(Config::default(), store).start().await?;
//! println!("http://{}", server.local_addr());
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The modules, in reading order
//! `routes` is the table of everything that can be asked, [`openapi`] its description for clients; `pipeline` takes a request from top to bottom; `handlers` holds
//! the business steps; `billing` owns the money of one chat; [`store`] says what can be asked of the storage, with SQLite
//! behind it; [`model`] and [`auth`] are the words of the domain; [`breaker`], [`cache`] and [`limits`] are the machines
//! that keep it upright; `upstream` and `collector` ask other programs; `server` binds, accepts and stops.

#![forbid(unsafe_code)]
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
mod call;
pub mod clock;
mod collector;
pub mod config;
pub mod error;
mod handlers;
pub mod limits;
mod metrics;
pub mod model;
pub mod openapi;
mod pipeline;
pub mod routes;
pub mod server;
pub mod store;
mod stream;
pub mod upstream;
mod watch;

pub use clock::Clock;
pub use config::Config;
pub use server::{Builder, EdgeServer, StartError};
pub use store::{Repository, SqliteStore};
