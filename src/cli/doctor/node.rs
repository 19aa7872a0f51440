//! Checks of the running server, its listeners and its upstreams.

use std::path::Path;

use hyper::Request;
use r3mes_edge::Config;
use r3mes_edge::upstream::{ProbeResult, UpstreamError, UpstreamKind, probe_all};

use super::{Finding, TIMEOUT, good, problem, warning};
use crate::cli::client;

/// Whether the server that the lock file names is ready. The lock itself is not tried: a server that starts at that moment
/// would find it held.
pub(super) async fn server(database: &Path) -> Finding {
    let file = database.with_added_extension("lock");
    let address = std::fs::read_to_string(file).unwrap_or_default();
    let address = address.trim();
    if !address.starts_with("http://") && client::socket_path(address).is_none() {
        return good("none runs on this database");
    }
    let status = async {
        let request = Request::get("/readyz").body(String::new())?;
        client::send(address, request).await
    };
    let error = match tokio::time::timeout(TIMEOUT, status).await {
        Ok(Ok(answer)) if answer.status().is_success() => {
            return good(format!("ready at {address}"));
        }
        Ok(Ok(answer)) => {
            let found = format!(
                "not ready at {address}: status {}",
                answer.status().as_u16()
            );
            return problem(found, "its log and GET /alerts give the reason");
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let found = format!("not reached at {address}: {error}");
    warning(found, "it crashed or hangs: see its log, and restart it")
}

/// Who can reach the server, and what they can read.
pub(super) fn listeners(config: &Config) -> Vec<Finding> {
    let listeners = config
        .listen
        .iter()
        .map(|listen| match listen.open_folder() {
            Some(what) => problem(what, "chmod o-w the folder"),
            None if listen.is_local() => good(format!("{listen}, for this machine only")),
            None => good(listen.to_string()),
        });
    let risks = config.risks().into_iter().map(|risk| match risk.grave {
        true => problem(risk.what, risk.advice),
        false => warning(risk.what, risk.advice),
    });
    listeners.chain(risks).collect()
}

/// Whether upstreams answer.
pub(super) async fn upstreams(config: &Config) -> Vec<(&'static str, Vec<Finding>)> {
    let found = match probe_all(config).await {
        Ok(found) => found,
        Err(what) => {
            let advice = "correct the file that the setting names";
            return vec![("upstreams", vec![problem(what, advice)])];
        }
    };
    let kinds = [
        (UpstreamKind::Inference, "inference", "chat is off"),
        (UpstreamKind::Chain, "chain", "blocks are off"),
        (UpstreamKind::Miner, "miner", "samples come by HTTP only"),
    ];
    let kinds = kinds.into_iter().map(|(kind, name, without)| {
        let of_kind = found.iter().filter(|probed| probed.kind == kind);
        let mut findings: Vec<_> = of_kind.filter_map(answer).collect();
        if findings.is_empty() {
            let advice = format!("{without}; to change that start one or configure its address");
            findings.push(warning("none is configured, and none was found", advice));
        }
        (name, findings)
    });
    kinds.collect()
}

/// `None` where nothing answers at a conventional address.
fn answer(probed: &ProbeResult) -> Option<Finding> {
    let found = |what: &str| format!("{} at {}: {what}", probed.name, probed.url);
    match &probed.answered {
        Ok(()) => Some(good(format!("{} answers at {}", probed.name, probed.url))),
        Err(error) if probed.configured => {
            let advice = "start it and what it needs, or correct its address in the configuration";
            Some(problem(found(&error.to_string()), advice))
        }
        // A node at a conventional address gets chats too.
        Err(error @ UpstreamError::NoChat(_)) => {
            let advice = "run a version of the node that has POST /chat";
            Some(warning(found(&error.to_string()), advice))
        }
        Err(_) => None,
    }
}
