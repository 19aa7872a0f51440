//! `doctor`: checks a node's files, upstreams and server, with advice where something is wrong. It changes nothing and
//! waits a few seconds at most for each answer.

mod files;
mod node;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Failure;
use super::settings::Settings;

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Problem,
}

/// The result of a check; there is advice unless it is ok.
#[derive(Serialize)]
struct Finding {
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn ok(found: impl Into<String>) -> Finding {
    Finding {
        status: Status::Ok,
        found: found.into(),
        advice: None,
    }
}

fn warning(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        status: Status::Warning,
        advice: Some(advice.into()),
        ..ok(found)
    }
}

fn problem(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        status: Status::Problem,
        ..warning(found, advice)
    }
}

pub(super) async fn run(settings: &Settings, json: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Check {
        name: &'static str,
        #[serde(flatten)]
        finding: Finding,
    }
    let config = &settings.config;
    let (server, upstreams, admin_key, integrity) = tokio::join!(
        node::server(&config.database),
        node::upstreams(config),
        files::admin_key(&config.database),
        files::integrity(&config.database),
    );
    let configuration = match &settings.file {
        Some(file) => ok(format!("from {}", file.display())),
        None => ok("no file: defaults and environment"),
    };
    let mut findings = vec![("configuration", configuration)];
    findings.extend(files::modes(config));
    findings.extend(admin_key.map(|finding| ("admin_key", finding)));
    findings.extend(integrity.map(|finding| ("integrity", finding)));
    findings.push(("file_system", files::file_system(&config.database)));
    findings.extend(files::disk_free(config));
    findings.push(("backups", files::backups(config)));
    findings.extend(node::listeners(config));
    findings.push(("server", server));
    findings.extend(upstreams);
    let checks: Vec<_> = findings
        .into_iter()
        .map(|(name, finding)| Check { name, finding })
        .collect();
    if json {
        println!("{}", json!({ "checks": checks }));
    } else {
        for Check { name, finding } in &checks {
            let status = match finding.status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Problem => "PROBLEM",
            };
            println!("{status:8} {name:13} {}", finding.found);
            if let Some(advice) = &finding.advice {
                println!("{:22} -> {advice}", "");
            }
        }
    }
    let problems = checks.iter();
    match problems
        .filter(|check| check.finding.status == Status::Problem)
        .count()
    {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("problems found: {n}"))),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
