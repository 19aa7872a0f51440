use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use r3mes_edge::upstream::{ProbeResult, UpstreamError, UpstreamKind, survey};
use r3mes_edge::{Clock, Config};
use rustix::process::{Resource, getrlimit};

use super::super::client;
use super::{Check, PATIENCE};

/// Whether a server has the database, and how it is.
pub(super) struct Server {
    pub(super) runs: bool,
    pub(super) check: Check,
}

/// Asks the server that the lock file names. The lock itself is left alone: held for a moment, it would turn away a server
/// that starts just then.
pub(super) async fn server(database: &Path) -> Server {
    const NAME: &str = "server";
    let told = std::fs::read_to_string(database.with_added_extension("lock")).unwrap_or_default();
    let address = told.trim();
    if !address.starts_with("http://") && client::socket(address).is_none() {
        let check = Check::ok(NAME, "none runs on this database");
        return Server { runs: false, check };
    }
    let (runs, check) = match status(address).await {
        Ok(200) => (true, Check::ok(NAME, format!("ready at {address}"))),
        Ok(status) => (
            true,
            Check::problem(
                NAME,
                format!("not ready at {address}: status {status}"),
                "it takes no writes; its log and GET /alerts say why",
            ),
        ),
        Err(error) => (
            false,
            Check::warning(
                NAME,
                format!("not reached at {address}: {error}"),
                "it crashed, or hangs: look at its log, and start it again",
            ),
        ),
    };
    Server { runs, check }
}

async fn status(address: &str) -> Result<u16, String> {
    let request = Request::get("/readyz").body(Full::<Bytes>::default());
    let request = request.map_err(|error| error.to_string())?;
    match tokio::time::timeout(PATIENCE, client::send(address, request)).await {
        Ok(Ok(answer)) => Ok(answer.status().as_u16()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// Who can reach the server, and what they find there.
pub(super) fn listeners(config: &Config) -> Vec<Check> {
    const NAME: &str = "listener";
    let mut checks: Vec<_> = config
        .listen
        .iter()
        .map(|place| match place.open_folder() {
            Some(what) => Check::problem(NAME, what, "chmod o-w, or a folder of the server's own"),
            None if place.is_local() => Check::ok(NAME, format!("{place}, for this machine only")),
            None => Check::ok(NAME, place.to_string()),
        })
        .collect();
    checks.extend(config.risks().into_iter().map(|risk| {
        if risk.grave {
            Check::problem(NAME, risk.what, risk.advice)
        } else {
            Check::warning(NAME, risk.what, risk.advice)
        }
    }));
    checks
}

/// Whether all connections find a file descriptor.
pub(super) fn file_limit(config: &Config) -> Check {
    const NAME: &str = "file_limit";
    /// The database, upstreams, the log.
    const OTHERS: u64 = 128;
    let needed = config.limits.connections as u64 + OTHERS;
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < needed => Check::warning(
            NAME,
            format!("{most} files may be open, {needed} are needed for limits.connections"),
            format!(
                "LimitNOFILE={needed} in the unit, ulimit -n {needed} in a shell, or fewer limits.connections"
            ),
        ),
        Some(most) => Check::ok(NAME, format!("{most} files may be open")),
        None => Check::ok(NAME, "any number of files may be open"),
    }
}

/// Whether what is asked answers, and whether the chain's time is ours.
pub(super) async fn upstreams(config: &Config) -> Vec<Check> {
    let found = match survey(config).await {
        Ok(found) => found,
        Err(what) => {
            let advice = "mend the file that the setting names";
            return vec![Check::problem("upstreams", what, advice)];
        }
    };
    let mut checks = Vec::new();
    for (kind, name, without) in [
        (UpstreamKind::Inference, "inference", "chat is off"),
        (UpstreamKind::Chain, "chain", "blocks are off"),
        (
            UpstreamKind::Miner,
            "miner",
            "samples come by POST /miner/stats only",
        ),
    ] {
        let of_kind: Vec<_> = found.iter().filter(|one| one.kind == kind).collect();
        checks.extend(answers(name, without, &of_kind));
    }
    checks.push(clock(config, &found));
    checks
}

fn answers(name: &'static str, without: &str, found: &[&ProbeResult]) -> Vec<Check> {
    let told = |one: &ProbeResult| format!("{} answers at {}", one.name, one.url);
    let mut checks: Vec<_> = found
        .iter()
        .filter_map(|one| match &one.answered {
            Ok(()) => Some(Check::ok(name, told(one))),
            Err(error @ UpstreamError::NoChat(_)) => {
                // One that nobody configured gets the chats too.
                let check = match one.configured {
                    true => Check::problem,
                    false => Check::warning,
                };
                Some(check(
                    name,
                    format!("{} at {}: {error}", one.name, one.url),
                    "start its inference engine, or run a version of the node that has POST /chat"
                        .to_owned(),
                ))
            }
            Err(error) if one.configured => Some(Check::problem(
                name,
                format!("{} at {}: {error}", one.name, one.url),
                "start it, or mend its address in the configuration",
            )),
            Err(_) => None,
        })
        .collect();
    if checks.is_empty() {
        let places: Vec<_> = found.iter().map(|one| one.url.as_str()).collect();
        let looked = match places.is_empty() {
            true => "none is configured".to_owned(),
            false => format!(
                "none is configured, and none found at {}",
                places.join(", ")
            ),
        };
        let advice =
            format!("{without}; if that is not meant, start one or name it in the configuration");
        checks.push(Check::warning(name, looked, advice));
    }
    checks
}

/// The time here against the newest block's. What is signed, dated and kept for a time goes by this clock.
fn clock(config: &Config, found: &[ProbeResult]) -> Check {
    const NAME: &str = "clock";
    /// Validators' clocks differ by less.
    const TOLERANCE: i64 = 10_000;
    let now = Clock::default().now();
    let Some(block) = found.iter().find_map(|one| one.block_time) else {
        return Check::ok(NAME, format!("{now}; there is no chain to compare it with"));
    };
    let ahead = now.millis() - block.millis();
    let seconds = ahead.abs() / 1000;
    if ahead < -TOLERANCE {
        return Check::problem(
            NAME,
            format!("{now}, {seconds} s behind the chain's newest block"),
            "set the clock, and keep it right: timedatectl set-ntp true",
        );
    }
    if block.plus(config.chain.max_block_age) < now {
        return Check::warning(
            NAME,
            format!("{now}, {seconds} s ahead of the chain's newest block"),
            "the chain is halted, or this clock is wrong: timedatectl tells",
        );
    }
    Check::ok(
        NAME,
        format!("{now}, {seconds} s after the chain's newest block"),
    )
}
