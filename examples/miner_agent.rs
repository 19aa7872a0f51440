//! A miner agent with the server in it: it records its samples by a direct call, without HTTP and without a key, and
//! everybody else reads them over HTTP at once.
//!
//! `cargo run --example miner_agent` mines nothing for `WALLET` every second until Ctrl-C, over `miner_agent.db` in this
//! folder.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use r3mes_edge::model::{HashrateUnit, Sample, Timestamp, Wallet};
use r3mes_edge::{Clock, Config, EdgeServer, SqliteStore};

const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Parsed once: a wallet that exists has a right checksum.
    let wallet = Wallet::parse(WALLET)?;
    let mut config = Config::default();
    // Any free port; an agent on a node would keep the usual 8000.
    config.listen = vec!["127.0.0.1:0".parse()?];
    let store = Arc::new(SqliteStore::open(Path::new("miner_agent.db"), true)?);
    let server = EdgeServer::builder(config, store).start().await?;
    println!("http://{}/miner/stats/{WALLET}", server.local_addr());

    let clock = Clock::default();
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let stopped = tokio::signal::ctrl_c();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            done = &mut stopped => break done?,
        }
        let now = clock.now();
        // The same verb that `POST /miner/stats` uses: it returns once the sample is on the disk.
        let recorded = server
            .repository()
            .record_samples(vec![read(wallet, now)], 1000, now);
        // A full disk is no reason to stop mining; the next sample may fit.
        if let Err(error) = recorded.await {
            eprintln!("a sample was not recorded: {error}");
        }
    }
    server.shutdown().await;
    Ok(())
}

/// What a real agent would read from its card.
fn read(wallet: Wallet, now: Timestamp) -> Sample {
    let hashrate = 40.0 + (now.millis() % 5000) as f64 / 1000.0;
    Sample {
        worker: "rig-1".to_owned(),
        gpu_temperature: Some(61.5),
        // What is not known stays `None`, which is not zero.
        ..Sample::new(wallet, now, hashrate, HashrateUnit::GradientsPerHour)
    }
}
