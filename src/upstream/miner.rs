//! The miner on this machine, read from its own statistics page and turned into a [`Sample`].

use std::time::Duration;

use serde_json::Value;

use super::{Endpoint, UpstreamError, read_bearer_token, request, unreadable};
use crate::config::{MinerConfig, MinerKind};
use crate::model::{HashrateUnit, MOST_COUNT, MOST_FIGURE, Sample, Timestamp, Wallet};

#[derive(Debug)]
pub(crate) struct MinerPage {
    pub(crate) at: Endpoint,
    pub(crate) settings: MinerConfig,
}

impl MinerPage {
    pub(crate) async fn read(&self) -> Result<MinerReport, UpstreamError> {
        self.at.guarded(self.fetch()).await
    }

    pub(super) async fn fetch(&self) -> Result<MinerReport, UpstreamError> {
        // Read each time, so that a new token needs no restart; it is a line of a local file.
        let file = self.settings.token_file.as_deref();
        let token = file.map(|file| read_bearer_token("token_file", file));
        let token = token.transpose().map_err(unreadable)?;
        let request = request(&self.at.url, token.as_ref(), None)?;
        let (deadline, max_bytes) = (Duration::from_secs(2), 256 << 10);
        let body = self.at.client.fetch(request, deadline, max_bytes).await?;
        MinerReport::parse(self.settings.kind, &body)
    }
}

/// What a miner's page reports.
#[derive(Debug)]
pub(crate) struct MinerReport {
    kind: MinerKind,
    page: Value,
}

impl MinerReport {
    fn parse(kind: MinerKind, body: &[u8]) -> Result<Self, UpstreamError> {
        let page: Value = serde_json::from_slice(body).map_err(unreadable)?;
        match page.pointer(Self::hashrate(kind)) {
            Some(Value::Number(_) | Value::Null) => Ok(Self { kind, page }),
            _ => Err(unreadable("no hashrate")),
        }
    }

    /// XMRig's is the mean over ten seconds, and null until it ran that long.
    const fn hashrate(kind: MinerKind) -> &'static str {
        match kind {
            MinerKind::R3mes => "/hashrate",
            MinerKind::Xmrig => "/hashrate/total/0",
        }
    }

    /// `None` while the miner reports no hashrate, or an impossible one.
    pub(crate) fn sample(&self, wallet: Wallet, worker: &str, now: Timestamp) -> Option<Sample> {
        let number = |at: &str| {
            let number = self.page.pointer(at)?.as_f64()?;
            (0.0..=MOST_FIGURE).contains(&number).then_some(number)
        };
        let count = |at: &str| {
            let count = self.page.pointer(at)?.as_i64()?;
            (0..=MOST_COUNT).contains(&count).then_some(count)
        };
        let hashrate = number(Self::hashrate(self.kind))?;
        let sample = |unit| Sample {
            worker: worker.to_owned(),
            ..Sample::new(wallet, now, hashrate, unit)
        };
        Some(match self.kind {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

    #[test]
    fn the_page_of_the_r3mes_engine_is_read() {
        let page = br#"{"hashrate":42.5,"loss":0.83,"gpu_temp":67.0,"uptime_seconds":86412,"training_epoch":3}"#;
        let wallet = Wallet::parse(WALLET).unwrap();
        let report = MinerReport::parse(MinerKind::R3mes, page).unwrap();
        let read = report
            .sample(wallet, "local", Timestamp::from_millis(0))
            .unwrap();
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
        let wallet = Wallet::parse(WALLET).unwrap();
        let sample = |total| {
            let report = MinerReport::parse(MinerKind::Xmrig, page(total).as_bytes()).unwrap();
            report.sample(wallet, "local", Timestamp::from_millis(0))
        };
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
            let _ = MinerReport::parse(MinerKind::R3mes, &page);
            let _ = MinerReport::parse(MinerKind::Xmrig, &page);
        }
    }
}
