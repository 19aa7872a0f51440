//! The commands that print what is compiled in: the version, what watches it, what completes it in a shell.

use std::env::consts::{ARCH, OS};

use clap::Subcommand;
use clap_complete::{Shell, generate};
use r3mes_edge::store::{SCHEMA_VERSION, sqlite_version};
use serde_json::{Value, json};

use super::Failure;
use super::output::answer;

#[derive(Subcommand)]
pub(super) enum Metrics {
    /// Print alerting rules for Prometheus; one JSON text with --json
    ///
    /// Example: r3mes-edge metrics rules > r3mes-edge.rules.yml
    Rules,
    /// Print a dashboard for Grafana
    ///
    /// Example: r3mes-edge metrics dashboard > r3mes-edge.json
    Dashboard,
}

const RULES: &str = include_str!("../../examples/prometheus-rules.yml");
const DASHBOARD: &str = include_str!("../../examples/grafana-dashboard.json");

pub(super) fn metrics(command: &Metrics, json: bool) -> Result<(), Failure> {
    match command {
        Metrics::Rules => answer(&Value::from(RULES).to_string(), json, |_| {
            Ok(RULES.trim_end().to_owned())
        }),
        Metrics::Dashboard => answer(DASHBOARD, true, |_| Ok(String::new())),
    }
}

pub(super) fn completions(
    shell: Shell,
    mut command: clap::Command,
    json: bool,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut command, "r3mes-edge", &mut script);
    let script = String::from_utf8_lossy(&script);
    let shown = json!({ "shell": shell.to_string(), "script": script });
    answer(&shown.to_string(), json, |_| {
        Ok(script.trim_end().to_owned())
    })
}

pub(super) fn version(json: bool) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    // Set by the one who builds a release; the source may be in no repository.
    let commit = option_env!("R3MES_EDGE_COMMIT");
    let libc = match () {
        () if cfg!(target_env = "musl") => "-musl",
        () if cfg!(target_env = "gnu") => "-gnu",
        () => "",
    };
    let target = format!("{ARCH}-{OS}{libc}");
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let sqlite = sqlite_version();
    let shown = json!({
        "version": version,
        "commit": commit,
        "schema_version": SCHEMA_VERSION,
        "sqlite_version": sqlite,
        "target": target,
        "profile": profile,
    });
    answer(&shown.to_string(), json, |_| {
        let commit = commit.unwrap_or("commit unknown");
        Ok(format!(
            "r3mes-edge {version} ({commit})\nschema version {SCHEMA_VERSION}, SQLite {sqlite}\n{target}, {profile}"
        ))
    })
}
