//! What holds for every command, with one row for each.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{TestServer, W1, W2, config, edge, edge_output};

/// A command that ends by itself.
struct Row {
    /// The command, and what it needs. `KEY` is an active key's id, `COPY` a new copy, `NOTHING` no file.
    arguments: &'static str,
    /// The exit code where there is no database.
    nowhere: i32,
    /// The exit code with `--json` on a database without a server.
    alone: i32,
}

const fn row(arguments: &'static str, nowhere: i32, alone: i32) -> Row {
    Row {
        arguments,
        nowhere,
        alone,
    }
}

const ROWS: [Row; 35] = [
    row(
        "keys create --wallet W1 --name rig --scopes read --expires 1d",
        3,
        0,
    ),
    row("keys list", 3, 0),
    row("keys show KEY", 3, 0),
    row("keys rotate KEY --grace 1h", 3, 0),
    row("keys revoke KEY", 3, 0),
    row("users create W2", 3, 0),
    row("users show W1", 3, 0),
    row("users block W1", 3, 0),
    row("users unblock W1", 3, 0),
    row("users list", 3, 0),
    row("credits grant W1 2.5 --reason welcome", 3, 0),
    row("credits take W1 0.5 --reason fee", 3, 0),
    row("usage --by model", 3, 0),
    row("ledger verify", 3, 0),
    row("ledger export", 3, 0),
    row("audit list", 3, 0),
    row("backup create", 3, 0),
    row("backup list", 3, 0),
    row("backup verify COPY", 3, 0),
    row("restore COPY", 3, 0),
    row("db check", 3, 0),
    row("db accept-clock", 3, 0),
    row("db import NOTHING", 3, 3),
    // It finds problems: the folder has no configuration, the node no upstreams.
    row("doctor", 1, 0),
    row("config check", 0, 0),
    row("config print --origin", 0, 0),
    row("metrics rules", 0, 0),
    row("metrics scrape", 0, 0),
    row("metrics dashboard", 0, 0),
    row("breaker list", 3, 5),
    row("breaker open node", 3, 5),
    row("breaker reset node", 3, 5),
    row("completions bash", 0, 0),
    row("completions fish", 0, 0),
    row("version", 0, 0),
];

/// Runs until it is stopped, so it has no row.
const SERVE: &str = "serve";
/// Creates a database where there is none, so it has no row either: `config.rs` tests it.
const INIT: &str = "init";

/// The words of a row that name the command.
fn command(arguments: &str) -> Vec<&str> {
    let words: Vec<_> = arguments.split(' ').collect();
    let one = [
        "restore",
        "usage",
        "doctor",
        "completions",
        "version",
        SERVE,
        INIT,
    ];
    let count = if one.contains(&words[0]) { 1 } else { 2 };
    words[..count].to_vec()
}

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let (_, rest) = help.split_once("Commands:\n").unwrap_or_default();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let own = names.filter(|name| !["", "help"].contains(name));
    own.map(str::to_owned).collect()
}

fn help(words: &[&str]) -> String {
    let (code, text) = edge(Path::new("/nowhere"), &[words, &["--help"]].concat());
    assert_eq!(code, 0, "{words:?}");
    text
}

#[test]
fn every_command_shows_an_example_takes_json_and_a_database_and_has_a_row() {
    let top = help(&[]);
    let mut leaves = BTreeSet::new();
    let mut texts = vec![(vec![], top.clone())];
    for group in listed(&top) {
        let text = help(&[&group]);
        let under = listed(&text);
        if under.is_empty() {
            leaves.insert(group.clone());
        }
        for name in under {
            leaves.insert(format!("{group} {name}"));
            texts.push((vec![group.clone(), name.clone()], help(&[&group, &name])));
        }
        texts.push((vec![group], text));
    }
    for (words, text) in &texts {
        for part in ["r3mes-edge", "xample", "--json", "--database <FILE>"] {
            assert!(
                text.contains(part),
                "{part} is not in the help of {words:?}"
            );
        }
        assert!(text.is_ascii() || text.contains('…'), "{words:?}");
    }
    let mut rows: BTreeSet<_> = ROWS
        .iter()
        .map(|row| command(row.arguments).join(" "))
        .collect();
    rows.extend([SERVE, INIT].map(str::to_owned));
    assert_eq!(
        leaves, rows,
        "what has no row, or a row that has no command"
    );
}

#[test]
fn a_usage_error_of_any_command_exits_with_2_and_prints_nothing() {
    let words = ROWS.iter().map(|row| command(row.arguments));
    for words in words.chain([vec![SERVE], vec![INIT], vec![]]) {
        let wrong = [&words[..], &["--no-such-thing"]].concat();
        let (code, out, stderr) = edge_output(Path::new("/nowhere"), &wrong);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}");
        assert!(stderr.contains("--no-such-thing"), "{stderr}");
    }
    let (code, _, stderr) = edge_output(Path::new("/nowhere"), &["kyes", "list"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("keys"), "the nearest command: {stderr}");
}

#[test]
fn a_command_on_a_missing_database_names_its_path_and_creates_none() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    for row in &ROWS {
        let arguments = row.arguments.replace("COPY", "nothing.backup");
        let arguments = filled(&arguments, "key_01", "", "nothing.db");
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let (code, _, stderr) = edge_output(&database, &arguments);
        assert_eq!(code, row.nowhere, "{arguments:?}: {stderr}");
        let of_another = arguments.contains(&"nothing.backup");
        let missing = if of_another {
            "nothing.backup"
        } else {
            database.to_str().unwrap()
        };
        assert!(
            code != 3 || stderr.contains(missing),
            "{arguments:?}: {stderr}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Without `--database` and without a configuration: in the working directory.
    let here = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
        command.current_dir(folder.path()).env_clear();
        let done = command.args(arguments).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, stderr) = here(&["keys", "list"]);
    assert_eq!(code, Some(3));
    let folder_here = folder.path().canonicalize().unwrap();
    let missing = folder_here.join("r3mes-edge.db");
    let missing = format!("{} (default)", missing.display());
    assert!(stderr.contains(&missing), "{stderr}");
    std::fs::write(folder.path().join("a.toml"), "database = \"b.db\"").unwrap();
    let (code, stderr) = here(&["users", "list", "--config", "a.toml"]);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("/b.db (a.toml:1:1)"), "{stderr}");
}

/// The arguments of a row with its placeholders replaced.
fn filled(arguments: &str, key: &str, copy: &str, nothing: &str) -> Vec<String> {
    let fill = |word: &str| match word {
        "KEY" => key.to_owned(),
        "COPY" => copy.to_owned(),
        "NOTHING" => nothing.to_owned(),
        "W1" => W1.to_owned(),
        "W2" => W2.to_owned(),
        other => other.to_owned(),
    };
    arguments.split(' ').map(fill).collect()
}

#[tokio::test]
async fn every_command_with_json_prints_one_value_and_ends_with_its_code() {
    let server = TestServer::start(config()).await;
    let caller = server.caller(W1, &["read"]).await;
    let me = caller.get("/auth/me").await.expect(200);
    let key = me["key"]["id"].as_str().unwrap();
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    let copy = folder.path().join("a.backup");
    let made = edge(
        &database,
        &["backup", "create", "--to", copy.to_str().unwrap()],
    );
    assert_eq!(made.0, 0);
    for row in &ROWS {
        let arguments = filled(row.arguments, key, copy.to_str().unwrap(), "nothing.db");
        let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        arguments.push("--json");
        let (code, out, stderr) = edge_output(&database, &arguments);
        assert_eq!(code, row.alone, "{arguments:?}: {stderr} {out}");
        let value: Result<Value, _> = serde_json::from_str(&out);
        let value = value.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"));
        assert!(
            out.ends_with('\n') && !out.contains('\u{1b}'),
            "{arguments:?}"
        );
        if code != 0 {
            assert_eq!(value["error"]["exit_code"], code, "{arguments:?}: {out}");
            assert!(stderr.starts_with("r3mes-edge: "), "{stderr}");
        }
    }
}

#[test]
fn the_version_names_the_program_its_schema_and_its_sqlite() {
    let (code, out) = edge(Path::new("/nowhere"), &["version", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["version"]),
        (0, &Value::from(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(report["schema_version"], r3mes_edge::store::SCHEMA_VERSION);
    assert_eq!(report["sqlite_version"], rusqlite::version());
    let (_, lines) = edge(Path::new("/nowhere"), &["version"]);
    assert!(lines.contains(rusqlite::version()), "{lines}");
}

#[test]
fn completions_are_printed_for_each_shell_that_is_known() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = edge(Path::new("/nowhere"), &["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("r3mes-edge"), "{shell}");
    }
    let (code, _) = edge(Path::new("/nowhere"), &["completions", "tcsh"]);
    assert_eq!(code, 2);
}
