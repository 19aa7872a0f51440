//! `doctor`: checks a node's files, disks, listeners, server and upstreams, and gives advice where something is wrong. It
//! changes nothing, and waits a few seconds at most for an answer.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hyper::{Request, Uri};
use r3mes_edge::Config;
use r3mes_edge::store::{self, folder_of};
use r3mes_edge::upstream::{ProbeResult, UpstreamError, probe_all};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::settings::Settings;
use super::{Failure, Result, admin_key, client, files};

const TIMEOUT: Duration = Duration::from_secs(5);

const GOOD: &str = "ok";
const WARNING: &str = "warning";
const PROBLEM: &str = "problem";

/// A status and what was found.
type Finding = (&'static str, String);

/// What to do about the findings of a check.
fn advice(check: &str) -> &'static str {
    match check {
        "files" => {
            "give each file the owner and the mode that is stated; a missing database is created by the server, or name the right one with --database"
        }
        "admin_key" => "make a key that works",
        "disk_free" => "create the folder, or free disk space: without it writes are rejected",
        "backups" => "set backup.every and backup.folder, or run r3mes-edge backup create",
        "listener" => "change the setting, or chmod o-w the folder",
        "pass" => "name the members that clients need instead of \"*\", or none",
        "server" => "its log and GET /alerts give the reason; restart it if it crashed or hangs",
        "inference" => "start it, or correct its url, model or api_key_file in the configuration",
        "chain" | "miner" => "start one, or correct its address in the configuration",
        _ => "correct the file that the setting names",
    }
}

pub(super) async fn run(settings: &Settings, json: bool) -> Result {
    let config = &settings.config;
    let mut checks = vec![
        ("files", file_modes(config)),
        ("admin_key", admin_key(&config.database).await),
        ("disk_free", disk_free(config)),
        ("backups", vec![backups(config)]),
        ("listener", listeners(config)),
        ("pass", risks(config, "pass").collect()),
        ("server", server(&config.database).await),
    ];
    checks.extend(upstreams(config).await);
    let mut report = Vec::new();
    for (name, findings) in checks {
        for (status, found) in findings {
            let advice = (status != GOOD).then(|| advice(name));
            if !json {
                println!("{status:8} {name:10} {found}");
                if let Some(advice) = advice {
                    println!("{:19} -> {advice}", "");
                }
            }
            let check = json!({ "name": name, "status": status, "found": found, "advice": advice });
            report.push(check);
        }
    }
    let of_problems = report.iter().filter(|check| check["status"] == PROBLEM);
    let problems = of_problems.count();
    if json {
        println!("{}", json!({ "checks": report }));
    }
    match problems {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("problems found: {n}"))),
    }
}

/// Whether only their owner, the user of the server, can use the database and its copies.
fn file_modes(config: &Config) -> Vec<Finding> {
    let database = &config.database;
    let metadata = match std::fs::metadata(database) {
        Ok(metadata) => metadata,
        Err(error) => {
            let shown = database.display();
            let found = match error.kind() {
                ErrorKind::NotFound => format!("there is no database at {shown}"),
                _ => format!(
                    "{shown} was not checked: {error}; run this as the server's user or root"
                ),
            };
            return vec![(PROBLEM, found)];
        }
    };
    let key = admin_key::path(database);
    let own = files::with_log(database).into_iter().chain([key]);
    let owner = metadata.uid();
    let check = |file: &Path, is_copy: bool| {
        let metadata = std::fs::metadata(file).ok()?;
        let (mode, user, shown) = (metadata.mode() & 0o777, metadata.uid(), file.display());
        let size = mebibytes(metadata.len());
        let (status, what) = match mode & 0o077 {
            0 if user == owner => (GOOD, format!("has mode {mode:04o} and {size}")),
            // Made by a command of root; the server does not read it.
            0 if is_copy && user == 0 => {
                (GOOD, format!("is root's, has mode {mode:04o} and {size}"))
            }
            0 => (PROBLEM, format!("belongs to user {user}: chown {owner} it")),
            _ => (PROBLEM, format!("has mode {mode:04o}: chmod 600 it")),
        };
        Some((status, format!("{shown} {what}")))
    };
    // Before anything opens the database, as SQLite gives its files their owner back where root does.
    let mut findings: Vec<_> = own.filter_map(|file| check(&file, false)).collect();
    let copies = store::backups(database, config.backup.folder());
    let copies = copies.unwrap_or_default();
    findings.extend(copies.iter().filter_map(|(_, copy)| check(copy, true)));
    findings
}

pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Whether the key in the admin key file works.
async fn admin_key(database: &Path) -> Vec<Finding> {
    if !database.try_exists().unwrap_or(false) {
        return Vec::new();
    }
    vec![match timeout(TIMEOUT, admin_key::check(database)).await {
        Ok(Ok(())) => (GOOD, "the key in the file works".to_owned()),
        Ok(Err(wrong)) if wrong.is_refused => (PROBLEM, wrong.to_string()),
        Ok(Err(wrong)) => (WARNING, wrong.to_string()),
        Err(_) => (WARNING, "not checked: no answer".to_owned()),
    }]
}

/// Space for the database and for copies.
fn disk_free(config: &Config) -> Vec<Finding> {
    /// Full before an operator reacts.
    const LOW: u64 = 32 << 20;
    let folders = [Some(folder_of(&config.database)), config.backup.folder()];
    let free = |folder: &Path| {
        let shown = folder.display();
        let statistics = match rustix::fs::statvfs(folder) {
            Ok(statistics) => statistics,
            Err(error) => return (PROBLEM, format!("{shown}: {error}")),
        };
        let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
        let status = match free {
            ..LOW => PROBLEM,
            _ if free < config.alerts.disk_free as u64 => WARNING,
            _ => GOOD,
        };
        (status, format!("{} at {shown}", mebibytes(free)))
    };
    folders.into_iter().flatten().map(free).collect()
}

/// The newest copy.
fn backups(config: &Config) -> Finding {
    match store::backups(&config.database, config.backup.folder()).as_deref() {
        Ok([]) => (WARNING, "there is no copy".to_owned()),
        Ok(copies @ [.., (newest, _)]) => {
            let count = copies.len();
            (GOOD, format!("{count} copies, the newest of {newest}"))
        }
        Err(error) => {
            let folder = config.backup.folder();
            let folder = folder.unwrap_or_else(|| folder_of(&config.database));
            (PROBLEM, format!("{}: {error}", folder.display()))
        }
    }
}

/// Who can reach the server, and what they can read.
fn listeners(config: &Config) -> Vec<Finding> {
    let listeners = config.listen.iter();
    let listeners = listeners.map(|listen| match listen.open_folder() {
        Some(what) => (PROBLEM, what),
        None if listen.is_local() => (GOOD, format!("{listen}, for this machine only")),
        None => (GOOD, listen.to_string()),
    });
    listeners.chain(risks(config, "listener")).collect()
}

/// What is allowed and may not be meant.
fn risks(config: &Config, about: &'static str) -> impl Iterator<Item = Finding> {
    let risks = config.risks().into_iter();
    let risks = risks.filter(move |risk| risk.about == about);
    risks.map(|risk| {
        let status = if risk.grave { PROBLEM } else { WARNING };
        (status, risk.text)
    })
}

/// Whether the server that the lock file names is ready, and which inference servers fail its requests. The lock itself is not
/// tried: a server that starts at that moment would find it held.
async fn server(database: &Path) -> Vec<Finding> {
    let file = database.with_added_extension("lock");
    let address = std::fs::read_to_string(file).unwrap_or_default();
    let address = address.trim();
    if !address.starts_with("http://") && client::socket_path(address).is_none() {
        return vec![(GOOD, "none runs on this database".to_owned())];
    }
    let get = async |path: &'static str| {
        let mut request = Request::new(String::new());
        *request.uri_mut() = Uri::from_static(path);
        let answered = timeout(TIMEOUT, client::send(address, request)).await;
        answered.unwrap_or_else(|_| Err("no answer".into()))
    };
    let ready = match get("/readyz").await {
        Ok(answer) if answer.status().is_success() => (GOOD, format!("ready at {address}")),
        Ok(answer) => {
            let status = answer.status().as_u16();
            (PROBLEM, format!("not ready at {address}: status {status}"))
        }
        Err(error) => (WARNING, format!("not reached at {address}: {error}")),
    };
    let health = get("/health").await.map(|health| health.into_body());
    let failing = health.map_or(Vec::new(), |health| failing_nodes(&health));
    [vec![ready], failing].concat()
}

/// The inference servers whose last answer failed, as the server's health has them.
fn failing_nodes(health: &[u8]) -> Vec<Finding> {
    let health: Value = serde_json::from_slice(health).unwrap_or_default();
    let nodes = health["nodes"].as_array().into_iter().flatten();
    let failing = nodes.filter(|node| node["last_failure"].is_object());
    let found = |node: &Value| {
        let (name, failure) = (&node["name"], &node["last_failure"]);
        let cause = failure["cause"].as_str().unwrap_or_default();
        let status = failure["status"].as_u64();
        let status = status.map_or(String::new(), |status| format!(" (status {status})"));
        let (times, ago) = (&node["failures"], &node["seconds_since_failure"]);
        format!("inference {name} fails: {cause}{status}, {times} in a row, the last {ago} s ago")
    };
    failing.map(|node| (WARNING, found(node))).collect()
}

/// Whether upstreams answer.
async fn upstreams(config: &Config) -> Vec<(&'static str, Vec<Finding>)> {
    let probed = match probe_all(config).await {
        Ok(probed) => probed,
        Err(what) => return vec![("upstreams", vec![(PROBLEM, what)])],
    };
    let kinds = [
        ("inference", "chat is off"),
        ("chain", "blocks are off"),
        ("miner", "samples come by HTTP only"),
    ];
    let check = |(kind, without)| {
        let of_kind = probed.iter().filter(|probed| probed.kind == kind);
        let mut findings: Vec<_> = of_kind.filter_map(upstream).collect();
        if findings.is_empty() {
            let found = format!("none is configured, and none was found: {without}");
            findings.push((WARNING, found));
        }
        (kind, findings)
    };
    kinds.into_iter().map(check).collect()
}

/// `None` if nothing answers at a conventional address.
fn upstream(probed: &ProbeResult) -> Option<Finding> {
    let (name, url) = (&probed.name, &probed.url);
    match &probed.answered {
        Ok(()) => {
            let endpoints = probed.endpoints.join(", ");
            let serves = match endpoints.is_empty() {
                true => String::new(),
                false => format!(" and serves {endpoints}"),
            };
            Some((GOOD, format!("{name} answers at {url}{serves}")))
        }
        Err(error) if probed.configured => Some((PROBLEM, format!("{name} at {url}: {error}"))),
        // A node at a conventional address gets chats too.
        Err(error @ UpstreamError::NoChat(..)) => {
            Some((WARNING, format!("{name} at {url}: {error}")))
        }
        Err(_) => None,
    }
}
