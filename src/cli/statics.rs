//! The commands that print what is compiled in: the version, what watches it, what completes it in a shell.

use std::env::consts::{ARCH, OS};

use clap::Subcommand;
use clap_complete::{Shell, generate};
use r3mes_edge::store::{SCHEMA_VERSION, sqlite_version};
use serde_json::json;

use super::Result;
use super::output::answer;

#[derive(Subcommand)]
pub(super) enum Metrics {
    /// Print alerting rules for Prometheus
    ///
    /// Example: r3mes-edge metrics rules > r3mes-edge.rules.yml
    Rules,
    /// Print the configuration by which Prometheus scrapes this server, with a key where it needs one
    ///
    /// Example: r3mes-edge metrics scrape > prometheus.yml
    Scrape,
    /// Print a dashboard for Grafana
    ///
    /// Example: r3mes-edge metrics dashboard > r3mes-edge.json
    Dashboard,
}

const RULES: &str = include_str!("../../examples/prometheus-rules.yml");
const SCRAPE: &str = include_str!("../../examples/prometheus.yml");
const DASHBOARD: &str = include_str!("../../examples/grafana-dashboard.json");

pub(super) fn metrics(command: &Metrics, json: bool) -> Result {
    match command {
        Metrics::Rules => answer(json, json!({ "rules": RULES }), RULES.trim_end()),
        Metrics::Scrape => answer(json, json!({ "scrape": SCRAPE }), SCRAPE.trim_end()),
        Metrics::Dashboard => answer(true, DASHBOARD.trim_end(), ""),
    }
}

pub(super) fn completions(shell: Shell, command: clap::Command, json: bool) -> Result {
    let mut script = Vec::new();
    // The states of bash's script are named by the program, and those of a name with a hyphen are named in two ways
    // (clap_complete 4.6): none is found after the first word.
    let name = if shell == Shell::Bash {
        "r3mes_edge"
    } else {
        NAME
    };
    generate(shell, &mut command.name(name), name, &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = script.replace(" -o default r3mes_edge\n", &format!(" -o default {NAME}\n"));
    let shown = json!({ "shell": shell.to_string(), "script": script });
    answer(json, shown, script.trim_end())
}

/// The program's name, as it is typed.
const NAME: &str = "r3mes-edge";

pub(super) fn version(json: bool) -> Result {
    let version = env!("CARGO_PKG_VERSION");
    // Set by src/build.rs; the source may be in no repository.
    let commit = option_env!("R3MES_BUILD_COMMIT");
    let libc = match () {
        () if cfg!(target_env = "musl") => "-musl",
        () if cfg!(target_env = "gnu") => "-gnu",
        () => "",
    };
    let target = format!("{ARCH}-{OS}{libc}");
    let profile = match cfg!(debug_assertions) {
        true => "debug",
        false => "release",
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
    let commit = commit.unwrap_or("commit unknown");
    let text = format!(
        "r3mes-edge {version} ({commit})\nschema version {SCHEMA_VERSION}, SQLite {sqlite}\n{target}, {profile}"
    );
    answer(json, shown, text)
}
