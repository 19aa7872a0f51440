//! What surrounds a command: variables, permissions, closed outputs, shells, networks.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use r3mes_edge::auth::PlainKey;
use serde_json::Value;

use crate::support::{Caller, Process, W1, edge, edge_output, eventually};

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command.current_dir(folder).env_clear();
    command.stdin(Stdio::null());
    command
}

/// Runs a command; its exit code, standard output and standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let done = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = done.status.code().unwrap();
    (code, text(done.stdout), text(done.stderr))
}

/// D9 of the faults found from outside.
#[test]
fn variables_that_an_orchestrator_sets_are_ignored_and_a_misspelt_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let injected = [
        // Kubernetes, for the Services r3mes-edge and r3mes-edge-metrics.
        ("R3MES_EDGE_SERVICE_HOST", "10.0.0.1"),
        ("R3MES_EDGE_SERVICE_PORT", "8000"),
        ("R3MES_EDGE_SERVICE_PORT_HTTP", "8000"),
        ("R3MES_EDGE_PORT", "tcp://10.0.0.1:8000"),
        ("R3MES_EDGE_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("R3MES_EDGE_PORT_8000_TCP_PROTO", "tcp"),
        ("R3MES_EDGE_PORT_8000_TCP_PORT", "8000"),
        ("R3MES_EDGE_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("R3MES_EDGE_METRICS_SERVICE_HOST", "10.0.0.2"),
        ("R3MES_EDGE_METRICS_PORT_9090_UDP_ADDR", "10.0.0.2"),
        // Docker, for a link.
        ("R3MES_EDGE_NAME", "/web/r3mes-edge"),
        ("R3MES_EDGE_ENV_PATH", "/bin"),
        ("R3MES_EDGE_ENV_R3MES_EDGE_CHAT__PRICE", "2"),
    ];
    let check = |name: &str, value: &str| {
        let mut command = command(folder.path());
        let command = command.args(["config", "check"]).envs(injected);
        run(command.env(name, value))
    };
    assert_eq!(check("R3MES_EDGE_CHAT__PRICE", "2").0, 0);
    for name in [
        "R3MES_EDGE_CHATS__PRICE",
        "R3MES_EDGE_LISTENS",
        "R3MES_EDGE_CHAT__PORT",
    ] {
        let (code, _, stderr) = check(name, "2");
        assert!(code == 2 && stderr.contains(name), "{stderr}");
    }
    let mut serve = command(folder.path());
    let serve = serve.args(["serve", "--listen", &listen]).envs(injected);
    let (code, _, stderr) = run(serve.env("R3MES_EDGE_LOG__LEVEL", "debug"));
    assert!(
        code == 1 && stderr.contains("Address already in use"),
        "{stderr}"
    );
    for (name, _) in injected {
        let line = stderr
            .lines()
            .find(|line| line.contains(&format!("{name} is ignored")));
        assert!(
            line.is_some_and(|line| line.contains("DEBUG")),
            "{name}: {stderr}"
        );
    }
}

/// D2 of the faults found from outside.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_lines_are_printed_again_until_the_first_key_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut serve = command(folder.path());
    serve.args(["--database", "edge.db", "--listen", &listen]);
    let (code, stdout, stderr) = run(&mut serve);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(
        stderr.contains(&format!("cannot listen on {listen}")),
        "{stderr}"
    );
    let stdout = folder.path().join("stdout");
    let shown = async |used: bool| {
        let mut serve = command(folder.path());
        serve.args(["--database", "edge.db", "--listen", "127.0.0.1:0"]);
        serve.env("R3MES_EDGE_DISCOVER", "false");
        serve.env("R3MES_EDGE_LOG__FORMAT", "text");
        serve.stdout(std::fs::File::create(&stdout).unwrap());
        let server = Process::start(serve, |_| database.clone());
        if used {
            server.admin().get("/auth/me").await.expect(200);
        }
        assert_eq!(server.terminate(), Some(0));
        std::fs::read_to_string(&stdout).unwrap()
    };
    for used in [false, true] {
        let text = shown(used).await;
        assert!(text.contains("The first admin key is in"), "{text}");
    }
    assert_eq!(shown(false).await, "");
    // A key that was made later is not a first one.
    let revoked = edge(&database, &["keys", "create", "--admin"]);
    assert_eq!(revoked.0, 0);
    assert_eq!(shown(false).await, "");
}

/// D10 of the faults found from outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_whose_file_is_gone_or_unsafe_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r3mes-edge.toml");
    let text =
        "listen = \"127.0.0.1:0\"\ndiscover = false\nlog.format = \"text\"\nrates.read = \"7/h\"\n";
    std::fs::write(&file, text).unwrap();
    let database = folder.path().join("r3mes-edge.db");
    let mut serve = command(folder.path());
    serve.stdout(Stdio::null());
    let server = Process::start(serve, |_| database);
    let anybody = Caller::new(&server.address, None);
    let reload = async |line: &str| {
        let before = server.log().len();
        let pid = rustix::process::Pid::from_raw(server.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let found = eventually(line, async || {
            let log = server.log();
            log.into_iter()
                .skip(before)
                .find(|entry| entry.contains("reloaded"))
        })
        .await;
        assert!(found.contains(line), "{found}");
        let answer = anybody.get("/system/version").await;
        answer.header("ratelimit-policy").to_owned()
    };
    std::fs::remove_file(&file).unwrap();
    let policy = reload("nothing is changed: r3mes-edge.toml: No such file").await;
    assert_eq!(policy, "\"read\";q=7;w=3600");
    std::fs::write(&file, text.replace("7/h", "8/h")).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let policy = reload("nothing is changed: r3mes-edge.toml: is not yours").await;
    assert_eq!(policy, "\"read\";q=7;w=3600");
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(reload("rates.read").await, "\"read\";q=8;w=3600");
    assert_eq!(server.terminate(), Some(0));
}

/// D11 of the faults found from outside.
#[test]
fn a_missing_permission_is_not_reported_as_a_missing_file() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, which becomes another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(folder.path(), 0o755);
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let database = closed.join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let database = database.to_str().unwrap();
    let config = closed.join("edge.toml");
    mode(&closed, 0o700);
    let asked = |arguments: &[&str]| {
        run(command(folder.path())
            .args(arguments)
            .uid(12_345)
            .gid(12_345))
    };
    for arguments in [
        &["--database", database, "users", "list"][..],
        &["--database", database, "keys", "create", "--admin"],
        &["--database", database, "config", "check"],
        &["--database", database, "serve"],
        &["--config", config.to_str().unwrap(), "users", "list"],
        &["--config", config.to_str().unwrap(), "config", "check"],
    ] {
        let (code, stdout, stderr) = asked(arguments);
        let all = format!("{stdout}{stderr}");
        assert!(code != 0 && code != 3, "{arguments:?}: {code} {all}");
        assert!(
            all.contains("Permission denied") && all.contains("edge."),
            "{arguments:?}: {all}"
        );
        assert!(!all.contains("there is no"), "{arguments:?}: {all}");
    }
    let (_, stdout, _) = asked(&["--database", database, "doctor"]);
    assert!(
        stdout.contains("was not checked: Permission denied"),
        "{stdout}"
    );
    assert!(!stdout.contains("there is no database"), "{stdout}");
}

#[test]
fn a_file_of_the_database_that_belongs_to_another_user_is_named() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, which becomes another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let database = folder.path().join("edge.db");
    Process::serve(&database, "").kill();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        chown(entry.unwrap().path(), Some(12_345), None).unwrap();
    }
    let database = database.to_str().unwrap();
    let asked = |arguments: &[&str]| {
        let mut command = command(folder.path());
        let command = command.args(["--database", database]).args(arguments);
        run(command.uid(12_345).gid(12_345))
    };
    for name in ["", "-wal", "-shm"] {
        let file = format!("{database}{name}");
        chown(&file, Some(0), None).unwrap();
        for arguments in [&["users", "list"][..], &["ledger", "export"], &["serve"]] {
            let (code, _, stderr) = asked(arguments);
            let expected = format!("{file} cannot be accessed: Permission denied");
            assert!(
                code == 1 && stderr.contains(&expected),
                "{arguments:?}: {stderr}"
            );
            assert!(!stderr.contains("restore"), "{arguments:?}: {stderr}");
        }
        chown(&file, Some(12_345), None).unwrap();
    }
    assert_eq!(asked(&["users", "list"]).0, 0);
}

/// D13 of the faults found from outside.
#[test]
fn a_key_that_could_not_be_printed_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(edge(&database, &["init"]).0, 0);
    let keys = || edge(&database, &["keys", "list"]).1.lines().count();
    let (_, listed) = edge(&database, &["--json", "keys", "list"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let before = keys();
    let shell = |line: &str| {
        let mut shell = Command::new("sh");
        let shell = shell.arg("-c").arg(line).arg("sh");
        shell.arg(env!("CARGO_BIN_EXE_r3mes-edge")).arg(&database);
        run(shell.arg(W1).env_clear())
    };
    for output in [">&-", "1<&-"] {
        let line = format!("\"$1\" --database \"$2\" keys create --wallet \"$3\" {output}");
        let (code, _, stderr) = shell(&line);
        assert!(
            code == 1 && stderr.contains("nothing was made"),
            "{output}: {code} {stderr}"
        );
        assert_eq!(keys(), before, "{output}");
    }
    let (code, key) = edge(&database, &["keys", "create", "--wallet", W1]);
    assert!(code == 0 && PlainKey::parse(key.trim()).is_some());
    // One that is written into the admin key file is not lost.
    let (code, _, stderr) = shell("\"$1\" --database \"$2\" keys create --admin > /dev/null");
    assert_eq!((code, keys()), (0, before + 2), "{stderr}");
    let id = listed["keys"][0]["id"].as_str().unwrap();
    assert_eq!(edge(&database, &["keys", "revoke", id]).0, 0);
}

#[test]
fn a_command_that_fails_prints_one_json_value_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let check = |arguments: &[&str], expected: i32| {
        let (code, stdout, stderr) = edge_output(&database, arguments);
        assert_eq!(code, expected, "{arguments:?}: {stderr}");
        let value: Value = serde_json::from_str(&stdout).unwrap();
        let message = value["error"]["message"].as_str().unwrap();
        assert!(
            !message.is_empty() && (stderr.contains(message) || expected == 2),
            "{value} {stderr}"
        );
        if value["valid"].is_null() {
            assert_eq!(
                value["error"]["exit_code"], expected,
                "{arguments:?}: {value}"
            );
        }
    };
    check(&["--json", "users", "list"], 3);
    assert_eq!(edge(&database, &["init"]).0, 0);
    check(&["--json", "keys", "show", "key_none"], 3);
    check(&["users", "show", W1, "--json"], 3);
    check(&["--json", "breaker", "list"], 5);
    check(&["--json", "users", "list", "--unknown"], 2);
    check(&["--json", "credits", "take", W1, "1", "--reason", "x"], 3);
    std::fs::write(folder.path().join("r3mes-edge.toml"), "chats = 1").unwrap();
    check(&["--json", "keys", "list"], 2);
    check(&["--json", "config", "check"], 2);
}

/// D14 of the faults found from outside.
#[test]
fn bash_completes_after_every_word_and_by_any_path_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let (code, script) = edge(&folder.path().join("edge.db"), &["completions", "bash"]);
    assert_eq!(code, 0);
    let script = format!(
        "{script}\n{}",
        r#"
        registered=$(complete -p r3mes-edge) || exit 1
        function=${registered#*-F }
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        ${function%% *} "$1" "${@: -1}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}"
        "#
    );
    let file = folder.path().join("complete.bash");
    std::fs::write(&file, script).unwrap();
    let complete = |words: &[&str]| {
        let mut bash = Command::new("bash");
        let bash = bash.arg("--norc").arg(&file).args(words);
        let (code, stdout, stderr) = run(bash);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?}");
        stdout
    };
    for (words, expected) in [
        (&["r3mes-edge", "ke"][..], "keys"),
        (&["r3mes-edge", "keys", ""], "rotate"),
        (&["r3mes-edge", "keys", "create", "--sc"], "--scopes"),
        (&["r3mes-edge", "--json", "keys", ""], "revoke"),
        (
            &[
                "/usr/local/bin/r3mes-edge",
                "ledger",
                "export",
                "--format",
                "",
            ],
            "csv",
        ),
        (&["r3mes-edge", "help", "backup", ""], "verify"),
    ] {
        let completed = complete(words);
        assert!(
            completed.lines().any(|word| word == expected),
            "{words:?}: {completed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_admin_key_file_is_used_in_place_of_the_one_beside_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let beside = database.with_added_extension("admin-key");
    let other = folder.path().join("other.key");
    std::fs::rename(&beside, &other).unwrap();
    let named = ["--admin-key-file", other.to_str().unwrap()];
    let with = |arguments: &[&str]| edge_output(&database, &[&named, arguments].concat());
    let (code, _, stderr) = edge_output(&database, &["users", "list"]);
    assert!(
        code == 1 && stderr.contains("edge.db.admin-key cannot be read"),
        "{stderr}"
    );
    assert_eq!(with(&["users", "list"]).0, 0);
    let old = std::fs::read_to_string(&other).unwrap();
    let me = Caller::new(&server.address, Some(old.trim()))
        .get("/auth/me")
        .await;
    let id = me.expect(200)["key"]["id"].as_str().unwrap().to_owned();
    let (code, new, stderr) = with(&["keys", "rotate", &id]);
    assert!(
        code == 0 && stderr.contains("other.key holds the new key"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_to_string(&other).unwrap(), new);
    // The one that is named fails; the remedy names it too.
    std::fs::write(&other, &old).unwrap();
    let (code, _, stderr) = with(&["users", "list"]);
    let remedy = format!("--admin-key-file '{}'", other.display());
    assert!(code == 1 && stderr.contains(&remedy), "{stderr}");
    let (code, made, _) = with(&["keys", "create", "--admin"]);
    assert_eq!((code, std::fs::read_to_string(&other).unwrap()), (0, made));
    assert!(!beside.exists());
    assert_eq!(server.terminate(), Some(0));
    // The server adopts the key of the file that is named.
    let mut serve = command(folder.path());
    serve.arg("--database").arg(&database).args(named);
    serve
        .args(["--listen", "127.0.0.1:0"])
        .env("R3MES_EDGE_DISCOVER", "false")
        .env("R3MES_EDGE_LOG__FORMAT", "text")
        .stdout(Stdio::null());
    let server = Process::start(serve, |_| database.clone());
    assert_eq!(with(&["users", "list"]).0, 0);
    assert!(!beside.exists());
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_key_is_not_sent_to_an_address_of_another_network() {
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net"]);
        command
    };
    if !namespace()
        .arg("true")
        .status()
        .is_ok_and(|done| done.success())
    {
        println!("skipped: this machine does not allow a network namespace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let mut elsewhere = namespace();
    let elsewhere = elsewhere.arg(env!("CARGO_BIN_EXE_r3mes-edge"));
    let (code, _, stderr) = run(elsewhere
        .arg("--database")
        .arg(&database)
        .args(["users", "list"]));
    assert!(
        code == 5 && stderr.contains("runs in another network"),
        "{code} {stderr}"
    );
    assert_eq!(edge(&database, &["users", "list"]).0, 0);
    assert_eq!(server.terminate(), Some(0));
}

/// D16 of the faults found from outside.
#[test]
fn doctor_accepts_copies_of_root_and_names_every_file_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, which gives files away");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    assert_eq!(edge(&database, &["backup", "create"]).0, 0);
    server.kill();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let is_own = !path.to_str().unwrap().ends_with(".backup");
        chown(&path, Some(if is_own { 12_345 } else { 0 }), None).unwrap();
    }
    let doctor = || edge(&database, &["--json", "doctor"]).1;
    let problems = || {
        let report: Value = serde_json::from_str(&doctor()).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        let files = checks
            .into_iter()
            .filter(|check| check["name"] == "files" && check["status"] != "ok");
        files
            .map(|check| check["found"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(problems(), [""; 0]);
    chown(database.with_file_name("edge.db-wal"), Some(0), None).unwrap();
    let found = problems();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("edge.db-wal belongs to user 0: chown 12345 it"),
        "{found:?}"
    );
}
