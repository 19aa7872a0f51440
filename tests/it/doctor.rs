//! `doctor` of the real binary: each test causes problems and reads the findings; a healthy node has none.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use r3mes_edge::Clock;
use serde_json::{Value, json};

use crate::support::{Process, RawAnswer, RawUpstream, Scripted, Then, Upstream, W1, edge};

/// The exit code and the checks.
fn doctor(database: &Path, config: &str) -> (i32, Value) {
    let file = database.with_extension("doctor.toml");
    std::fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    let (code, report) = edge(database, &["--config", file, "--json", "doctor"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    for check in report["checks"].as_array().unwrap() {
        let advised = check["advice"].is_string();
        assert_eq!(advised, check["status"] != "ok", "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
    }
    (code, report["checks"].clone())
}

/// Status and text of the worst check with a name.
fn found(checks: &Value, name: &str) -> (String, String) {
    let of_name = checks.as_array().unwrap().iter();
    let worst = of_name
        .filter(|check| check["name"] == name)
        .max_by_key(|check| match check["status"].as_str().unwrap() {
            "ok" => 0,
            "warning" => 1,
            _ => 2,
        });
    let worst = worst.unwrap_or_else(|| panic!("no check {name}: {checks:#}"));
    let text = |member: &str| worst[member].as_str().unwrap().to_owned();
    (text("status"), text("found"))
}

#[track_caller]
fn assert_found(checks: &Value, name: &str, status: &str, part: &str) {
    let (found, text) = found(checks, name);
    assert_eq!(found, status, "{name}: {text}");
    assert!(text.contains(part), "{name}: {text}");
}

fn problems(checks: &Value) -> Vec<&str> {
    let checks = checks.as_array().unwrap().iter();
    checks
        .filter(|check| check["status"] == "problem")
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

const ALONE: &str = "discover = false\n";

/// A database with one wallet, whose server has stopped.
async fn node(folder: &Path) -> std::path::PathBuf {
    let database = folder.join("edge.db");
    let server = Process::serve(&database, "");
    server.grant(W1, 3).await;
    assert_eq!(server.terminate(), Some(0));
    database
}

/// A chain whose newest block has this time.
async fn chain(time: r3mes_edge::model::Timestamp) -> Upstream {
    let status = json!({ "jsonrpc": "2.0", "id": -1, "result": {
        "node_info": { "network": "remes" },
        "sync_info": { "latest_block_height": "7", "latest_block_time": time, "catching_up": false },
    }});
    Upstream::start(move |_| Scripted::whole(200, status.to_string())).await
}

#[tokio::test]
async fn a_copy_of_root_is_well_and_a_log_of_another_user_is_named() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give files to other users");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let made = server.admin().post("/admin/backup", &json!(null)).await;
    made.expect(201);
    server.kill();
    // Those of the server's user; the copy stays root's.
    let owned = |suffix: &str, user: u32| {
        let file = format!("{}{suffix}", database.display());
        std::os::unix::fs::chown(file, Some(user), None).unwrap();
    };
    for suffix in ["", "-wal", "-shm", ".admin-key", ".lock"] {
        owned(suffix, 65534);
    }
    let (_, checks) = doctor(&database, ALONE);
    assert_eq!(found(&checks, "files").0, "ok", "{checks:#}");
    owned("-wal", 1);
    let (code, checks) = doctor(&database, ALONE);
    assert_eq!(code, 1);
    let expected = "edge.db-wal belongs to user 1: chown 65534 it";
    assert_found(&checks, "files", "problem", expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_node_has_no_problems_with_and_without_a_server_and_no_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    let model = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let chain = chain(Clock::default().now()).await;
    let config = format!(
        "{ALONE}chain.rpc = \"{}\"\n[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"\n",
        chain.url(),
        model.url()
    );
    let before = picture(folder.path());
    let (code, checks) = doctor(&database, &config);
    assert_eq!((code, problems(&checks)), (0, vec![]), "{checks:#}");
    assert_eq!(picture(folder.path()), before);
    assert_found(&checks, "files", "ok", "mode 0600");
    assert_found(&checks, "admin_key", "ok", "works");
    assert_found(&checks, "inference", "ok", "node answers");
    assert_found(&checks, "chain", "ok", "chain answers");
    assert_found(&checks, "listener", "ok", "this machine only");
    assert_found(&checks, "server", "ok", "none runs");
    assert_found(&checks, "miner", "warning", "none is configured");
    assert_found(&checks, "backups", "warning", "there is no copy");

    assert_eq!(edge(&database, &["backup", "create"]).0, 0);
    let server = Process::serve(&database, "");
    let (code, checks) = doctor(&database, &config);
    assert_eq!((code, problems(&checks)), (0, vec![]), "{checks:#}");
    assert_found(&checks, "server", "ok", "ready at http://127.0.0.1:");
    assert_found(&checks, "backups", "ok", "1 copies");
    server.kill();
    let (code, checks) = doctor(&database, &config);
    assert_eq!(code, 0);
    assert_found(&checks, "server", "warning", "not reached");
    let (code, text) = edge(&database, &["doctor"]);
    assert!(code <= 1 && text.contains("-> "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_another_address_than_the_configuration_says_is_found_and_the_last_line_counts()
{
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    let server = Process::serve(&database, "");
    let (code, checks) = doctor(&database, ALONE);
    assert_eq!(code, 0, "{checks:#}");
    let differs = format!(
        "is at {}, but the configuration says http://127.0.0.1:8000",
        server.address
    );
    assert_found(&checks, "address", "warning", &differs);
    let has = |listen: &str| {
        let (_, checks) = doctor(&database, &format!("{ALONE}listen = {listen:?}"));
        let mut checks = checks.as_array().unwrap().iter();
        checks.any(|check| check["name"] == "address")
    };
    assert!(!has(server.address.strip_prefix("http://").unwrap()));
    assert!(!has("127.0.0.1:0") && has("127.0.0.1:1"));
    let file = database.with_extension("doctor.toml");
    let text = |config: &str| {
        std::fs::write(&file, config).unwrap();
        edge(&database, &["--config", file.to_str().unwrap(), "doctor"]).1
    };
    let lines = text(ALONE);
    let first = format!("Open {}/\n\n", server.address);
    assert!(lines.starts_with(&first), "{lines}");
    let warnings = lines.matches("\nwarning ").count();
    let last = format!("\nNothing must be mended; {warnings} warnings to read.\n");
    assert!(warnings > 1 && lines.ends_with(&last), "{lines}");
    assert_eq!(server.terminate(), Some(0));
    let lines = text(&format!("{ALONE}miner.url = \"http://127.0.0.1:1/\""));
    assert!(
        lines.starts_with("Open http://127.0.0.1:8000/ once it serves\n"),
        "{lines}"
    );
    assert!(lines.contains("\n1 thing to mend, "), "{lines}");
}

/// The names and bytes of all files but the configurations of these tests.
fn picture(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|file| !file.to_string_lossy().ends_with(".toml"))
        .map(|file| (file.display().to_string(), std::fs::read(&file).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_file_modes_and_a_missing_database_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    assert_eq!(edge(&database, &["backup", "create"]).0, 0);
    let beside = |name: &str| folder.path().join(name);
    let copy = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|file| file.extension().is_some_and(|end| end == "backup"));
    let files = [database.clone(), beside("edge.db.admin-key"), copy.unwrap()];
    for file in files {
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let (code, checks) = doctor(&database, ALONE);
        assert_eq!((code, problems(&checks)), (1, vec!["files"]));
        assert_found(&checks, "files", "problem", "mode 0644");
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
    let (code, checks) = doctor(&beside("nowhere.db"), ALONE);
    assert_eq!((code, problems(&checks)), (1, vec!["files"]));
    assert_found(&checks, "files", "problem", "there is no database");
    assert!(!beside("nowhere.db").exists() && !beside("nowhere.db.lock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn exposed_listeners_and_dead_upstreams_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let socket = format!(
        "listen = [\"127.0.0.1:8000\", \"unix:{}/edge.sock\"]",
        open.display()
    );
    for (config, status, part) in [
        (
            "listen = \"0.0.0.0:8000\"\nauth.public_name = \"edge.example\"",
            "warning",
            "other machines",
        ),
        (
            "listen = \"0.0.0.0:8000\"\nauth.public_reads = true",
            "problem",
            "reads need no key",
        ),
        (
            "auth.trusted_proxies = [\"10.0.0.0/8\"]\nauth.public_reads = true\nauth.hosts = [\"edge.example\"]\nauth.public_name = \"edge.example\"",
            "warning",
            "behind a proxy",
        ),
        (
            "auth.trusted_proxies = [\"unix\"]\nauth.public_name = \"edge.example\"",
            "warning",
            "answered 421",
        ),
        (socket.as_str(), "problem", "everybody may write"),
    ] {
        let (code, checks) = doctor(&database, &format!("{ALONE}{config}"));
        assert_eq!(code, i32::from(status == "problem"), "{checks:#}");
        assert_found(&checks, "listener", status, part);
    }

    let dead = Upstream::dead().await;
    let silent = Upstream::start(|_| Scripted::silent()).await;
    let config = format!(
        "{ALONE}chain.rpc = \"{}\"\nchain.timeout = \"1h\"\nminer.url = \"{dead}/stats\"\n[[inference]]\nname = \"node\"\nkind = \"r3mes\"\nurl = \"{dead}\"\n",
        silent.url()
    );
    let started = Instant::now();
    let (code, checks) = doctor(&database, &config);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(
        (code, problems(&checks)),
        (1, vec!["inference", "chain", "miner"])
    );
    assert_found(&checks, "inference", "problem", "no connection");
    assert_found(&checks, "chain", "problem", "timed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_r3mes_node_without_chat_is_found_without_an_inference() {
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    for (status, problem) in [
        ("404 Not Found", true),
        ("405 Method Not Allowed", true),
        ("501 Unsupported method ('POST')", true),
        ("503 Service Unavailable", true),
        ("400 Bad Request", false),
        ("422 Unprocessable Content", false),
    ] {
        let upstream = RawUpstream::start(move |request| {
            let answer = match request.is("GET /health") {
                true => "HTTP/1.0 200 OK\r\n\r\n{\"status\":\"ok\"}".to_owned(),
                false => format!("HTTP/1.0 {status}\r\n\r\n{{\"error\":\"no message\"}}"),
            };
            RawAnswer::new(answer, Then::Close)
        })
        .await;
        let config = format!(
            "{ALONE}[[inference]]\nname = \"node\"\nkind = \"r3mes\"\nurl = \"{}\"\n",
            upstream.url()
        );
        let (code, checks) = doctor(&database, &config);
        assert_eq!(code, i32::from(problem), "{checks:#}");
        if problem {
            let part = format!("POST /chat has status {}", &status[..3]);
            assert_found(&checks, "inference", "problem", &part);
        } else {
            assert_found(&checks, "inference", "ok", "node answers");
        }
        let asked = upstream.seen("POST /chat");
        assert_eq!((asked.len(), asked[0].body.as_str()), (1, "{}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_chats_is_found_with_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    // llama.cpp names its models without a key.
    for (status, part) in [
        (401, "POST /v1/chat/completions has status 401"),
        (307, "has status 307"),
        (404, "has status 404"),
        (400, ""),
    ] {
        let upstream = Upstream::inference(move |_| Scripted::whole(status, "{}")).await;
        let node = format!(
            "[[inference]]\nname = \"node\"\nurl = \"{}\"\n",
            upstream.url()
        );
        let config = format!("{ALONE}{node}");
        let (code, checks) = doctor(&database, &config);
        assert_eq!(code, i32::from(status != 400), "{checks:#}");
        if status == 400 {
            let part =
                "and serves chat/completions, completions, embeddings, messages, rerank, responses";
            assert_found(&checks, "inference", "ok", part);
            continue;
        }
        assert_found(&checks, "inference", "problem", part);
        // The running server counts what its chats met.
        let server = Process::serve(&database, &node);
        let hi = json!({ "message": "hi", "wallet_address": W1 });
        let answer = server.admin().post("/chat", &hi).await;
        assert!(answer.status > 500);
        let (_, checks) = doctor(&database, &config);
        let part = format!("(status {status}), 1 in a row");
        assert_found(&checks, "server", "warning", &part);
        assert_eq!(server.terminate(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn low_disk_space_a_missing_folder_and_a_server_that_rejects_writes_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let database = node(folder.path()).await;
    let nowhere = folder.path().join("nowhere");
    let much = format!("{ALONE}alerts.disk_free = \"100000GiB\"\n");
    let (code, checks) = doctor(&database, &much);
    assert_eq!(code, 0, "{checks:#}");
    assert_found(&checks, "disk_free", "warning", "MiB");
    let elsewhere = format!("{ALONE}backup.folder = \"{}\"\n", nowhere.display());
    let (code, checks) = doctor(&database, &elsewhere);
    assert_eq!((code, problems(&checks)), (1, vec!["disk_free", "backups"]));

    let server = Process::serve(&database, "");
    server.limit_files(Some(4096));
    let user = json!({ "wallet_address": W1, "amount": 1, "reason": "test" });
    let path = format!("/users/{W1}/credits");
    let refused = server.admin().post(&path, &user).await;
    assert_ne!(refused.status, 200);
    let refused = server
        .admin()
        .post("/users", &json!({ "wallet_address": crate::support::W2 }))
        .await;
    refused.refused(503, "storage_unavailable");
    let (code, checks) = doctor(&database, ALONE);
    assert_eq!((code, problems(&checks)), (1, vec!["server"]));
    assert_found(&checks, "server", "problem", "status 503");
}
