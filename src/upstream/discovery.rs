//! Where upstreams are looked for when nobody configured them.
//!
//! Each conventional address gets its upstream at the start, absent until something answers there; it is looked for
//! again every minute, and once found it stays: from then on its breaker says how it is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::chain::Chain;
use super::inference::Node;
use super::miner::MinerPage;
use super::{Endpoint, HttpClient, bearer, tls};
use crate::breaker::Breaker;
use crate::clock::Clock;
use crate::config::{Config, InferenceConfig, InferenceKind};

/// Every upstream there is or may be.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) chain: Option<Arc<Chain>>,
    pub(crate) miner: Option<Arc<MinerPage>>,
    conventional: Conventional,
}

#[derive(Debug, Default)]
struct Conventional {
    nodes: bool,
    chain: bool,
    miner: bool,
}

const CONVENTIONAL_NODES: [(&str, InferenceKind, &str); 3] = [
    ("r3mes-node", InferenceKind::R3mes, "http://127.0.0.1:8081"),
    ("ollama", InferenceKind::OpenAi, "http://127.0.0.1:11434"),
    ("llama.cpp", InferenceKind::OpenAi, "http://127.0.0.1:8080"),
];
const CONVENTIONAL_CHAIN: &str = "http://127.0.0.1:26657";
const CONVENTIONAL_MINER: &str = "http://127.0.0.1:8080/stats";

impl Upstreams {
    /// Upstreams as configured, and conventional ones where nothing is.
    ///
    /// # Errors
    /// A sentence that names the setting whose file cannot be used.
    pub(crate) fn new(config: &Config, clock: &Clock) -> Result<Self, String> {
        let common = HttpClient::new(None)?;
        let endpoint = |name: &str, url: String, ca_file: Option<&Path>, present: bool| {
            let setting = if name == "chain" { "rpc" } else { "url" };
            // One that is no address at all is told of when it is asked.
            let speakable = url.parse().map_or(Ok(()), |url| tls::check(&url));
            speakable.map_err(|what| format!("{setting}: {what}"))?;
            let breaker = Breaker::new(name, config.breaker.clone(), clock.clone());
            let client = match ca_file {
                Some(_) => HttpClient::new(ca_file),
                None => Ok(common.clone()),
            };
            client.map(|client| Endpoint::new(url, client, breaker, present))
        };
        let conventional = Conventional {
            nodes: config.discover && config.inference.is_empty(),
            chain: config.discover && config.chain.rpc.is_none(),
            miner: config.discover && config.miner.url.is_none(),
        };
        let configured: Vec<InferenceConfig> = if conventional.nodes {
            let node = |(name, kind, url)| InferenceConfig::new(name, kind, url);
            CONVENTIONAL_NODES.into_iter().map(node).collect()
        } else {
            config.inference.clone()
        };
        let nodes = configured.into_iter().map(|mut node| {
            if node.adapters.is_empty() {
                node.adapters.push(config.chat.default_adapter.clone());
            }
            let named = |what: String| format!("inference {:?}: {what}", node.name);
            let (url, ca_file) = (node.url.clone(), node.ca_file.as_deref());
            let mut at = endpoint(&node.name, url, ca_file, !conventional.nodes).map_err(named)?;
            if node.kind == InferenceKind::R3mes {
                at = at.without_keep_alive();
            }
            let token = node.api_key_file.as_deref().map(bearer).transpose();
            let token = token.map_err(|what| named(format!("api_key_file {what}")))?;
            Ok(Arc::new(Node::new(
                at.with_token(token),
                node,
                config.chat.in_flight,
                config.chat.queue,
            )))
        });
        let nodes = nodes.collect::<Result<_, String>>()?;
        let rpc = config
            .chain
            .rpc
            .clone()
            .or_else(|| conventional.chain.then(|| CONVENTIONAL_CHAIN.to_owned()));
        let chain = rpc.map(|rpc| {
            let ca_file = config.chain.ca_file.as_deref();
            let at = endpoint("chain", rpc, ca_file, !conventional.chain)?;
            Ok(Arc::new(Chain::new(at, config.chain.timeout)))
        });
        let chain = chain
            .transpose()
            .map_err(|what: String| format!("chain.{what}"))?;
        let url = config
            .miner
            .url
            .clone()
            .or_else(|| conventional.miner.then(|| CONVENTIONAL_MINER.to_owned()));
        let miner = url.map(|url| {
            let ca_file = config.miner.ca_file.as_deref();
            let at = endpoint("miner", url, ca_file, !conventional.miner)?;
            Ok(Arc::new(MinerPage::new(at, &config.miner)))
        });
        let miner = miner
            .transpose()
            .map_err(|what: String| format!("miner.{what}"))?;
        Ok(Self {
            nodes,
            chain,
            miner,
            conventional,
        })
    }

    /// The breakers of everything that is there.
    pub(crate) fn breakers(&self) -> impl Iterator<Item = &Arc<Breaker>> {
        let nodes = self.nodes.iter().map(|node| &node.at);
        let others = self
            .chain
            .iter()
            .map(|chain| &chain.at)
            .chain(self.miner.iter().map(|miner| &miner.at));
        nodes
            .chain(others)
            .filter(|at| at.is_present())
            .map(Endpoint::breaker)
    }

    /// The chain, if one is configured or was found.
    pub(crate) fn chain(&self) -> Option<&Arc<Chain>> {
        self.chain.as_ref().filter(|chain| chain.at.is_present())
    }

    /// Says what is there, what is not, and looks again every minute; never returns.
    pub(crate) async fn discover(&self) {
        for node in self.nodes.iter().filter(|node| node.at.is_present()) {
            log::info!(
                "inference {} at {}",
                node.at.breaker().name(),
                node.at.url()
            );
        }
        for chain in self.chain.iter().filter(|chain| chain.at.is_present()) {
            log::info!("chain at {}", chain.at.url());
        }
        for miner in self.miner.iter().filter(|miner| miner.at.is_present()) {
            log::info!("miner at {}", miner.at.url());
        }
        let mut first = true;
        loop {
            self.look(first).await;
            if std::mem::take(&mut first) {
                self.report_absent();
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }

    async fn look(&self, first: bool) {
        let again = if first { "" } else { " now" };
        for node in self.nodes.iter().filter(|node| !node.at.is_present()) {
            if node.look().await {
                log::info!(
                    "found{again} inference {} at {}",
                    node.at.breaker().name(),
                    node.at.url()
                );
            }
        }
        for chain in self.chain.iter().filter(|chain| !chain.at.is_present()) {
            if chain.look().await {
                log::info!("found{again} a chain at {}", chain.at.url());
            }
        }
        for miner in self.miner.iter().filter(|miner| !miner.at.is_present()) {
            if miner.look().await {
                log::info!("found{again} a miner at {}", miner.at.url());
            }
        }
    }

    fn report_absent(&self) {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| !node.at.is_present())
            .map(|node| node.at.url())
            .collect();
        if self.conventional.nodes && nodes.len() == self.nodes.len() {
            log::info!(
                "no inference server at {}: chat is off until one is there (looking every minute)",
                nodes.join(", ")
            );
        }
        if let Some(chain) = self
            .chain
            .iter()
            .find(|chain| self.conventional.chain && !chain.at.is_present())
        {
            log::info!(
                "no chain at {}: blocks are off until one is there (looking every minute)",
                chain.at.url()
            );
        }
        if let Some(miner) = self
            .miner
            .iter()
            .find(|miner| self.conventional.miner && !miner.at.is_present())
        {
            log::info!(
                "no miner at {}: samples come by POST /miner/stats until one is there (looking every minute)",
                miner.at.url()
            );
        }
    }
}
