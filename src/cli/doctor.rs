//! Everything an operator would look at when something is odd, looked at in one go. Reads only, and asks nobody for longer
//! than a few seconds.

mod database;
mod files;
mod node;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Failure;
use super::settings::Settings;

/// What was looked at, and how it is.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Problem,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Warning,
            advice: Some(advice.into()),
            ..Self::ok(name, found)
        }
    }

    fn problem(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            status: Status::Problem,
            ..Self::warning(name, found, advice)
        }
    }
}

/// For whatever is asked outside.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(settings: &Settings, json: bool) -> Result<(), Failure> {
    let config = &settings.config;
    let (server, upstreams, database, admin_key) = tokio::join!(
        node::server(&config.database),
        node::upstreams(config),
        database::contents(&config.database),
        files::admin_key(config),
    );
    let mut checks = vec![configuration(settings)];
    checks.extend(files::all(config, server.runs));
    checks.extend(admin_key);
    checks.extend(database);
    checks.extend(files::space(config));
    checks.extend(files::backups(config));
    checks.extend(node::listeners(config));
    checks.push(node::file_limit(config));
    checks.push(server.check);
    checks.extend(upstreams);
    show(&checks, json);
    let problems = checks
        .iter()
        .filter(|check| check.status == Status::Problem)
        .count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::Failed("there is one problem".to_owned())),
        n => Err(Failure::Failed(format!("there are {n} problems"))),
    }
}

fn configuration(settings: &Settings) -> Check {
    let found = match &settings.file {
        Some(file) => format!("from {}", file.display()),
        None => "no file; every setting has its default or stands in the environment".to_owned(),
    };
    Check::ok("configuration", found)
}

fn show(checks: &[Check], json: bool) {
    if json {
        println!("{}", json!({ "checks": checks }));
        return;
    }
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "PROBLEM",
        };
        println!("{status:8} {:13} {}", check.name, check.found);
        if let Some(advice) = &check.advice {
            println!("{:22} -> {advice}", "");
        }
    }
}

/// A size for people.
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
