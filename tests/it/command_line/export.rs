//! `ledger export` against what the ledger holds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use r3mes_edge::model::Credits;
use r3mes_edge::store::Actor;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use crate::support::{TestServer, W1, W2, W3, config, edge, wallet};

/// Reasons that a table or a spreadsheet could get wrong.
const REASONS: [&str; 6] = [
    "welcome",
    "a \"quoted\", parted text",
    "=HYPERLINK(\"http://example.org\")",
    "-2+3",
    "@SUM(A1)",
    "öäü \u{1F600}",
];

/// A server whose ledger has more entries than one page.
async fn server() -> TestServer {
    let server = TestServer::start(config()).await;
    grant(&server, 2100).await;
    server
}

async fn grant(server: &TestServer, times: i64) {
    let mut grants = JoinSet::new();
    for n in 1..=times {
        let (store, now) = (server.store.clone(), server.clock.now());
        let to = wallet([W1, W2, W3][n as usize % 3]);
        let reason = REASONS[n as usize % REASONS.len()].to_owned();
        grants.spawn(async move {
            let amount = Credits::from_micro(n * 1_000_003);
            store
                .grant(to, amount, reason, None, Actor::local(now), None)
                .await
                .unwrap();
        });
        if grants.len() == 100 {
            grants.join_next().await.unwrap().unwrap();
        }
    }
    grants.join_all().await;
    for (from, micro) in [(W1, 1), (W2, 999_999)] {
        let taken = Credits::from_micro(-micro);
        let (store, now) = (&server.store, server.clock.now());
        let took = store.grant(
            wallet(from),
            taken,
            "a fee".to_owned(),
            None,
            Actor::local(now),
            None,
        );
        took.await.unwrap();
    }
}

/// One entry: wallet, amount, balance after it, reason.
type Entry = (String, Credits, Credits, String);

/// Parses CSV strictly by RFC 4180.
fn records(csv: &str) -> Vec<Vec<String>> {
    let (mut records, mut fields, mut text, mut quoted) = (vec![], vec![], String::new(), false);
    let mut rest = csv.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => text.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut text)),
            '\r' if !quoted => {
                assert_eq!(rest.next(), Some('\n'));
                fields.push(std::mem::take(&mut text));
                records.push(std::mem::take(&mut fields));
            }
            c => text.push(c),
        }
    }
    assert!(!quoted && text.is_empty() && fields.is_empty());
    records
}

fn of_csv(csv: &str) -> Vec<Entry> {
    let mut records = records(csv).into_iter();
    let names = records.next().unwrap().join(",");
    assert_eq!(
        names,
        "id,wallet_address,amount,balance,reason,reference,adapter,prompt_tokens,cached_tokens,completion_tokens,estimated,request_id,key_id,created_at"
    );
    let credits = |text: &str| Credits::parse(text).unwrap();
    records
        .map(|record| {
            let [_, wallet, amount, balance, reason, ..] = &record[..] else {
                panic!("{record:?}")
            };
            assert!(!reason.starts_with(['=', '+', '-', '@']), "{reason}");
            let reason = reason.strip_prefix('\'').unwrap_or(reason).to_owned();
            (wallet.clone(), credits(amount), credits(balance), reason)
        })
        .collect()
}

fn of_json(json: &str) -> Vec<Entry> {
    #[derive(Deserialize)]
    struct Row {
        wallet_address: String,
        amount: Box<RawValue>,
        balance: Box<RawValue>,
        reason: String,
    }
    let credits = |text: &RawValue| Credits::parse(text.get()).unwrap();
    #[derive(Deserialize)]
    struct Export {
        entries: Vec<Row>,
    }
    let Export { entries: rows } = serde_json::from_str(json).unwrap();
    let entry = |row: Row| {
        let (amount, balance) = (credits(&row.amount), credits(&row.balance));
        (row.wallet_address, amount, balance, row.reason)
    };
    rows.into_iter().map(entry).collect()
}

/// What each wallet's entries add up to, each entry's balance being what they did until then.
fn sums(entries: &[Entry]) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for (wallet, amount, balance, _) in entries {
        let sum = sums.entry(wallet.clone()).or_default();
        *sum += amount.micro();
        assert_eq!(*sum, balance.micro(), "{wallet}");
    }
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_adds_up_to_every_balance_and_is_the_same_in_every_format() {
    let server = server().await;
    let mut balances = BTreeMap::new();
    for of in [W1, W2, W3] {
        balances.insert(of.to_owned(), server.balance(of).await.micro());
    }
    let export = |arguments: &[&str]| {
        let (code, out) = edge(
            &server.database(),
            &[&["ledger", "export"], arguments].concat(),
        );
        assert_eq!(code, 0);
        out
    };
    let table = of_csv(&export(&[]));
    assert_eq!(table.len(), 2102);
    assert_eq!(sums(&table), balances);
    for reason in REASONS {
        assert!(
            table.iter().any(|(.., written)| written == reason),
            "{reason}"
        );
    }
    assert_eq!(of_json(&export(&["--json"])), table);
    assert_eq!(of_json(&export(&["--format", "json"])), table);
    let own = of_csv(&export(&["--wallet", W2]));
    let others = |entry: &&Entry| entry.0 == W2;
    assert_eq!(
        own,
        table.iter().filter(others).cloned().collect::<Vec<_>>()
    );
    // Without a server the same, from a file alone in its folder.
    let folder = server.shutdown().await;
    let alone = tempfile::tempdir().unwrap();
    let copy = alone.path().join("edge.db");
    std::fs::copy(folder.path().join("edge.db"), &copy).unwrap();
    let (code, out) = edge(&copy, &["ledger", "export"]);
    assert_eq!((code, of_csv(&out)), (0, table));
    assert_eq!(std::fs::read_dir(alone.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_beside_writers_adds_up_at_its_last_entry() {
    let server = server().await;
    let database = server.database();
    let exporting = tokio::task::spawn_blocking(move || edge(&database, &["ledger", "export"]));
    let mut granted = 0;
    while !exporting.is_finished() {
        grant(&server, 100).await;
        granted += 102;
    }
    let (code, out) = exporting.await.unwrap();
    let entries = of_csv(&out);
    assert_eq!(code, 0);
    assert_eq!(sums(&entries).len(), 3);
    assert!((2102..=2102 + granted).contains(&entries.len()));
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn an_export_of_an_unknown_wallet_or_format_is_refused() {
    let server = TestServer::start(config()).await;
    let database = server.database();
    let run = |arguments: &[&str]| edge(&database, &[&["ledger", "export"], arguments].concat());
    assert_eq!(run(&["--json"]), (0, "{\"entries\":[\n]}\n".to_owned()));
    assert_eq!(run(&["--wallet", W1]).0, 3);
    assert_eq!(run(&["--wallet", "remes1x"]).0, 2);
    assert_eq!(run(&["--format", "csv", "--json"]).0, 2);
    assert_eq!(run(&["--format", "xml"]).0, 2);
}

fn command(database: &Path, arguments: &[&str], out: impl Into<Stdio>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command.arg("--database").arg(database).env_clear();
    command.args(arguments).stdout(out).stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_a_command_without_an_error() {
    let server = server().await;
    for arguments in [&["ledger", "export"][..], &["ledger", "export", "--json"]] {
        let mut child = command(&server.database(), arguments, Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::with_capacity(100, out)
            .read_line(&mut first)
            .unwrap();
        let mut stderr = String::new();
        let mut errors = child.stderr.take().unwrap();
        errors.read_to_string(&mut stderr).unwrap();
        assert_eq!(
            (child.wait().unwrap().code(), stderr.as_str()),
            (Some(0), "")
        );
    }
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    for (arguments, code) in [
        (&["users", "list"][..], 0),
        (&["users", "list", "--json"], 0),
        (&["users", "show", W1], 0),
        (&["keys", "list"], 0),
        // The new key is lost when it cannot be printed, so this one fails.
        (&["keys", "create", "--wallet", W1], 1),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = command(&database, arguments, writer).output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_eq!(stderr.is_empty(), code == 0, "{stderr}");
    }
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() {
    let server = TestServer::start(config()).await;
    let folder = server.shutdown().await;
    let database = folder.path().join("edge.db");
    for arguments in [
        &["ledger", "export"][..],
        &["ledger", "export", "--json"],
        &["ledger", "verify"],
        &["keys", "list"],
    ] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let done = command(&database, arguments, full).output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("the answer cannot be written"), "{stderr}");
    }
}
