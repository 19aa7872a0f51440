//! `doctor`: checks a node's files, disks, listeners, server and upstreams, and gives advice where something is wrong. It
//! changes nothing, and waits a few seconds at most for an answer.

mod files;
mod node;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use self::Status::{Problem, Warning};
use super::Failure;
use super::settings::Settings;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    #[serde(rename = "ok")]
    Good,
    Warning,
    Problem,
}

/// What a check found, and advice, which is empty where all is good.
type Finding = (Status, String, String);

fn good(found: impl Into<String>) -> Finding {
    (Status::Good, found.into(), String::new())
}

fn warning(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    (Warning, found.into(), advice.into())
}

fn problem(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    (Problem, found.into(), advice.into())
}

pub(super) async fn run(settings: &Settings, json: bool) -> Result<(), Failure> {
    let config = &settings.config;
    let (admin_key, server, upstreams) = tokio::join!(
        files::admin_key(config),
        node::server(&config.database),
        node::upstreams(config),
    );
    let mut checks = vec![
        ("files", files::modes(config)),
        ("admin_key", admin_key),
        ("disk_free", files::disk_free(config)),
        ("backups", vec![files::backups(config)]),
        ("listener", node::listeners(config)),
        ("server", vec![server]),
    ];
    checks.extend(upstreams);
    let checks = checks.into_iter();
    let checks: Vec<_> = checks
        .flat_map(|(name, findings)| findings.into_iter().map(move |found| (name, found)))
        .collect();
    if json {
        let checks = checks.iter().map(|(name, (status, found, advice))| {
            let advice = (!advice.is_empty()).then_some(advice);
            json!({ "name": name, "status": status, "found": found, "advice": advice })
        });
        println!("{}", json!({ "checks": checks.collect::<Vec<_>>() }));
    } else {
        for (name, (status, found, advice)) in &checks {
            let status = match status {
                Status::Good => "ok",
                Warning => "warning",
                Problem => "PROBLEM",
            };
            println!("{status:8} {name:10} {found}");
            if !advice.is_empty() {
                println!("{:19} -> {advice}", "");
            }
        }
    }
    let problems = checks.iter().filter(|(_, (status, ..))| *status == Problem);
    match problems.count() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("problems found: {n}"))),
    }
}
