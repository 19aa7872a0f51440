//! The miner on this machine, read from its own statistics page and turned into a [`Sample`].

use std::sync::Arc;
use std::time::Duration;

use hyper::header::AUTHORIZATION;
use serde_json::Value;

use super::{Endpoint, UpstreamError, read_bearer_token, unreadable};
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
        Ok(sample(&self.settings, &page, wallet, clock.now()))
    }

    pub(super) async fn probe(self: Arc<Self>) -> Result<(), UpstreamError> {
        self.fetch().await.map(drop)
    }

    async fn fetch(&self) -> Result<Value, UpstreamError> {
        let mut request = self.at.request("", None)?;
        // Read each time, so that a new token needs no restart; it is a line of a local file.
        if let Some(file) = &self.settings.token_file {
            let token = read_bearer_token(file).map_err(unreadable)?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let body = self
            .at
            .client
            .fetch(request, Duration::from_secs(2))
            .await?;
        parse(self.settings.kind, &body)
    }
}

/// XMRig's is the mean over ten seconds, and null until it ran that long.
const fn hashrate(kind: MinerKind) -> &'static str {
    match kind {
        MinerKind::R3mes => "/hashrate",
        MinerKind::Xmrig => "/hashrate/total/0",
    }
}

/// The page of a miner of this kind; each has a hashrate.
fn parse(kind: MinerKind, body: &[u8]) -> Result<Value, UpstreamError> {
    let page: Value = serde_json::from_slice(body).map_err(unreadable)?;
    match page.pointer(hashrate(kind)) {
        Some(Value::Number(_) | Value::Null) => Ok(page),
        _ => Err(unreadable("no hashrate")),
    }
}

fn sample(settings: &MinerConfig, page: &Value, wallet: Wallet, now: Timestamp) -> Option<Sample> {
    let number = |at: &str| {
        let number = page.pointer(at)?.as_f64()?;
        (0.0..=MOST_FIGURE).contains(&number).then_some(number)
    };
    let count = |at: &str| {
        let count = page.pointer(at)?.as_i64()?;
        (0..=MOST_COUNT).contains(&count).then_some(count)
    };
    let hashrate = number(hashrate(settings.kind))?;
    let sample = |unit| Sample {
        worker: settings.worker.clone(),
        ..Sample::new(wallet, now, hashrate, unit)
    };
    Some(match settings.kind {
        // `GET /stats` of the R3MES miner engine.
        MinerKind::R3mes => Sample {
            gpu_temperature: number("/gpu_temp"),
            uptime_seconds: count("/uptime_seconds"),
            loss: number("/loss"),
            ..sample(HashrateUnit::GradientsPerHour)
        },
        // `GET /2/summary` of XMRig.
        MinerKind::Xmrig => {
            let accepted = count("/results/shares_good");
            let all = count("/results/shares_total");
            Sample {
                uptime_seconds: count("/uptime"),
                accepted,
                rejected: all.zip(accepted).map(|(all, good)| (all - good).max(0)),
                ..sample(HashrateUnit::HashesPerSecond)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

    fn read(kind: MinerKind, body: &[u8]) -> Option<Sample> {
        let settings = MinerConfig {
            kind,
            ..MinerConfig::default()
        };
        let wallet = Wallet::parse(WALLET).unwrap();
        let page = parse(kind, body).unwrap();
        super::sample(&settings, &page, wallet, Timestamp::from_millis(0))
    }

    #[test]
    fn the_page_of_the_r3mes_engine_is_read() {
        let page = br#"{"hashrate":42.5,"loss":0.83,"gpu_temp":67.0,"uptime_seconds":86412,"training_epoch":3}"#;
        let read = read(MinerKind::R3mes, page).unwrap();
        assert_eq!(
            (
                read.hashrate,
                read.gpu_temperature,
                read.loss,
                read.uptime_seconds
            ),
            (42.5, Some(67.0), Some(0.83), Some(86_412))
        );
        assert_eq!(read.unit, HashrateUnit::GradientsPerHour);
    }

    #[test]
    fn the_summary_of_xmrig_is_read_and_a_window_that_is_not_full_is_no_sample() {
        let page = |total: &str| {
            format!(
                r#"{{"uptime":106,"results":{{"shares_good":3,"shares_total":5}},"hashrate":{{"total":[{total},null,null]}}}}"#
            )
        };
        let sample = |total| self::read(MinerKind::Xmrig, page(total).as_bytes());
        let read = sample("1207.19").unwrap();
        assert_eq!(
            (read.hashrate, read.accepted, read.rejected),
            (1207.19, Some(3), Some(2))
        );
        assert_eq!(read.unit, HashrateUnit::HashesPerSecond);
        assert_eq!(sample("null"), None);
        assert_eq!(sample("-1"), None);
    }

    proptest! {
        #[test]
        fn no_page_makes_the_parser_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(MinerKind::R3mes, &page);
            let _ = parse(MinerKind::Xmrig, &page);
        }
    }
}
