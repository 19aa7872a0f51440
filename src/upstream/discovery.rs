//! Finds the upstreams: those of the configuration, and for a kind without any, those that respond at conventional
//! addresses. Such an address is absent until an upstream responds; it is probed every minute, and remains present from
//! then on, as its breaker shows its health.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use tokio::sync::SetOnce;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::availability::Availability;
use super::chain::Chain;
use super::inference::Node;
use super::inference::api::Api;
use super::miner::MinerPage;
use super::{Endpoint, HttpClient, UpstreamError, read_bearer_token};
use crate::breaker::Breaker;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, InferenceConfig, InferenceKind, MinerKind, Origin};

const USUAL_NODES: [(&str, InferenceKind, &str); 4] = [
    ("r3mes-node", InferenceKind::R3mes, "http://127.0.0.1:8081"),
    ("ollama", InferenceKind::OpenAi, "http://127.0.0.1:11434"),
    ("llama.cpp", InferenceKind::OpenAi, "http://127.0.0.1:8080"),
    ("lm-studio", InferenceKind::OpenAi, "http://127.0.0.1:1234"),
];
const USUAL_CHAIN: &str = "http://127.0.0.1:26657";
const USUAL_MINER: &str = "http://127.0.0.1:8080/stats";

/// All configured and possible upstreams.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) nodes: Vec<Arc<Node>>,
    chain: Option<Arc<Chain>>,
    pub(crate) miner: Option<Arc<MinerPage>>,
}

/// The result of [`probe_all`] for one upstream.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    /// Its kind: `inference`, `chain` or `miner`.
    pub kind: &'static str,
    /// Its name, as in health and metrics.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Whether it is configured; otherwise it is a conventional address.
    pub configured: bool,
    /// The endpoints that an inference server was found to serve: `chat/completions`, `embeddings`.
    pub endpoints: Vec<&'static str>,
    /// The error, if any.
    pub answered: Result<(), UpstreamError>,
}

type Probe = Pin<Box<dyn Future<Output = Result<(), UpstreamError>> + Send>>;

impl Upstreams {
    /// # Errors
    /// The setting whose file cannot be used.
    pub(crate) fn new(config: &Config, clock: &Clock) -> Result<Self, ConfigError> {
        let invalid = |section: &str, (setting, what): (&str, String)| {
            let setting = match (section, setting) {
                ("chain", "url") => "rpc",
                _ => setting,
            };
            ConfigError::new(Origin::Default, &format!("{section}.{setting}"), what)
        };
        let endpoint = |name: &str, url: &str, ca_file: &Option<PathBuf>, configured: bool| {
            Ok(Endpoint {
                url: url.to_owned(),
                token: None,
                client: HttpClient::new(url, ca_file.as_deref())?,
                clock: clock.clone(),
                availability: Availability::default(),
                breaker: Breaker::new(name, config.breaker.clone(), clock.clone()),
                present: SetOnce::new_with(configured.then_some(())),
            })
        };
        let configured = !config.inference.is_empty();
        let mut nodes = config.inference.clone();
        if config.discover && !configured {
            let usual = USUAL_NODES.map(|(name, kind, url)| InferenceConfig::new(name, kind, url));
            nodes.extend(usual);
        }
        let node = |node: InferenceConfig| {
            let mut at = endpoint(&node.name, &node.url, &node.ca_file, configured)?;
            at.client.reuses_connections = node.kind != InferenceKind::R3mes;
            if let Some(file) = &node.api_key_file {
                let token = read_bearer_token(file).map_err(|what| ("api_key_file", what))?;
                at.token = Some(token);
            }
            Ok(Arc::new(Node::new(at, node, &config.chat, clock.clone())))
        };
        let nodes = nodes.into_iter().enumerate().map(|(at, settings)| {
            node(settings).map_err(|what| invalid(&format!("inference[{at}]"), what))
        });
        let optional = |name, url: &Option<String>, usual, ca_file| {
            let address = url.as_deref().or(config.discover.then_some(usual));
            let at = address.map(|at| endpoint(name, at, ca_file, url.is_some()));
            at.transpose().map_err(|what| invalid(name, what))
        };
        let (chain, miner) = (&config.chain, &config.miner);
        let rpc = optional("chain", &chain.rpc, USUAL_CHAIN, &chain.ca_file)?;
        let url = miner.url.as_deref().map(|url| with_path(url, miner.kind));
        let page = optional("miner", &url, USUAL_MINER, &miner.ca_file)?;
        let (timeout, settings) = (chain.timeout, miner.clone());
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            chain: rpc.map(|at| Arc::new(Chain { at, timeout })),
            miner: page.map(|at| Arc::new(MinerPage { at, settings })),
        })
    }

    /// The servers that have an adapter or a model of their own of this name; with an endpoint, those that serve it for that
    /// name, or may. Of several that embed or rank, only those whose model is made for it: what another answers cannot be
    /// compared with it.
    pub(crate) fn serving(&self, name: &str, api: Option<Api>) -> Vec<&Arc<Node>> {
        let nodes = self.nodes.iter().filter(|node| node.serves(name, api));
        let mut nodes: Vec<_> = nodes.collect();
        if let Some(api) = api.filter(|api| !api.has_output())
            && nodes.iter().any(|node| node.is_made_for(name, api))
        {
            nodes.retain(|node| node.is_made_for(name, api));
        }
        nodes
    }

    /// Reads the lists of models that were not asked for within `age`, all at once.
    pub(crate) async fn read_models(&self, age: Duration) {
        let mut reads = JoinSet::new();
        for node in &self.nodes {
            let node = Arc::clone(node);
            reads.spawn(async move { node.read_models_after(age).await });
        }
        reads.join_all().await;
    }

    /// Reads the models of every server, and probes the endpoints of those that were away.
    pub(crate) async fn refresh(&self) {
        let refreshed: JoinSet<_> = self.nodes.iter().cloned().map(Node::refresh).collect();
        refreshed.join_all().await;
    }

    fn endpoints(&self, name: &str) -> Vec<&'static str> {
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|node| node.at.breaker.name() == name);
        node.map_or(Vec::new(), |node| node.endpoints())
    }

    /// The kind and address of each upstream, and a call that finds out whether it is healthy.
    fn all(&self) -> impl Iterator<Item = (&'static str, &Endpoint, Probe)> {
        let mut all: Vec<(_, _, Probe)> = Vec::new();
        for node in &self.nodes {
            all.push(("inference", &node.at, Box::pin(Arc::clone(node).probe())));
        }
        if let Some(chain) = &self.chain {
            all.push(("chain", &chain.at, Box::pin(Arc::clone(chain).probe())));
        }
        if let Some(miner) = &self.miner {
            all.push(("miner", &miner.at, Box::pin(Arc::clone(miner).probe())));
        }
        all.into_iter()
    }

    /// The breakers of every upstream that is present.
    pub(crate) fn breakers(&self) -> impl Iterator<Item = &Arc<Breaker>> {
        let present = self.all().filter(|(_, at, _)| at.is_present());
        present.map(|(_, at, _)| &at.breaker)
    }

    /// The chain and the miner, where they are present.
    pub(crate) fn polled(&self) -> impl Iterator<Item = &Endpoint> {
        let chain = self.chain.iter().map(|chain| &chain.at);
        let polled = chain.chain(self.miner.iter().map(|miner| &miner.at));
        polled.filter(|at| at.is_present())
    }

    /// The chain, if one is configured or was found.
    pub(crate) fn chain(&self) -> Option<&Arc<Chain>> {
        self.chain.as_ref().filter(|chain| chain.at.is_present())
    }

    /// Logs the upstreams, and probes every minute for those not found yet; never returns.
    pub(crate) async fn discover(&self) {
        for round in 0u32.. {
            for (_, at, probe) in self.all() {
                let state = if at.is_present() {
                    "configured"
                } else if let Ok(()) | Err(UpstreamError::NoChat(..)) = probe.await {
                    let _ = at.present.set(());
                    "found"
                } else {
                    "not found, probed again every minute"
                };
                if round == 0 || state == "found" {
                    log::info!("upstream {} at {}: {state}", at.breaker.name(), at.url);
                }
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}

/// The address of a miner's page; one without a path has the usual one of its kind.
fn with_path(url: &str, kind: MinerKind) -> String {
    let path = match kind {
        MinerKind::R3mes => "/stats",
        MinerKind::Xmrig => "/2/summary",
    };
    let address: Uri = url.parse().unwrap_or_default();
    match address.path_and_query().map(PathAndQuery::as_str) {
        Some("/") => format!("{}{path}", url.trim_end_matches('/')),
        _ => url.to_owned(),
    }
}

/// Probes all configured upstreams and conventional addresses concurrently; takes a few seconds at most.
///
/// # Errors
/// A text that names the setting whose file cannot be used.
///
/// # Example
/// ```
/// use r3mes_edge::Config;
/// use r3mes_edge::config::{InferenceConfig, InferenceKind};
/// use r3mes_edge::upstream::{UpstreamError, probe_all};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Its listener is closed again.
/// let gone = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// let mut config = Config::default();
/// config.discover = false;
/// let node = InferenceConfig::new("llama", InferenceKind::OpenAi, &format!("http://{gone}"));
/// config.inference.push(node);
/// let found = probe_all(&config).await?;
/// assert_eq!((found.len(), found[0].kind, found[0].configured), (1, "inference", true));
/// assert!(matches!(found[0].answered, Err(UpstreamError::Connect(_))));
/// # Ok(())
/// # }
/// ```
pub async fn probe_all(config: &Config) -> Result<Vec<ProbeResult>, String> {
    const DEADLINE: Duration = Duration::from_secs(5);
    let upstreams = Upstreams::new(config, &Clock::default());
    let upstreams = upstreams.map_err(|error| error.to_string())?;
    let probes = upstreams.all().map(|(kind, at, probe)| {
        let probed = tokio::spawn(timeout(DEADLINE, probe));
        (kind, at, probed)
    });
    let mut results = Vec::new();
    for (kind, at, probed) in probes.collect::<Vec<_>>() {
        let answered = match probed.await {
            Ok(Ok(answered)) => answered,
            _ => Err(UpstreamError::Timeout("an answer")),
        };
        results.push(ProbeResult {
            kind,
            name: at.breaker.name().to_owned(),
            url: at.url.clone(),
            configured: at.is_present(),
            endpoints: upstreams.endpoints(at.breaker.name()),
            answered,
        });
    }
    Ok(results)
}
