//! The server inside another program, with that program's runtime, logger, listener and store; it needs no feature.
//!
//! `cargo run --example embed` serves until Ctrl-C over the database `embed.db` in this folder.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::{error::Error, path::Path, sync::Arc};

use r3mes_edge::{Config, EdgeServer, SqliteStore};

/// The host's logger. The library writes through `log` and installs nothing.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, line: &log::Metadata<'_>) -> bool {
        line.level() <= log::Level::Info
    }
    fn log(&self, line: &log::Record<'_>) {
        if self.enabled(line.metadata()) {
            eprintln!("host: {}", line.args());
        }
    }
    fn flush(&self) {}
}

// One thread is enough; so is any other runtime of tokio's with its time and I/O on.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    log::set_logger(&Lines).map(|()| log::set_max_level(log::LevelFilter::Info))?;
    let store = Arc::new(SqliteStore::open(Path::new("embed.db"), true)?);
    // Bound by the host, who may have got it from systemd or want any free port.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let builder = EdgeServer::builder(Config::default(), store).listener(listener);
    let server = builder.start().await?;
    println!("http://{}/health", server.local_addr());
    tokio::signal::ctrl_c().await?;
    // What is under way ends first. Merely dropped, the server would stop at once.
    server.shutdown().await;
    Ok(())
}
