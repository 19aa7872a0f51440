//! The configuration on the real binary: printed, initialized, reloaded.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Caller, Process, W1, edge, eventually};

/// Runs a command in a folder with these variables; its exit code, standard output and standard error.
fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    let command = command.args(arguments).current_dir(folder).env_clear();
    let done = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        done.status.code().unwrap(),
        text(done.stdout),
        text(done.stderr),
    )
}

#[test]
fn the_first_error_of_file_or_environment_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = folder.join("r3mes-edge.toml");
    std::fs::write(&file, "[chat]\nprize = 1\n").unwrap();
    let (code, _, text) = run(folder, &["config", "check"], &[]);
    let expected =
        "r3mes-edge: r3mes-edge.toml:2:1: chat.prize: unknown key; did you mean chat.price?\n";
    assert_eq!((code, text.as_str()), (2, expected));
    let (code, text, _) = run(folder, &["config", "check", "--json"], &[]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &shown["valid"]), (2, &Value::Bool(false)));
    assert_eq!(
        (&shown["error"]["key"], &shown["error"]["line"]),
        (&"chat.prize".into(), &2.into())
    );
    // Every other command refuses it too, without any effect.
    assert_eq!(run(folder, &["keys", "list"], &[]).0, 2);
    std::fs::write(&file, "[chat]\nprice = 2\n").unwrap();
    let environment = [("R3MES_EDGE_RATES__CHATS", "1/s")];
    let (code, text, _) = run(folder, &["config", "check", "--json"], &environment);
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &shown["error"]["origin"]),
        (2, &environment[0].0.into())
    );
    let (code, text, _) = run(folder, &["config", "check"], &[]);
    assert_eq!(
        (code, text.as_str()),
        (0, "the configuration is valid: r3mes-edge.toml\n")
    );
}

/// A11 of the faults found from outside.
#[test]
fn an_upstream_address_that_would_not_be_used_as_written_starts_no_server_and_its_password_is_not_shown()
 {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (url, right) in [
        ("http://127.0.0.1:1234/v1", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/v1/", "http://127.0.0.1:1234"),
        (
            "http://user:hunter2@127.0.0.1:1234",
            "http://127.0.0.1:1234",
        ),
        ("http://127.0.0.1:1234?key=hunter2", "http://127.0.0.1:1234"),
        (
            "http://127.0.0.1:1234/api#hunter2",
            "http://127.0.0.1:1234/api",
        ),
    ] {
        let text = format!("[[inference]]\nname = \"node\"\nurl = \"{url}\"\n");
        std::fs::write(folder.join("r3mes-edge.toml"), text).unwrap();
        for command in [&["config", "check"][..], &["serve"], &["doctor"]] {
            let (code, out, error) = run(folder, command, &[]);
            assert_eq!((code, out.as_str()), (2, ""), "{url} {command:?}");
            let place = "r3mes-edge.toml:3:1: inference[0].url: must be without ";
            assert!(error.contains(place), "{error}");
            assert!(error.ends_with(&format!(": {right:?}\n")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!folder.join("r3mes-edge.db").exists());
    }
}

#[test]
fn a_file_of_the_working_folder_that_others_can_write_is_skipped_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = folder.join("r3mes-edge.toml");
    std::fs::write(&file, "chat.queue = 7\n").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    let queue = |arguments: &[&str]| {
        let print = [&["config", "print", "--json"], arguments].concat();
        let (code, stdout, stderr) = run(folder, &print, &[]);
        assert_eq!(code, 0, "{stderr}");
        let printed: Value = serde_json::from_str(&stdout).unwrap();
        (printed["chat"]["queue"].as_u64().unwrap(), stderr)
    };
    let (set, stderr) = queue(&[]);
    assert!(
        set != 7 && stderr.contains("r3mes-edge.toml is skipped"),
        "{stderr}"
    );
    let named = queue(&["--config", "r3mes-edge.toml"]);
    assert_eq!(named, (7, String::new()));
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(queue(&[]), (7, String::new()));
}

#[test]
fn a_printed_configuration_reads_back_the_same_and_names_its_origins() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = "[chat]\nprice = 0.25\n[[inference]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\n[adapters.\"a b\"]\nkeywords = [\"x\"]";
    std::fs::write(folder.join("r3mes-edge.toml"), file).unwrap();
    let environment = [
        ("R3MES_EDGE_RATES__CHAT", "off"),
        ("R3MES_EDGE_LIMITS__BODY", "1024B"),
    ];
    let (code, printed, _) = run(
        folder,
        &["config", "print", "--listen", "[::1]:80"],
        &environment,
    );
    assert_eq!(code, 0);
    std::fs::write(folder.join("printed.toml"), &printed).unwrap();
    let (_, again, _) = run(
        folder,
        &["config", "print", "--config", "printed.toml"],
        &[],
    );
    assert_eq!(again, printed);
    let print = ["config", "print", "--listen", "[::1]:80", "--origin"];
    let (_, stdout, _) = run(folder, &print, &environment);
    for line in [
        "listen = [\"[::1]:80\"]  # --listen",
        "chat.price = 0.25  # r3mes-edge.toml:2",
        "rates.chat = \"off\"  # R3MES_EDGE_RATES__CHAT",
        "limits.body = \"1KiB\"  # R3MES_EDGE_LIMITS__BODY",
        "inference[0].url = \"http://a\"  # r3mes-edge.toml:6",
        "adapters.a b.keywords = [\"x\"]  # r3mes-edge.toml:8",
        "chain.rpc = null  # default",
        "retention.days = \"forever\"  # default",
    ] {
        assert!(
            stdout.lines().any(|printed| printed == line),
            "{line}\n{stdout}"
        );
    }
    let (_, stdout, _) = run(folder, &["config", "print", "--json"], &environment);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&report["chat"]["price"], &report["limits"]["body"]),
        (&0.25.into(), &"1KiB".into())
    );
    let (_, stdout, _) = run(folder, &["config", "print", "--json", "--origin"], &[]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["inference[0].name"]["origin"], "r3mes-edge.toml:4");
    assert_eq!(report["chat.queue"]["value"], 16);
}

#[test]
fn init_creates_the_files_a_start_needs_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let init = [
        "init",
        "--config",
        "conf.toml",
        "--database",
        "a.db",
        "--listen",
        "127.0.0.1:0",
        "--wallet",
        W1,
    ];
    let wrong = [("R3MES_EDGE_CHAT__PRIZE", "1")];
    assert_eq!(run(folder, &init, &wrong).0, 2);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    let (code, stdout, _) = run(folder, &init, &[]);
    assert!(
        code == 0 && stdout.contains("r3mes-edge serve --config 'conf.toml'\n"),
        "{stdout}"
    );
    let (_, printed, _) = run(
        folder,
        &["config", "print", "--origin", "--config", "conf.toml"],
        &[],
    );
    let set = printed.lines().filter(|line| line.contains("# conf.toml:"));
    let set: Vec<_> = set
        .filter_map(|line| line.split_once("  # "))
        .map(|(set, _)| set)
        .collect();
    let wallet = format!("miner.wallet = \"{W1}\"");
    assert_eq!(
        set,
        ["listen = [\"127.0.0.1:0\"]", "database = \"a.db\"", &wallet]
    );
    let (code, keys, _) = run(folder, &["keys", "list", "--config", "conf.toml"], &[]);
    assert!(code == 0 && keys.contains("first admin key"), "{keys}");
    let contents = || {
        ["conf.toml", "a.db", "a.db.admin-key"]
            .map(|name| std::fs::read(folder.join(name)).unwrap())
    };
    let before = contents();
    let (code, stdout, _) = run(folder, &[init.as_slice(), &["--json"]].concat(), &[]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &report["config"]["made"], &report["database"]["made"]),
        (0, &false.into(), &false.into())
    );
    let (_, stdout, _) = run(folder, &init, &[]);
    assert!(
        stdout.contains("conf.toml exists and is not changed"),
        "{stdout}"
    );
    assert!(contents() == before);
    // Without any flag it makes both here, and what it wrote is found.
    assert_eq!(run(folder, &["init"], &[]).0, 0);
    assert!(folder.join("r3mes-edge.db").exists());
    let (_, stdout, _) = run(folder, &["config", "check"], &[]);
    assert_eq!(stdout, "the configuration is valid: r3mes-edge.toml\n");
}

#[tokio::test]
async fn a_changed_file_is_reloaded_on_sighup_without_a_lost_request_and_an_invalid_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve(&folder.path().join("edge.db"), "");
    let anybody = Caller::new(&server.address, None);
    let policy = async || {
        let answer = anybody.get("/network/stats").await;
        let policy = answer.header("ratelimit-policy").to_owned();
        (answer.status, policy)
    };
    assert_eq!(policy().await, (200, String::new()));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let others = tokio::spawn({
        let caller = anybody.clone();
        async move {
            let mut asked = 0;
            while !*stopped.borrow() {
                assert_eq!(caller.get("/health").await.status, 200);
                asked += 1;
            }
            asked
        }
    });
    let logged = async |line: &str| {
        let ask = async || server.log().into_iter().find(|entry| entry.contains(line));
        eventually(line, ask).await
    };
    let common = "listen = \"127.0.0.1:0\"\ndiscover = false\nlog.format = \"text\"\n[rates]\nauth = \"off\"\nchat = \"off\"\nwrite = \"off\"\ntelemetry = \"off\"\nhealth = \"off\"\npage = \"off\"\nrefused = \"off\"\n";
    let text = |more: &str| format!("{common}{more}");
    server.reload(&text(
        "read = \"3/h\"\n[limits]\nbody = \"32KiB\"\n[alerts]\ndisk_free = \"1000000GiB\"\nconfirm = \"0s\"\n",
    ));
    let entry = logged("configuration reloaded").await;
    let expected = "alerts.confirm = \"0s\" (was \"1m\"), alerts.disk_free = \"1000000GiB\" (was \"500MiB\"), limits.body = \"32KiB\" (was \"64KiB\") (needs a restart), rates.read = \"3/h\" (was \"off\")";
    assert!(entry.ends_with(expected), "{entry}");
    eventually("an alert by the new threshold", async || {
        let alerts = server.admin().get("/alerts").await.expect(200);
        alerts.to_string().contains("\"disk_free\"").then_some(())
    })
    .await;
    let three_an_hour = "\"read\";q=3;w=3600".to_owned();
    for status in [200, 200, 200, 429] {
        assert_eq!(policy().await, (status, three_an_hour.clone()));
    }
    server.reload(&text("read = \"many\"\n"));
    logged("nothing is changed: ").await;
    logged("rates.read: invalid rate \"many\"").await;
    assert_eq!(policy().await, (429, three_an_hour));
    // The same, except for the log level: a successful read is logged at debug.
    anybody.get("/readyz").await.expect(200);
    server.reload(&format!("log.level = \"debug\"\n{common}read = \"off\"\n"));
    logged("log.level = \"debug\" (was \"info\")").await;
    anybody.get("/livez").await.expect(200);
    logged(" GET /livez 200 ").await;
    let quiet = |line: &String| line.contains(" GET /readyz ");
    assert!(!server.log().iter().any(quiet));
    stop.send_replace(true);
    assert!(others.await.unwrap() > 0);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn only_serve_and_init_make_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    for command in [
        ["ledger", "verify"],
        ["config", "print"],
        ["config", "check"],
        ["keys", "list"],
    ] {
        edge(&database, &command);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{command:?}"
        );
    }
}
