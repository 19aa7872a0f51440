//! `status`, `alerts` and `chat`, and the first line of a server.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Process, Scripted, Upstream, W1, W2, edge, edge_output, eventually};

fn node(upstream: &Upstream) -> String {
    format!(
        "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"{}\"\n",
        upstream.url()
    )
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_the_page_says_and_alerts_are_tables() {
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, &node(&upstream));
    let run = |arguments: &[&str]| {
        let (code, out, stderr) = edge_output(&database, arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        (out, stderr)
    };
    let sample = json!({ "wallet_address": W1, "hashrate": 42.5, "gpu_temperature": 67 });
    server
        .admin()
        .post("/miner/stats", &sample)
        .await
        .expect(201);
    server.grant(W1, 3).await;
    let (text, _) = run(&["status"]);
    let version = format!("\nversion    {}\n", env!("CARGO_PKG_VERSION"));
    let first = format!(
        "Open {}/\n\nstatus     ok: all systems normal; 1 upstream, no alert\n",
        server.address
    );
    assert!(
        text.starts_with(&first) && text.contains(&version),
        "{text}"
    );
    for line in [
        "uptime     0 s",
        "upstream   node: in use",
        "alerts     none fires",
    ] {
        assert!(
            text.contains(&format!("{line}\n")) || text.ends_with(&format!("{line}\n")),
            "{text}"
        );
    }
    for line in [
        &format!("wallet     {W1}\nbalance    3 credits\n"),
        "miner      42.5 gradients/h, mining, 67 °C, last sample at 20",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let (out, stderr) = run(&["alerts"]);
    assert_eq!(
        (out.as_str(), stderr.as_str()),
        ("", "no alert fires\nno alert ended lately\n")
    );

    run(&["breaker", "open", "node"]);
    let (text, _) = run(&["status"]);
    assert!(text.contains("\nstatus     problem: "), "{text}");
    assert!(
        text.contains("\nupstream   node: open, forced by the operator\n"),
        "{text}"
    );
    assert!(
        text.contains("\nalert      CRITICAL breaker_open: "),
        "{text}"
    );
    let (table, _) = run(&["alerts"]);
    let rows: Vec<_> = table.lines().collect();
    assert!(
        rows[0].starts_with("SEVERITY  FIRING  ") && rows[0].ends_with("SUMMARY"),
        "{table}"
    );
    assert!(
        rows[1].starts_with("CRITICAL  breaker_open  ") && rows.len() == 2,
        "{table}"
    );
    let status = parsed(&run(&["status", "--json"]).0);
    assert_eq!(
        (&status["status"], &status["wallet_address"]),
        (&json!("problem"), &json!(W1))
    );
    assert_eq!(status["open"], format!("{}/", server.address));
    assert_eq!(status["health"]["breakers"][0]["state"], "OPEN");
    assert_eq!(
        (&status["account"]["credits"], &status["miner"]["hashrate"]),
        (&json!(3), &json!(42.5))
    );
    let alerts = parsed(&run(&["alerts", "--json"]).0);
    assert_eq!(alerts["firing"], status["alerts"]["firing"]);
    assert_eq!(server.terminate(), Some(0));
    for command in ["status", "alerts"] {
        let (code, out, stderr) = edge_output(&database, &[command]);
        assert_eq!((code, out.as_str()), (5, ""));
        assert!(stderr.contains("no server runs on "), "{stderr}");
    }
}

/// The first line of stdout of a server, and what its lock file names.
fn first_line(database: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command.env_clear().env("R3MES_EDGE_DISCOVER", "false");
    command.arg("--database").arg(database).args(arguments);
    let mut server = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(server.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let address = std::fs::read_to_string(database.with_added_extension("lock")).unwrap();
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    out.read_to_string(&mut String::new()).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    (line, address)
}

#[test]
fn the_first_line_of_a_first_start_says_where_the_page_is() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let (line, address) = first_line(&database, &["--listen", "127.0.0.1:0"]);
    assert_eq!(line, format!("Open {address}/\n"));
    // As the first key was not used, the next start is a first one still; with --json it is one object.
    let (line, address) = first_line(&database, &["--json", "serve", "--listen", "127.0.0.1:0"]);
    let started = parsed(&line);
    assert_eq!(started["open"], format!("{address}/"));
    assert_eq!(
        started["admin_key_file"],
        format!("{}.admin-key", database.display())
    );
    let socket = format!("unix:{}/edge.sock", folder.path().display());
    let other = folder.path().join("b.db");
    let (line, _) = first_line(&other, &["--listen", &socket]);
    assert!(
        line.starts_with("No browser opens its Unix socket /"),
        "{line}"
    );
    let (code, text) = edge(
        &folder.path().join("c.db"),
        &["--listen", "[::]:81", "init"],
    );
    assert!(
        code == 0 && text.starts_with("Open http://[::1]:81/ once it serves\n"),
        "{text}"
    );
    let (code, text) = edge(&folder.path().join("d.db"), &["--listen", "[::]:0", "init"]);
    assert!(
        code == 0 && text.starts_with("Open the address that the server prints"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_printed_as_it_comes_and_says_what_it_cost() {
    let (upstream, held) = Upstream::inference_held().await;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, &node(&upstream));
    server.grant(W1, 3).await;
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
        command.env_clear().arg("--database").arg(&database);
        command.args(["chat", "Hello", "--wallet", W1, "--model", "general"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut chat = start();
    let frames = eventually("the chat is asked", async || held.lock().unwrap().pop()).await;
    let mut out = chat.stdout.take().unwrap();
    frames.send_word("first ");
    let mut piece = [0; 6];
    out.read_exact(&mut piece).unwrap();
    // Before anything more is sent.
    assert_eq!(&piece, b"first ");
    frames.send_word("second");
    frames.send_done();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim_end(), "second");
    let done = chat.wait_with_output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(0), "{stderr}");
    assert_eq!(
        stderr,
        format!("1 credit charged for general; {W1} has 2 credits left\n")
    );

    let mut chat = start();
    let frames = eventually("the chat is asked", async || held.lock().unwrap().pop()).await;
    frames.send_word("half");
    let mut out = chat.stdout.take().unwrap();
    let mut piece = [0; 4];
    out.read_exact(&mut piece).unwrap();
    frames.cut();
    let done = chat.wait_with_output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!((&piece, done.status.code()), (b"half", Some(1)), "{stderr}");
    for part in [
        "the answer broke off (",
        "request req_",
        "1 credit charged for general",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_paid_by_the_wallet_of_a_key_or_by_the_one_that_an_admin_names() {
    let upstream = Upstream::inference(|_| Scripted::words(&["some ", "words"])).await;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, &node(&upstream));
    server.grant(W1, 3).await;
    let (_, key) = edge(&database, &["keys", "create", "--wallet", W1]);
    let (_, no_read) = edge(
        &database,
        &["keys", "create", "--wallet", W1, "--scopes", "chat"],
    );
    let file = folder.path().join("wallet.key");
    std::fs::write(&file, &key).unwrap();
    let with_key = |key: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
        command.env_clear().env("R3MES_EDGE_KEY", key.trim());
        command.args(["--database", database.to_str().unwrap(), "chat"]);
        let done = command.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            done.status.code().unwrap(),
            text(done.stdout),
            text(done.stderr),
        )
    };
    let (code, out, stderr) = with_key(&key, &["Hello"]);
    assert_eq!((code, out.trim_end()), (0, "some words"), "{stderr}");
    assert_eq!(
        stderr,
        format!("1 credit charged for general; {W1} has 2 credits left\n")
    );
    let name = file.to_str().unwrap();
    // Elsewhere no admin key is needed.
    let url = [
        "--url",
        &server.address,
        "chat",
        "Hello",
        "--key-file",
        name,
        "--json",
    ];
    let (code, out) = edge(&folder.path().join("none.db"), &url);
    let answer = parsed(&out);
    assert_eq!(
        (code, answer["text"].as_str().unwrap().trim_end()),
        (0, "some words")
    );
    assert_eq!(
        (&answer["charged"], &answer["balance"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        (&answer["wallet_address"], &answer["model"]),
        (&json!(W1), &json!("general"))
    );
    assert!(answer["request_id"].as_str().unwrap().starts_with("req_"));
    let (code, out, stderr) = with_key(&no_read, &["Hello"]);
    assert!(code == 0 && out.starts_with("some words"), "{stderr}");
    assert!(
        stderr.starts_with("the charge is not known: the key is refused"),
        "{stderr}"
    );

    for (arguments, expected, part) in [
        (&["Hello"][..], 2, "which wallet pays?"),
        (&["Hello", "--wallet", W1], 4, "credits"),
        (&["Hello", "--wallet", W2], 3, ""),
        (
            &["Hello", "--wallet", W1, "--model", "none"],
            2,
            "unknown adapter",
        ),
        (
            &["Hello", "--key-file", "/nowhere.key"],
            2,
            "--key-file /nowhere.key: No such file",
        ),
    ] {
        let arguments = [&["chat"], arguments].concat();
        let (code, out, stderr) = edge_output(&database, &arguments);
        assert_eq!(
            (code, out.as_str()),
            (expected, ""),
            "{arguments:?}: {stderr}"
        );
        assert!(stderr.contains(part), "{stderr}");
    }
    let (code, _, stderr) = with_key(&key, &["Hello", "--wallet", W2]);
    assert!(
        code == 1 && stderr.contains("the key is refused"),
        "{stderr}"
    );
    assert_eq!(with_key("r3mes_wrong", &["Hello"]).0, 2);
    assert_eq!(server.terminate(), Some(0));
}
