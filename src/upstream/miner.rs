//! The miner on this machine, read from its own statistics page and turned into a [`Sample`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::AUTHORIZATION;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{Endpoint, UpstreamError, json, read_bearer_token, unreadable};
use crate::clock::Clock;
use crate::config::{MinerConfig, MinerKind};
use crate::model::{HashrateUnit, MOST_COUNT, MOST_FIGURE, Sample, Timestamp, Wallet};

#[derive(Debug)]
pub(crate) struct MinerPage {
    pub(crate) at: Endpoint,
    pub(crate) settings: MinerConfig,
}

impl MinerPage {
    /// `None` while the miner reports no hashrate, or an impossible one.
    pub(crate) async fn read(
        &self,
        wallet: Wallet,
        clock: &Clock,
    ) -> Result<Option<Sample>, UpstreamError> {
        let page = self.at.guarded(self.fetch()).await?;
        Ok(sample(&self.settings.worker, &page, wallet, clock.now()))
    }

    pub(super) async fn probe(self: Arc<Self>) -> Result<(), UpstreamError> {
        self.fetch().await.map(drop)
    }

    async fn fetch(&self) -> Result<Page, UpstreamError> {
        let mut request = self.at.request("", None)?;
        // Read each time, so that a new token needs no restart; it is a line of a local file.
        if let Some(file) = &self.settings.token_file {
            let token = read_bearer_token(file).map_err(unreadable)?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let deadline = Duration::from_secs(2);
        let answer = self.at.client.fetch_any(request, deadline).await?;
        parse(self.settings.kind, &self.at.success(answer)?)
    }
}

/// What is read of a page.
#[derive(Debug)]
enum Page {
    R3mes(EngineStats),
    Xmrig(Summary),
}

/// `GET /stats` of the R3MES miner engine.
#[derive(Deserialize, Debug)]
struct EngineStats {
    hashrate: Option<f64>,
    #[serde(default, deserialize_with = "json::optional")]
    gpu_temp: Option<f64>,
    #[serde(default, deserialize_with = "json::optional")]
    loss: Option<f64>,
    #[serde(default, deserialize_with = "json::optional")]
    uptime_seconds: Option<i64>,
}

/// `GET /2/summary` of XMRig, and of xmrig-proxy.
#[derive(Deserialize, Debug)]
struct Summary {
    hashrate: Hashrate,
    #[serde(default, deserialize_with = "json::optional")]
    uptime: Option<i64>,
    #[serde(default, deserialize_with = "json::optional")]
    results: Option<Results>,
    #[serde(skip)]
    is_proxy: bool,
}

#[derive(Deserialize, Debug)]
struct Hashrate {
    /// XMRig's first is the mean over ten seconds, null until it ran that long; a proxy's is of a minute.
    total: Vec<Box<RawValue>>,
}

#[derive(Deserialize, Debug)]
struct Results {
    #[serde(default, deserialize_with = "json::optional")]
    shares_good: Option<i64>,
    #[serde(default, deserialize_with = "json::optional")]
    shares_total: Option<i64>,
    /// A proxy's.
    #[serde(default, deserialize_with = "json::optional")]
    accepted: Option<i64>,
    #[serde(default, deserialize_with = "json::optional")]
    rejected: Option<i64>,
}

/// Members of the R3MES engine's page that other miners' pages do not have.
const OF_ENGINE: [&str; 8] = [
    "loss",
    "loss_trend",
    "gpu_temp",
    "vram_usage_mb",
    "vram_total_mb",
    "training_epoch",
    "gradient_norm",
    "estimated_earnings_per_day",
];
/// Members of other miners' pages, whose hashrate is hashes in some unit.
const OF_OTHERS: [&str; 5] = ["algo", "algorithm", "coin", "pool", "unit"];
/// Members beside the hashrate by which a summary is XMRig's or one like it, in hashes a second.
const OF_XMRIG: [&str; 6] = [
    "uptime",
    "results",
    "connection",
    "version",
    "algo",
    "worker_id",
];
/// Members of xmrig-proxy's summary alone, which counts kilohashes a second.
const OF_PROXY: [&str; 3] = ["miners", "workers", "upstreams"];

/// The page of a miner of this kind. The hashrate alone does not say which: other miners have one too, in another unit.
fn parse(kind: MinerKind, body: &[u8]) -> Result<Page, UpstreamError> {
    let members: BTreeMap<String, IgnoredAny> = json::read(body)?;
    let has = |names: &[&str]| names.iter().any(|name| members.contains_key(*name));
    let foreign = |what| Err(unreadable(format_args!("{what}; is miner.kind right?")));
    match kind {
        MinerKind::R3mes => {
            let is_bare = |name: &String| name == "hashrate" || name == "uptime_seconds";
            let is_engine = has(&OF_ENGINE) && !has(&OF_OTHERS) || members.keys().all(is_bare);
            if !has(&["hashrate"]) || !is_engine {
                return foreign("not the page of the R3MES miner engine");
            }
            json::read(body).map(Page::R3mes)
        }
        MinerKind::Xmrig => {
            let is_proxy = has(&OF_PROXY);
            if !has(&["hashrate"]) || !(has(&OF_XMRIG) || is_proxy) {
                return foreign("not the summary of XMRig");
            }
            let summary: Summary = json::read(body)?;
            if summary.hashrate.total.is_empty() {
                return Err(unreadable("no hashrate"));
            }
            Ok(Page::Xmrig(Summary {
                is_proxy,
                ..summary
            }))
        }
    }
}

/// `None` while no hashrate is reported, or an impossible one.
fn sample(worker: &str, page: &Page, wallet: Wallet, now: Timestamp) -> Option<Sample> {
    let figure = |number: &f64| (0.0..=MOST_FIGURE).contains(number);
    let count = |count: &i64| (0..=MOST_COUNT).contains(count);
    let sample = |hashrate: Option<f64>, unit| {
        Some(Sample {
            worker: worker.to_owned(),
            ..Sample::new(wallet, now, hashrate.filter(figure)?, unit)
        })
    };
    match page {
        // Before it runs, all figures are 0, and so are those without a sensor or a measurement.
        Page::R3mes(page) if page.hashrate == Some(0.0) && page.uptime_seconds == Some(0) => None,
        Page::R3mes(page) => {
            let measured =
                |number: Option<f64>| number.filter(figure).filter(|number| *number > 0.0);
            Some(Sample {
                gpu_temperature: measured(page.gpu_temp),
                loss: measured(page.loss),
                uptime_seconds: page.uptime_seconds.filter(count),
                ..sample(page.hashrate, HashrateUnit::GradientsPerHour)?
            })
        }
        Page::Xmrig(page) => {
            let first = page.hashrate.total.first()?;
            let hashrate: Option<f64> = serde_json::from_str(first.get()).ok()?;
            let scale = if page.is_proxy { 1e3 } else { 1.0 };
            let hashrate = hashrate.map(|hashrate| hashrate * scale);
            let results = page.results.as_ref();
            let shares = |read: fn(&Results) -> Option<i64>| results.and_then(read).filter(count);
            let good = shares(|results| results.shares_good);
            let all = shares(|results| results.shares_total);
            let bad = all.zip(good).map(|(all, good)| (all - good).max(0));
            Some(Sample {
                uptime_seconds: page.uptime.filter(count),
                accepted: good.or(shares(|results| results.accepted)),
                rejected: bad.or(shares(|results| results.rejected)),
                ..sample(hashrate, HashrateUnit::HashesPerSecond)?
            })
        }
    }
}

#[cfg(test)]
mod tests;
