use std::time::Duration;

use tokio::time::timeout;

use super::UpstreamError;
use super::discovery::Upstreams;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::Timestamp;

/// What a [`ProbeResult`] upstream is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamKind {
    /// An inference server.
    Inference,
    /// The chain's RPC.
    Chain,
    /// The miner's statistics page.
    Miner,
}

/// An upstream that [`survey`] asked once.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    /// What it is.
    pub kind: UpstreamKind,
    /// Its name, as in health and metrics.
    pub name: String,
    /// Where it was asked.
    pub url: String,
    /// Whether the configuration names it; else it was looked for where such a thing usually is.
    pub configured: bool,
    /// What went wrong.
    pub answered: Result<(), UpstreamError>,
    /// When the newest block was made, of a chain that is not catching up.
    pub block_time: Option<Timestamp>,
}

/// Asks every upstream that is configured, or that may be where such things usually are, once and all at the same time;
/// takes a few seconds at most.
///
/// # Errors
/// A sentence that names the setting whose file cannot be used.
///
/// # Example
/// ```
/// use r3mes_edge::Config;
/// use r3mes_edge::config::{InferenceConfig, InferenceKind};
/// use r3mes_edge::upstream::{UpstreamError, UpstreamKind, survey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Nobody listens here any more.
/// let gone = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// let mut config = Config::default();
/// config.discover = false;
/// let node = InferenceConfig::new("llama", InferenceKind::OpenAi, &format!("http://{gone}"));
/// config.inference.push(node);
/// let found = survey(&config).await?;
/// assert_eq!((found.len(), found[0].kind, found[0].configured), (1, UpstreamKind::Inference, true));
/// assert!(matches!(found[0].answered, Err(UpstreamError::Connect(_))));
/// # Ok(())
/// # }
/// ```
pub async fn survey(config: &Config) -> Result<Vec<ProbeResult>, String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let Upstreams {
        nodes,
        chain,
        miner,
        ..
    } = Upstreams::new(config, &Clock::default())?;
    let mut asked = Vec::new();
    let about = |kind, at: &super::Endpoint| ProbeResult {
        kind,
        name: at.breaker().name().to_owned(),
        url: at.url().to_owned(),
        configured: at.is_present(),
        answered: Err(UpstreamError::Timeout("an answer")),
        block_time: None,
    };
    for node in nodes {
        let mut about = about(UpstreamKind::Inference, &node.at);
        asked.push(tokio::spawn(async move {
            let probe = async {
                node.probe().await?;
                node.check_chat().await
            };
            if let Ok(answered) = timeout(PATIENCE, probe).await {
                about.answered = answered;
            }
            about
        }));
    }
    if let Some(chain) = chain {
        let mut about = about(UpstreamKind::Chain, &chain.at);
        asked.push(tokio::spawn(async move {
            if let Ok(answered) = timeout(PATIENCE, chain.status()).await {
                let status = answered.as_ref().ok().filter(|status| !status.catching_up);
                about.block_time = status.map(|status| status.latest_block_time);
                about.answered = answered.map(drop);
            }
            about
        }));
    }
    if let Some(miner) = miner {
        let mut about = about(UpstreamKind::Miner, &miner.at);
        asked.push(tokio::spawn(async move {
            if let Ok(answered) = timeout(PATIENCE, miner.ask()).await {
                about.answered = answered.map(drop);
            }
            about
        }));
    }
    let mut all = Vec::with_capacity(asked.len());
    for one in asked {
        all.extend(one.await);
    }
    Ok(all)
}
