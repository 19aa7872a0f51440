//! The real server with stand-ins around it, in one process: nothing else has to be installed to see everything work.
//!
//! `cargo run --release --example demo` prints curl lines to paste into another terminal and runs until Ctrl-C. The
//! stand-ins (an OpenAI-compatible inference server, a CometBFT chain, a miner's statistics page) make their answers up;
//! the server between them and curl is the one that ships. `--listen ADDR:PORT` listens elsewhere (port 0: any free one);
//! `--env-file FILE` writes the shell assignments to a file once it serves, for scripts; `--for-tools` leaves out the rates
//! and the pauses between words, for programs that ask faster than people.

#![allow(
    clippy::print_stdout,
    reason = "an example is a program: what it prints is what it shows"
)]

mod stand_ins;

use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::config::RatesConfig;
use r3mes_edge::model::{Credits, Wallet};
use r3mes_edge::store::{Actor, issue_key};
use r3mes_edge::{Clock, Config, EdgeServer, Repository, SqliteStore};
use stand_ins::{BLOCK_SECONDS, stand_in};
use tokio::signal::unix::{SignalKind, signal};

const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments {
        listen,
        env_file,
        for_tools,
    } = Arguments::read(std::env::args().skip(1))?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    // Before there is a folder: a signal that comes while it is being filled must not leave it behind.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let pause = Duration::from_millis(if for_tools { 1 } else { 120 });
    let inference = stand_in(stand_ins::inference, pause).await?;
    let chain = stand_in(stand_ins::chain, pause).await?;
    let miner = stand_in(stand_ins::miner, pause).await?;

    // Public reads by name, so that the printed lines work on every address that --listen may give.
    let config = format!(
        r#"
        listen = "{listen}"
        auth.public_reads = true
        chain.rpc = "http://{chain}"

        [[inference]]
        name = "stand-in"
        kind = "openai"
        url = "http://{inference}"

        [miner]
        url = "http://{miner}/stats"
        wallet = "{WALLET}"
        every = "2s"
        "#
    );
    let mut config = Config::read(&config, [])?;
    if for_tools {
        config.rates = RatesConfig::off();
    }
    let folder = Folder::make()?;
    config.database = folder.0.join("demo.db");
    let store = Arc::new(SqliteStore::open(&config.database, true)?);
    let (admin, key) = fill(&*store, config.auth.max_keys_per_wallet).await?;
    let server = EdgeServer::builder(config, store)
        .start()
        .await
        .map_err(|error| error.to_string())?;
    let edge = reachable(server.local_addr());

    let assignments =
        format!("EDGE='http://{edge}'\nADMIN='{admin}'\nWALLET='{WALLET}'\nKEY='{key}'\n");
    print!("{}", welcome(edge, [inference, chain, miner], &assignments));
    if let Some(file) = env_file {
        write_whole(&file, &assignments)?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.shutdown().await;
    drop(folder);
    println!("stopped; the temporary folder is removed");
    Ok(())
}

/// What stands on the command line.
struct Arguments {
    listen: SocketAddr,
    env_file: Option<PathBuf>,
    for_tools: bool,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut read = Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            env_file: None,
            for_tools: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--listen" => {
                    read.listen = value()?
                        .parse()
                        .map_err(|_| "--listen wants ADDR:PORT".to_owned())?;
                }
                "--env-file" => read.env_file = Some(PathBuf::from(value()?)),
                "--for-tools" => read.for_tools = true,
                _ => {
                    let usage = "demo takes [--listen ADDR:PORT] [--env-file FILE] [--for-tools]";
                    return Err(usage.to_owned());
                }
            }
        }
        Ok(read)
    }
}

/// A folder of our own that goes when the demo goes, also when it fails half-way.
struct Folder(PathBuf);

impl Folder {
    fn make() -> std::io::Result<Self> {
        // The standard library's only source of randomness; no secret is made of it, only an unused name.
        let suffix = std::hash::RandomState::new().build_hasher().finish();
        let name = format!("r3mes-edge-demo-{}-{suffix:016x}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // An error here has no reader; what stays is a small folder among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An admin key, and a wallet with a key and 100 credits, made before the server starts: from then on it is the only one
/// that writes.
async fn fill(store: &dyn Repository, max_keys: usize) -> Result<(String, String), Box<dyn Error>> {
    let actor = Actor::local(Clock::default().now());
    let wallet = Wallet::parse(WALLET)?;
    let request = |wallet, name: &str, scopes| KeyRequest {
        wallet,
        name: name.to_owned(),
        scopes,
        expires_at: None,
        login: false,
        limits: None,
    };
    let admin = request(None, "demo admin", Scopes::ADMIN);
    let admin = issue_key(store, admin, max_keys, actor.clone(), None).await?;
    let scopes = Scopes::parse(["chat", "read", "miner"])?;
    let key = request(Some(wallet), "demo", scopes);
    let key = issue_key(store, key, max_keys, actor.clone(), None).await?;
    let welcome = Credits::from_micro(100_000_000);
    store
        .grant(wallet, welcome, "welcome".to_owned(), None, actor, None)
        .await?;
    Ok((admin.key.reveal().to_owned(), key.key.reveal().to_owned()))
}

/// Where a client on this machine reaches a server that listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A script that waits for the file must never read half of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)?;
    std::fs::rename(part, file)
}

/// The lines to paste are the indented ones. None has a comment after it or a bare `?` in it, which zsh would trip over.
fn welcome(
    edge: SocketAddr,
    [inference, chain, miner]: [SocketAddr; 3],
    assignments: &str,
) -> String {
    let assignments: String = assignments
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    format!(
        r#"
The real r3mes-edge serves on http://{edge}, over a database that is thrown away at the end.
STAND-INS in this process make up what it reads:
- inference (OpenAI API)  http://{inference}        no model: it turns your words around
- chain (CometBFT RPC)    http://{chain}        a block every {BLOCK_SECONDS} s
- miner page              http://{miner}/stats  read every 2 s

Paste these lines into another terminal, one after the other (sh, bash, zsh); the keys die with this demo:

{assignments}
  curl -s -w '\n' $EDGE/users/$WALLET
  curl -sN $EDGE/chat -H "X-API-Key: $KEY" -d '{{"message":"Which words come back to me?"}}'
  curl -s -w '\n' $EDGE/users/$WALLET/ledger -H "X-API-Key: $KEY"
  curl -s -w '\n' $EDGE/miner/stats/$WALLET
  curl -s -w '\n' "$EDGE/miner/hashrate/$WALLET?hours=1"
  curl -s -w '\n' $EDGE/network/stats
  curl -s -w '\n' $EDGE/chain/status
  curl -s -w '\n' "$EDGE/blocks?limit=3"
  curl -s $EDGE/metrics | grep chat_
  curl -s -w '\n' $EDGE/health

The whole story, every answer checked, from the folder of the repository:

  EDGE=$EDGE ADMIN=$ADMIN bash examples/curl.sh

Ctrl-C ends the demo.
"#
    )
}
