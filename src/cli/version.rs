use std::env::consts::{ARCH, OS};

use r3mes_edge::store::{SCHEMA_VERSION, sqlite_version};
use serde_json::json;

/// What `--help` says at its end.
pub(super) const HELP: &str = "Example: r3mes-edge version --json";

/// Says what this program is, as far as a report of a mistake should.
pub(super) fn run(json: bool) {
    let version = env!("CARGO_PKG_VERSION");
    // Whoever builds a release may say of what; a build that is not told knows nothing of a repository.
    let commit = option_env!("R3MES_EDGE_COMMIT");
    let environment = if cfg!(target_env = "musl") {
        "-musl"
    } else if cfg!(target_env = "gnu") {
        "-gnu"
    } else {
        ""
    };
    let target = format!("{ARCH}-{OS}{environment}");
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    if json {
        let value = json!({
            "version": version,
            "commit": commit,
            "schema_version": SCHEMA_VERSION,
            "sqlite_version": sqlite_version(),
            "target": target,
            "profile": profile,
        });
        println!("{value}");
        return;
    }
    println!(
        "r3mes-edge {version} ({})",
        commit.unwrap_or("commit unknown")
    );
    println!(
        "schema version {SCHEMA_VERSION}, SQLite {}",
        sqlite_version()
    );
    println!("{target}, {profile}");
}
