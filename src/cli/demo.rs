//! `demo`: the real server with stand-ins around it, in one process, so that nothing else has to be installed to see
//! everything work. It prints curl lines to paste into another terminal and runs until SIGTERM or SIGINT.
//!
//! The stand-ins (an OpenAI-compatible inference server, a CometBFT chain, a miner's statistics page) make their answers up;
//! the server between them and its clients is the one that `serve` runs.

mod stand_ins;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::config::{LogFormat, RatesConfig};
use r3mes_edge::model::{Credits, Wallet};
use r3mes_edge::store::{Actor, issue_key};
use r3mes_edge::{Clock, Config, EdgeServer, Repository, SqliteStore};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::stand_ins::{BLOCK_SECONDS, stand_in};
use super::{Failure, GlobalArgs, Result, failed, logging};

const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

#[derive(Args)]
pub(super) struct DemoArgs {
    /// Write the shell assignments (EDGE, ADMIN, WALLET, KEY) to a file when it serves, for scripts [default: no file]
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Without rates, and without pauses between the words of a chat, for programs that ask faster than people
    #[arg(long)]
    for_tools: bool,
}

pub(super) async fn run(args: DemoArgs, global: &GlobalArgs, json: bool) -> Result {
    if global.config.is_some() || global.database.is_some() || global.admin_key_file.is_some() {
        let text =
            "demo has a configuration, a database and keys of its own: it takes --listen only";
        return Err(Failure::Usage(text.to_owned()));
    }
    // Before there is a folder: a signal that arrives while it is being filled must not leave it behind.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let pause = Duration::from_millis(if args.for_tools { 1 } else { 120 });
    let start = async |answer| stand_in(answer, pause).await.map_err(failed);
    let inference = start(stand_ins::inference).await?;
    let chain = start(stand_ins::chain).await?;
    let miner = start(stand_ins::miner).await?;

    // Public reads by name, so that the printed lines work on every address that --listen may give.
    let config = format!(
        r#"
        auth.public_reads = true
        chain.rpc = "http://{chain}"

        [[inference]]
        name = "stand-in"
        url = "http://{inference}"

        [miner]
        url = "http://{miner}/stats"
        wallet = "{WALLET}"
        every = "2s"
        "#
    );
    let mut config = Config::read(&config, [])?;
    if !global.listen.is_empty() {
        config.listen.clone_from(&global.listen);
    }
    if args.for_tools {
        config.rates = RatesConfig::off();
    }
    config.log.format = LogFormat::Text;
    logging::start(&config.log, "warn");
    let folder = TemporaryFolder::create().map_err(failed)?;
    config.database = folder.0.join("demo.db");
    let store = Arc::new(SqliteStore::open(&config.database, true)?);
    let (admin, key) = fill(&*store, config.auth.max_keys_per_wallet).await?;
    let server = EdgeServer::builder(config, store).start().await?;
    let edge = reachable(server.local_addr());

    let assignments =
        format!("EDGE='http://{edge}'\nADMIN='{admin}'\nWALLET='{WALLET}'\nKEY='{key}'\n");
    if json {
        let url = format!("http://{edge}");
        println!(
            "{}",
            json!({ "url": url, "admin_key": admin, "wallet_address": WALLET, "api_key": key })
        );
    } else {
        println!("{}", welcome(edge, [inference, chain, miner], &assignments));
    }
    if let Some(file) = &args.env_file {
        write_whole(file, &assignments).map_err(failed)?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.shutdown().await;
    drop(folder);
    if !json {
        println!("stopped; the temporary folder is removed");
    }
    Ok(())
}

/// Removed when the demo ends, also when its start fails.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn create() -> std::io::Result<Self> {
        // The standard library's only source of randomness; no secret is made of it, only an unused name.
        let suffix = RandomState::new().build_hasher().finish();
        let name = format!("r3mes-edge-demo-{}-{suffix:016x}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // An error here has no reader; what stays is a small folder among temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An admin key, and a wallet with a key and 100 credits, made before the server starts: from then on it is the only one
/// that writes.
async fn fill(store: &dyn Repository, max_keys: usize) -> Result<(String, String)> {
    let actor = Actor::local(Clock::default().now());
    let wallet = Wallet::parse(WALLET).map_err(failed)?;
    let request = |wallet, name: &str, scopes| KeyRequest {
        wallet,
        name: name.to_owned(),
        scopes,
        expires_at: None,
        login: false,
        limits: None,
    };
    let admin = request(None, "demo admin", Scopes::ADMIN);
    let admin = issue_key(store, admin, max_keys, actor.clone(), None)
        .await
        .map_err(failed)?;
    let scopes = Scopes::parse(["chat", "read", "miner"]).map_err(failed)?;
    let key = request(Some(wallet), "demo", scopes);
    let key = issue_key(store, key, max_keys, actor.clone(), None)
        .await
        .map_err(failed)?;
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
        r#"Open http://{edge}/

That is the page of a real r3mes-edge, over a database that is deleted at the end. To sign in there, paste one of the keys
below. STAND-INS in this process make up what it reads:
- inference (OpenAI API)  http://{inference}        no model: it turns your words around
- chain (CometBFT RPC)    http://{chain}        a block every {BLOCK_SECONDS} s
- miner page              http://{miner}/stats  read every 2 s

Or paste these lines into another terminal, one after the other (sh, bash, zsh); the keys end with this demo:

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

The same and more with every answer checked, from the folder of the repository:

  EDGE=$EDGE ADMIN=$ADMIN bash examples/curl.sh

Ctrl-C ends the demo."#
    )
}
