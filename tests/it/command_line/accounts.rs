//! Accounts and credits, through the running server and on the file itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::support::{Process, TestServer, W1, W2, config, edge, wallet};

/// What must hold through the server and on the file.
fn the_story_of_an_account(database: &Path) {
    let run = |arguments: &[&str]| edge(database, arguments);
    let json = |arguments: &[&str]| {
        let (code, output) = run(&[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{arguments:?}");
        output
    };
    assert_eq!(run(&["users", "show", W1]).0, 3);
    let made = json(&["users", "create", W1]);
    assert!(made.starts_with(&format!("{{\"wallet_address\":\"{W1}\",\"credits\":0,")));
    assert_eq!(json(&["users", "show", W1]), made);
    assert_eq!(run(&["users", "create", W1]).0, 4);
    // To the millionth, with more digits than a float has.
    let given = json(&["credits", "grant", W1, "0.000001", "--reason", "=1+1"]);
    assert!(
        given.starts_with("{\"credits\":0.000001,\"entry\":{"),
        "{given}"
    );
    assert!(given.contains("\"amount\":0.000001,\"balance\":0.000001,\"reason\":\"=1+1\""));
    for _ in 0..9 {
        let grant = ["credits", "grant", W1, "1000000000", "--reason", "much"];
        assert_eq!(run(&grant).0, 0);
    }
    let shown = json(&["users", "show", W1]);
    assert!(shown.contains("\"credits\":9000000000.000001,"), "{shown}");
    let lines = run(&["users", "show", W1]).1;
    let words: Vec<_> = lines.split_whitespace().take(4).collect();
    assert_eq!(
        words,
        ["wallet_address", W1, "credits", "9000000000.000001"]
    );
    let (code, output) = run(&["credits", "take", W1, "0.000002", "--reason", "a fee"]);
    assert_eq!(
        (code, output),
        (0, format!("{W1} has 8999999999.999999 credits now\n"))
    );
    // One grant to a wallet without an account makes it; nothing can be taken from one.
    assert_eq!(run(&["credits", "take", W2, "1", "--reason", "a fee"]).0, 3);
    assert_eq!(
        run(&["credits", "grant", W2, "1", "--reason", "welcome"]).0,
        0
    );
    assert_eq!(
        run(&["credits", "take", W2, "1.000001", "--reason", "a fee"]).0,
        4
    );
    for wrong in [
        "-5",
        "-0.5",
        "0",
        "+1",
        "1e3",
        "1.0000001",
        "1000000000.1",
        "five",
        "",
    ] {
        let grant = ["credits", "grant", W1, wrong, "--reason", "wrong"];
        assert_eq!(run(&grant).0, 2, "{wrong} was taken");
    }
    assert_eq!(run(&["credits", "grant", W1, "1"]).0, 2);
    assert_eq!(run(&["credits", "grant", W1, "1", "--reason", ""]).0, 2);
    assert_eq!(
        run(&["credits", "grant", "remes1x", "1", "--reason", "r"]).0,
        2
    );
    let listed = |options: &[&str]| -> Vec<String> {
        let text = json(&[&["users", "list"], options].concat());
        let listed: Value = serde_json::from_str(&text).unwrap();
        let users = listed["users"].as_array().unwrap().iter();
        let wallets = users.map(|user| user["wallet_address"].as_str().unwrap().to_owned());
        wallets.collect()
    };
    assert_eq!(listed(&[]), [W2, W1], "in the order of the addresses");
    assert_eq!(listed(&["--sort", "balance"]), [W1, W2]);
    assert_eq!(listed(&["--search", &W1[10..16]]), [W1]);
    assert_eq!(run(&["users", "list", "--sort", "name"]).0, 2);
    let (_, lines) = run(&["users", "list"]);
    let lines: Vec<Vec<_>> = lines
        .lines()
        .map(|line| line.split("  ").collect())
        .collect();
    assert_eq!(lines[0][0], "WALLET");
    assert_eq!(
        (lines[2][0], lines[2][1], lines.len()),
        (W1, "8999999999.999999", 3)
    );
    assert_eq!(run(&["ledger", "verify"]).0, 0);
}

#[tokio::test]
async fn the_command_line_makes_accounts_and_moves_credits_without_a_server() {
    let folder = TestServer::start(config()).await.shutdown().await;
    the_story_of_an_account(&folder.path().join("edge.db"));
}

#[test]
fn the_command_line_makes_accounts_and_moves_credits_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve(&folder.path().join("edge.db"), "");
    the_story_of_an_account(&server.database);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_wrong_amount_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let run = |amount: &str| {
        let arguments = ["credits", "grant", W1, amount, "--reason", "r"];
        let (code, _, stderr) =
            crate::support::edge_output(&folder.path().join("edge.db"), &arguments);
        assert_eq!(code, 2);
        stderr
    };
    assert!(run("-5").contains("must be more than 0; use `credits take`"));
    assert!(run("1e3").contains("must be a plain decimal number of credits"));
    assert!(run("0.0000001").contains("a millionth of a credit is the smallest amount"));
}

/// A proxy that relays each connection's request to `server` but drops the first `lost` responses.
fn losing(listener: TcpListener, server: &str, lost: usize) {
    let server = server.strip_prefix("http://").unwrap().to_owned();
    std::thread::spawn(move || {
        for (at, asked) in listener.incoming().enumerate() {
            let (mut asked, mut asking) = (asked.unwrap(), TcpStream::connect(&server).unwrap());
            let mut request = vec![0; 1 << 16];
            let read = asked.read(&mut request).unwrap();
            asking.write_all(&request[..read]).unwrap();
            let mut answer = vec![0; 1 << 16];
            let read = asking.read(&mut answer).unwrap();
            if at >= lost {
                asked.write_all(&answer[..read]).unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_whose_response_is_lost_is_retried_and_made_once() {
    for (lost, code) in [(1, 0), (2, 0), (9, 5)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = TestServer::start_with(config(), |store| {
            store.announce(&address).unwrap();
            Arc::new(store)
        })
        .await;
        losing(listener, &server.base, lost);
        let database = server.database();
        let key = format!("{}.admin-key", database.display());
        std::fs::write(key, server.admin().key()).unwrap();
        let grant = ["credits", "grant", W1, "5", "--reason", "once"];
        assert_eq!(edge(&database, &grant).0, code);
        let (_, entries) = server.store.ledger(wallet(W1), None, 10).await.unwrap();
        assert_eq!(entries.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_accounts_than_one_page_holds_are_listed_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let hrp = bech32::Hrp::parse("remes").unwrap();
    let mut wallets: Vec<String> = (0..501_u16)
        .map(|n| {
            let mut account = [0; 20];
            account[..2].copy_from_slice(&n.to_le_bytes());
            bech32::encode::<bech32::Bech32>(hrp, &account).unwrap()
        })
        .collect();
    let samples: Vec<_> = wallets
        .iter()
        .map(|wallet| serde_json::json!({ "wallet_address": wallet, "hashrate": 1 }))
        .collect();
    server
        .admin()
        .post("/miner/stats", &samples.into())
        .await
        .expect(201);
    wallets.sort_unstable();
    let listed = || -> Vec<String> {
        let (code, lines) = edge(&database, &["users", "list"]);
        assert_eq!(code, 0);
        let rows = lines.lines().skip(1);
        rows.map(|line| line[..44].to_owned()).collect()
    };
    assert_eq!(listed(), wallets);
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(listed(), wallets);
}
