//! How a command ends where its outputs are closed or full, and what it prints when it fails.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Process, W1, edge, edge_output};

/// The exit code and stdout of a command whose outputs a shell redirects so.
fn redirected(database: &Path, arguments: &str, outputs: &str) -> (i32, String) {
    let script = format!("\"$0\" --database \"$1\" {arguments} {outputs}");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_r3mes-edge")]);
    let done = command.arg(database).env_clear().output().unwrap();
    let code = done.status.code().unwrap();
    (code, String::from_utf8(done.stdout).unwrap())
}

#[test]
fn a_command_that_fails_prints_one_json_value_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let missing = edge_output(&database, &["--json", "users", "list"]);
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let unknown = edge_output(&database, &["--json", "users", "show", W1]);
    let wrong = edge_output(&database, &["--json", "users", "show"]);
    let unreadable = edge_output(&database, &["--json", "backup", "verify", "/nowhere.db"]);
    for (expected, (code, stdout, stderr)) in
        [(3, missing), (3, unknown), (2, wrong), (3, unreadable)]
    {
        assert_eq!(code, expected, "{stderr}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(value["error"]["exit_code"], expected);
        let message = value["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !stderr.is_empty());
    }
    // What has an answer prints that alone, although it fails.
    let broken = folder.path().join("broken.db");
    std::fs::copy(&database, &broken).unwrap();
    let file = rusqlite::Connection::open(&broken).unwrap();
    file.execute("UPDATE totals SET credits = 1", []).unwrap();
    drop(file);
    let (code, stdout, _) = edge_output(&broken, &["--json", "db", "check"]);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert!(code == 1 && value["ledger"].is_object() && value.get("error").is_none());
}

#[test]
fn an_exit_code_does_not_depend_on_outputs_that_are_closed_or_full() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    for outputs in ["2>&-", "2>/dev/full", ">&- 2>&-", "1>&-"] {
        let show = format!("users show {W1}");
        assert_eq!(redirected(&database, &show, outputs).0, 3, "{outputs}");
    }
    for outputs in ["2>&-", "2>/dev/full", ">&- 2>&-", ">/dev/null"] {
        assert_eq!(
            redirected(&database, "users list", outputs).0,
            0,
            "{outputs}"
        );
    }
    assert_eq!(redirected(&database, "users list", ">/dev/full").0, 0);
    assert_eq!(redirected(&database, "version", ">/dev/full").0, 1);
}

#[test]
fn no_key_is_made_where_stdout_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let keys = || edge(&database, &["keys", "list", "--wallet", W1]).1;
    assert_eq!(edge(&database, &["users", "create", W1]).0, 0);
    let create = format!("keys create --wallet {W1}");
    for arguments in [create.clone(), format!("--json {create}")] {
        assert_eq!(redirected(&database, &arguments, ">&-").0, 1);
        assert_eq!(keys(), "");
    }
    let (code, key) = redirected(&database, &create, "");
    assert!(code == 0 && key.starts_with("r3mes_"));
    let listed = keys();
    let row = listed.lines().nth(1).unwrap();
    let id = row.split_whitespace().next().unwrap().to_owned();
    let before = keys();
    assert_eq!(
        redirected(&database, &format!("keys rotate {id}"), ">&-").0,
        1
    );
    assert_eq!(keys(), before);
    // That it could not be printed is reported afterwards, with the key to revoke.
    assert_eq!(redirected(&database, &create, ">/dev/full").0, 1);
}

#[test]
fn a_server_whose_outputs_are_full_ends_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let full = || {
        Stdio::from(
            std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        )
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command.args(["--listen", "127.0.0.1:0", "--database"]);
    let mut server = command
        .arg(&database)
        .env_clear()
        .stdout(full())
        .stderr(full())
        .spawn()
        .unwrap();
    let lock = database.with_added_extension("lock");
    let address = || std::fs::read_to_string(&lock).unwrap_or_default();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while address().is_empty() && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
