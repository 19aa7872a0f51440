use std::time::Duration;

use serde::Deserialize;

use super::{Endpoint, UpstreamError, bearer, get, guarded};
use crate::config::{MinerConfig, MinerKind};
use crate::model::{HashrateUnit, MOST_COUNT, MOST_FIGURE, Sample, Timestamp, Wallet};

/// The miner's own statistics page.
#[derive(Debug)]
pub(crate) struct MinerPage {
    pub(crate) at: Endpoint,
    pub(crate) settings: MinerConfig,
}

impl MinerPage {
    pub(crate) fn new(at: Endpoint, settings: &MinerConfig) -> Self {
        Self {
            at,
            settings: settings.clone(),
        }
    }

    /// Looks whether a miner answers at this address, and remembers it if so.
    pub(crate) async fn look(&self) -> bool {
        self.at.mark_present(self.read().await.is_ok())
    }

    /// A reading of the miner, by way of its breaker.
    pub(crate) async fn ask(&self) -> Result<Reading, UpstreamError> {
        guarded(&self.at.breaker, self.read()).await
    }

    async fn read(&self) -> Result<Reading, UpstreamError> {
        let unreadable = |what: String| UpstreamError::Unreadable(what);
        // Read each time, so that a new token needs no restart; it is a line of a local file.
        let token = self.settings.token_file.as_deref().map(bearer).transpose();
        let token = token.map_err(|what| unreadable(format!("token_file {what}")))?;
        let uri = self
            .at
            .url
            .parse()
            .map_err(|_| unreadable(format!("{:?} is no address", self.at.url)))?;
        let request = get(&uri, token.as_ref())?;
        let body = self
            .at
            .client
            .fetch(request, Duration::from_secs(2), 256 << 10)
            .await?;
        Reading::parse(self.settings.kind, &body).map_err(|error| unreadable(error.to_string()))
    }
}

/// What a miner's page says, as far as it is a sample.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading {
    hashrate: Option<f64>,
    unit: HashrateUnit,
    gpu_temperature: Option<f64>,
    uptime_seconds: Option<i64>,
    accepted: Option<i64>,
    rejected: Option<i64>,
    loss: Option<f64>,
}

impl Reading {
    fn parse(kind: MinerKind, body: &[u8]) -> serde_json::Result<Self> {
        match kind {
            MinerKind::R3mes => serde_json::from_slice(body).map(|page: R3mesStats| Self {
                hashrate: Some(page.hashrate),
                unit: HashrateUnit::GradientsPerHour,
                gpu_temperature: page.gpu_temp,
                uptime_seconds: page.uptime_seconds,
                accepted: None,
                rejected: None,
                loss: page.loss,
            }),
            MinerKind::Xmrig => serde_json::from_slice(body).map(|page: XmrigSummary| Self {
                // The mean over ten seconds; null until XMRig ran that long.
                hashrate: page.hashrate.total.first().copied().flatten(),
                unit: HashrateUnit::HashesPerSecond,
                gpu_temperature: None,
                uptime_seconds: page.uptime,
                accepted: page.results.as_ref().map(|results| results.shares_good),
                rejected: page
                    .results
                    .as_ref()
                    .map(|results| results.shares_total.saturating_sub(results.shares_good)),
                loss: None,
            }),
        }
    }

    /// `None` while the miner has nothing to tell, or tells what cannot be.
    pub(crate) fn sample(&self, wallet: Wallet, worker: &str, now: Timestamp) -> Option<Sample> {
        let sane = |number: &f64| (0.0..=MOST_FIGURE).contains(number);
        let count = |number: &i64| (0..=MOST_COUNT).contains(number);
        Some(Sample {
            worker: worker.to_owned(),
            gpu_temperature: self.gpu_temperature.filter(sane),
            uptime_seconds: self.uptime_seconds.filter(count),
            accepted: self.accepted.filter(count),
            rejected: self.rejected.filter(count),
            loss: self.loss.filter(sane),
            ..Sample::new(wallet, now, self.hashrate.filter(sane)?, self.unit)
        })
    }
}

/// `GET /stats` of the R3MES miner engine.
#[derive(Deserialize)]
struct R3mesStats {
    hashrate: f64,
    gpu_temp: Option<f64>,
    uptime_seconds: Option<i64>,
    loss: Option<f64>,
}

/// `GET /2/summary` of XMRig.
#[derive(Deserialize)]
struct XmrigSummary {
    hashrate: XmrigHashrate,
    uptime: Option<i64>,
    results: Option<XmrigResults>,
}

#[derive(Deserialize)]
struct XmrigHashrate {
    total: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct XmrigResults {
    shares_good: i64,
    shares_total: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_page_of_the_r3mes_engine_is_read() {
        let page = br#"{"hashrate":42.5,"loss":0.83,"gpu_temp":67.0,"uptime_seconds":86412,"training_epoch":3}"#;
        let reading = Reading::parse(MinerKind::R3mes, page).unwrap();
        assert_eq!(
            (reading.hashrate, reading.gpu_temperature, reading.loss),
            (Some(42.5), Some(67.0), Some(0.83))
        );
        assert_eq!(reading.unit, HashrateUnit::GradientsPerHour);
    }

    #[test]
    fn the_summary_of_xmrig_is_read_and_a_window_that_is_not_full_is_no_sample() {
        let page = |total: &str| {
            format!(
                r#"{{"uptime":106,"results":{{"shares_good":3,"shares_total":5}},"hashrate":{{"total":[{total},null,null]}}}}"#
            )
        };
        let wallet = Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm").unwrap();
        let sample = |total| {
            let reading = Reading::parse(MinerKind::Xmrig, page(total).as_bytes()).unwrap();
            reading.sample(wallet, "local", Timestamp::from_millis(0))
        };
        let told = sample("1207.19").unwrap();
        assert_eq!(
            (told.hashrate, told.accepted, told.rejected),
            (1207.19, Some(3), Some(2))
        );
        assert_eq!(told.unit, HashrateUnit::HashesPerSecond);
        assert_eq!(sample("null"), None);
        assert_eq!(sample("-1"), None);
    }

    proptest! {
        #[test]
        fn no_page_makes_the_reader_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reading::parse(MinerKind::R3mes, &page);
            let _ = Reading::parse(MinerKind::Xmrig, &page);
        }
    }
}
