//! Checks of the running server, its listeners and its upstreams.

use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use r3mes_edge::upstream::{ProbeResult, UpstreamError, UpstreamKind, survey};
use r3mes_edge::{Clock, Config};

use super::{Finding, TIMEOUT, ok, problem, warning};
use crate::cli::client;

/// Whether the server that the lock file names is ready. The lock itself is not tried: a server that starts at that moment
/// would find it held.
pub(super) async fn server(database: &Path) -> Finding {
    let file = database.with_added_extension("lock");
    let address = std::fs::read_to_string(file).unwrap_or_default();
    let address = address.trim();
    if !address.starts_with("http://") && client::socket(address).is_none() {
        return ok("none runs on this database");
    }
    let status = async {
        let request = Request::get("/readyz").body(Full::<Bytes>::default())?;
        client::send(address, request).await
    };
    let error = match tokio::time::timeout(TIMEOUT, status).await {
        Ok(Ok(response)) if response.status().is_success() => {
            return ok(format!("ready at {address}"));
        }
        Ok(Ok(response)) => {
            let found = format!(
                "not ready at {address}: status {}",
                response.status().as_u16()
            );
            return problem(
                found,
                "it rejects writes; its log and GET /alerts give the reason",
            );
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {TIMEOUT:?}"),
    };
    warning(
        format!("not reached at {address}: {error}"),
        "it crashed or hangs: see its log, and restart it",
    )
}

/// Who can reach the server, and what they can read.
pub(super) fn listeners(config: &Config) -> Vec<(&'static str, Finding)> {
    let listeners = config
        .listen
        .iter()
        .map(|listen| match listen.open_folder() {
            Some(what) => problem(what, "chmod o-w the folder, or use one of the server's own"),
            None if listen.is_local() => ok(format!("{listen}, for this machine only")),
            None => ok(listen.to_string()),
        });
    let risks = config.risks();
    let risks = risks.into_iter().map(|risk| match risk.grave {
        true => problem(risk.what, risk.advice),
        false => warning(risk.what, risk.advice),
    });
    listeners
        .chain(risks)
        .map(|found| ("listener", found))
        .collect()
}

/// Whether upstreams answer, and whether the chain's time agrees with ours.
pub(super) async fn upstreams(config: &Config) -> Vec<(&'static str, Finding)> {
    let found = match survey(config).await {
        Ok(found) => found,
        Err(what) => {
            let advice = "correct the file that the setting names";
            return vec![("upstreams", problem(what, advice))];
        }
    };
    let mut findings = Vec::new();
    for (kind, name, without) in [
        (UpstreamKind::Inference, "inference", "chat is off"),
        (UpstreamKind::Chain, "chain", "blocks are off"),
        (
            UpstreamKind::Miner,
            "miner",
            "samples come by POST /miner/stats only",
        ),
    ] {
        let of_kind = || found.iter().filter(|probed| probed.kind == kind);
        let before = findings.len();
        findings.extend(of_kind().filter_map(answer).map(|finding| (name, finding)));
        if findings.len() == before {
            let addresses: Vec<_> = of_kind().map(|probed| probed.url.as_str()).collect();
            let found = match addresses.as_slice() {
                [] => "none is configured".to_owned(),
                _ => format!(
                    "none is configured, and none found at {}",
                    addresses.join(", ")
                ),
            };
            let advice = format!("{without}; to change that start one or configure its address");
            findings.push((name, warning(found, advice)));
        }
    }
    findings.push(("clock", clock(config, &found)));
    findings
}

/// `None` where nothing answers at a conventional address.
fn answer(probed: &ProbeResult) -> Option<Finding> {
    let ProbeResult {
        name,
        url,
        configured,
        answered,
        ..
    } = probed;
    let found = |error| format!("{name} at {url}: {error}");
    match answered {
        Ok(()) => Some(ok(format!("{name} answers at {url}"))),
        // A node at a conventional address gets chats too.
        Err(error @ UpstreamError::NoChat(_)) if !configured => Some(warning(
            found(error),
            "run a version of the node that has POST /chat",
        )),
        Err(error) if *configured => Some(problem(
            found(error),
            "start it, or correct its address in the configuration",
        )),
        Err(_) => None,
    }
}

/// Our clock against the time of the newest block.
fn clock(config: &Config, found: &[ProbeResult]) -> Finding {
    let now = Clock::default().now();
    let Some(block) = found.iter().find_map(|probed| probed.block_time) else {
        return ok(format!("{now}; there is no chain to compare it with"));
    };
    let seconds = (now.millis() - block.millis()) / 1000;
    let side = if seconds < 0 { "behind" } else { "ahead of" };
    let found = format!("{now}, {} s {side} the chain's newest block", seconds.abs());
    let advice = "the chain is halted, or this clock is wrong: timedatectl set-ntp true";
    // The clocks of validators differ by less than ten seconds.
    if seconds < -10 {
        problem(found, advice)
    } else if block.plus(config.chain.max_block_age) < now {
        warning(found, advice)
    } else {
        ok(found)
    }
}
