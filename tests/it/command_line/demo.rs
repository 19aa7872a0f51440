//! `demo`: its first line is the address of the page, everything around the server answers, and nothing is left behind.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Caller, edge_output};

fn demo(folder: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command
        .env_clear()
        .env("TMPDIR", folder)
        .stdout(Stdio::piped());
    command
        .args(["demo", "--listen", "127.0.0.1:0"])
        .args(arguments);
    command
}

#[tokio::test]
async fn the_first_line_of_the_demo_is_the_address_of_a_page_whose_chats_are_paid() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = demo(folder.path(), &[]).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.strip_prefix("Open ").unwrap();
    let address = address.strip_suffix('/').unwrap();
    let mut value = |name: &str| {
        let line = lines.find_map(|line| {
            let line = line.unwrap();
            let value = line.trim().strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_matches('\'').to_owned())
        });
        line.unwrap()
    };
    let (wallet, key) = (value("WALLET"), value("KEY"));
    let caller = Caller::new(address, Some(&key));
    assert_eq!(caller.get("/").await.status, 200);
    let body = serde_json::json!({ "model": "general", "messages": [{ "role": "user", "content": "Hello" }] });
    let answer = caller.post("/v1/chat/completions", &body).await.expect(200);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        text.starts_with("This is a stand-in, not a model."),
        "{text}"
    );
    let account = caller.get(&format!("/users/{wallet}")).await.expect(200);
    assert_eq!(account["credits"], 99);
    let pid = Pid::from_child(&process);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_demo_refuses_a_configuration_or_a_database_and_prints_one_json_value() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, stderr) = edge_output(&folder.path().join("edge.db"), &["demo"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(stderr.contains("--listen"), "{stderr}");
    let mut process = demo(folder.path(), &["--json"]).spawn().unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let value: Value = serde_json::from_str(&line).unwrap();
    assert!(
        value["url"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    kill_process(Pid::from_child(&process), Signal::INT).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(
        (process.wait().unwrap().code(), rest.as_str()),
        (Some(0), "")
    );
}
