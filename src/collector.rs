//! Polls the miner on this machine and records its report as a sample, by the same method as `POST /miner/stats`.

use std::sync::Arc;

use crate::app::App;
use crate::upstream::UpstreamError;

/// Polls for ever; does nothing while there is no miner, or no wallet to record for.
pub(crate) async fn collect(app: Arc<App>) {
    let Some(page) = app.upstreams.miner.clone() else {
        return;
    };
    page.at.wait_present().await;
    let mut wallet_asked_for = false;
    let mut every = tokio::time::interval(page.settings.every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        let Some(wallet) = page.settings.wallet else {
            if !std::mem::replace(&mut wallet_asked_for, true) {
                log::warn!(
                    "the miner at {} is not recorded: set wallet in [miner] to say whose it is",
                    page.at.url
                );
            }
            continue;
        };
        let reading = match page.read().await {
            Ok(reading) => reading,
            Err(UpstreamError::Open(_)) => continue,
            Err(error) => {
                log::warn!("the miner at {} was not read: {error}", page.at.url);
                continue;
            }
        };
        let now = app.clock.now();
        if let Some(sample) = reading.sample(wallet, &page.settings.worker, now) {
            app.metrics.set_miner(&sample);
            if let Err(error) = app.store.record_samples(vec![sample], now).await {
                log::warn!("a sample of the miner was not recorded: {error}");
            }
        }
    }
}
