//! What Prometheus and Grafana need to watch this version.

use clap::Subcommand;

use super::Failure;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print alerting rules for Prometheus
    #[command(after_help = "Example: r3mes-edge metrics rules > r3mes-edge.rules.yml")]
    Rules,
    /// Print a dashboard for Grafana
    #[command(after_help = "Example: r3mes-edge metrics dashboard > r3mes-edge.json")]
    Dashboard,
}

/// With `json`, the rules too are one JSON value: a text.
pub(super) fn run(command: &Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Rules if json => println!("{}", serde_json::Value::from(RULES)),
        Command::Rules => println!("{}", RULES.trim_end()),
        Command::Dashboard => println!("{}", DASHBOARD.trim_end()),
    }
    Ok(())
}

const RULES: &str = include_str!("../../examples/prometheus-rules.yml");
const DASHBOARD: &str = include_str!("../../examples/grafana-dashboard.json");
