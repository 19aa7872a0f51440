//! The commands that are one request and print its answer: accounts, credits, the ledger's check, the audit
//! trail, breakers.

use clap::{Args, Subcommand};
use r3mes_edge::model::{Credits, ParseError, Timestamp, Wallet};
use r3mes_edge::store::{LedgerEntry, LedgerReport};
use serde::Serialize;
use serde_json::{Value, json};

use super::client::{self, Client};
use super::output::{answer, header, progress, row};
use super::{Failure, Result, checked, path_segment};

#[derive(Subcommand)]
pub(super) enum Users {
    /// Create an account with 0 credits
    ///
    /// Example: r3mes-edge users create remes1…
    Create(Account),
    /// Show an account
    ///
    /// Example: r3mes-edge users show remes1…
    Show(Account),
    /// Block an account: it keeps its credits, but cannot log in, pay or make keys, from its next request on
    ///
    /// Its reads, telemetry and earnings go on, and requests that are answered already are charged.
    ///
    /// Example: r3mes-edge users block remes1…
    Block(Account),
    /// Unblock an account
    ///
    /// Example: r3mes-edge users unblock remes1…
    Unblock(Account),
    /// List all accounts, in the order of their addresses
    ///
    /// Each line is an account: address, credits, time of creation, time of the last mining, whether it is blocked.
    ///
    /// Example: r3mes-edge users list
    List,
}

#[derive(Args, Serialize)]
pub(super) struct Account {
    /// Its wallet address
    #[arg(value_parser = Wallet::parse)]
    wallet_address: Wallet,
}

pub(super) async fn users(command: Users, client: &Client) -> Result {
    let user = match command {
        Users::Create(account) => client.post("/users", &account).await?,
        Users::Show(Account { wallet_address: of }) => client.get(&format!("/users/{of}")).await?,
        Users::Block(Account { wallet_address: of }) => {
            client.post(&format!("/users/{of}/block"), &()).await?
        }
        Users::Unblock(Account { wallet_address: of }) => {
            client.post(&format!("/users/{of}/unblock"), &()).await?
        }
        Users::List => return client.list("users", "/users?", &USER).await,
    };
    answer(client.json, &user, row(&user, &USER)?)
}

const USER: [(&str, usize); 5] = [
    ("wallet_address", 0),
    ("credits", 18),
    ("created_at", 0),
    ("last_mining_at", 24),
    ("blocked", 0),
];

#[derive(Subcommand)]
pub(super) enum Movements {
    /// Add credits to a wallet; creates its account if missing
    ///
    /// If the response is lost the request is retried with the same idempotency key.
    ///
    /// Example: r3mes-edge credits grant remes1… 12.5 --reason welcome
    Grant(Movement),
    /// Deduct credits from a wallet, at most its balance
    ///
    /// Example: r3mes-edge credits take remes1… 0.25 --reason correction
    Take(Movement),
}

#[derive(Args, Serialize)]
pub(super) struct Movement {
    /// The wallet address
    #[arg(value_parser = Wallet::parse)]
    #[serde(skip)]
    wallet: Wallet,
    /// A decimal number with at most 6 decimal places
    #[arg(value_parser = amount, allow_hyphen_values = true)]
    amount: Credits,
    /// The reason, for the ledger
    #[arg(long, value_parser = LedgerEntry::reason)]
    reason: String,
    /// What it belongs to elsewhere, for the ledger: the number of an invoice, say
    #[arg(long, value_parser = LedgerEntry::reference)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
}

fn amount(text: &str) -> Result<Credits, ParseError> {
    match Credits::parse(text)? {
        amount if amount > Credits::ZERO => Ok(amount),
        _ => Err("must be more than 0; use `credits take` to debit".into()),
    }
}

pub(super) async fn credits(command: Movements, client: &Client) -> Result {
    let (sign, mut movement) = match command {
        Movements::Grant(movement) => (1, movement),
        Movements::Take(movement) => (-1, movement),
    };
    movement.amount = Credits::from_micro(sign * movement.amount.micro());
    let wallet = movement.wallet;
    let path = format!("/users/{wallet}/credits");
    let granted = client.post(&path, &movement).await?;
    let credits = row(&granted, &[("credits", 0)])?;
    answer(
        client.json,
        &granted,
        format!("{wallet} has {credits} credits now"),
    )
}

#[derive(Args)]
pub(super) struct Used {
    /// What a line is of
    #[arg(long, default_value = "day", value_parser = ["day", "key", "model"])]
    by: String,
    /// The first day has this time: RFC 3339 or unix seconds [default: 30 days before the end]
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    from: Option<Timestamp>,
    /// The last day has this time, or ends with it [default: now]
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    to: Option<Timestamp>,
    /// Only of this wallet
    #[arg(long, value_parser = Wallet::parse)]
    wallet: Option<Wallet>,
}

pub(super) async fn usage(used: &Used, client: &Client) -> Result {
    let by = used.by.as_str();
    let mut query = format!("/usage?by={by}&");
    for (name, time) in [("from", used.from), ("to", used.to)] {
        query += &time.map_or_else(String::new, |time| format!("{name}={time}&"));
    }
    if let Some(wallet) = used.wallet {
        query += &format!("wallet={wallet}&");
    }
    let group = match by {
        "key" => ("key_id", 30),
        "model" => ("model", 30),
        _ => ("day", 10),
    };
    let columns = [
        group,
        ("requests", 10),
        ("lost", 10),
        ("prompt_tokens", 15),
        ("cached_tokens", 15),
        ("completion_tokens", 17),
        ("credits", 0),
    ];
    if !client.json {
        println!("{}", header(&columns));
    }
    client.list("usage", &query, &columns).await
}

pub(super) async fn verify_ledger(client: &Client, full: bool) -> Result {
    progress("checking every wallet");
    let path = format!("/admin/ledger/verify?full={full}");
    let verified = client.get(&path).await?;
    let report: LedgerReport = serde_json::from_str(&verified)?;
    answer(client.json, &verified, ledger_summary(&report))?;
    checked("the ledger", report.mistakes.len())
}

/// The numbers of a report, then its errors, each on a line.
pub(super) fn ledger_summary(report: &LedgerReport) -> String {
    let mut lines = format!("{} wallets, {} entries", report.wallets, report.entries);
    for error in &report.mistakes {
        lines += &format!("\n{error}");
    }
    lines
}

#[derive(Subcommand)]
pub(super) enum Audit {
    /// List the administrative changes of two years, newest first
    ///
    /// Each line is a change: time, key or local user, client's address, action, target, credits, reason.
    ///
    /// Example: r3mes-edge audit list
    List,
}

pub(super) async fn audit(client: &Client) -> Result {
    const COLUMNS: [(&str, usize); 7] = [
        ("created_at", 0),
        ("actor", 30),
        ("address", 15),
        ("action", 15),
        ("target", 44),
        ("amount", 18),
        ("reason", 0),
    ];
    client.list("entries", "/admin/audit?", &COLUMNS).await
}

#[derive(Subcommand)]
pub(super) enum Breakers {
    /// Show the state of each upstream's breaker
    ///
    /// Example: r3mes-edge breaker list
    List,
    /// Refuse every call to an upstream until its breaker is reset
    ///
    /// Example: r3mes-edge breaker open node
    Open(Upstream),
    /// Close a breaker and reset its counts
    ///
    /// Example: r3mes-edge breaker reset node
    Reset(Upstream),
}

#[derive(Args)]
pub(super) struct Upstream {
    /// The upstream, as `breaker list` names it
    #[arg(value_parser = path_segment)]
    name: String,
}

pub(super) async fn breakers(command: Breakers, client: &Client) -> Result {
    if client::server_of(&client.config.database)?.is_none() {
        return Err(Failure::Unavailable(format!(
            "no server runs on {}: only a running one has breakers",
            client.config.database.display()
        )));
    }
    let (Upstream { name }, state) = match command {
        Breakers::Open(upstream) => (upstream, "open"),
        Breakers::Reset(upstream) => (upstream, "reset"),
        Breakers::List => {
            let text = client.get("/admin/breakers").await?;
            let list: Value = serde_json::from_str(&text)?;
            let breakers = list["breakers"].as_array().into_iter().flatten();
            let rows = breakers.map(|breaker| row(&breaker.to_string(), &BREAKER));
            let rows = rows.collect::<Result<Vec<_>>>()?.join("\n");
            return answer(client.json, text, rows);
        }
    };
    let (path, body) = (format!("/admin/breakers/{name}"), json!({ "state": state }));
    let breaker = client.post(&path, &body).await?;
    answer(client.json, &breaker, row(&breaker, &BREAKER)?)
}

const BREAKER: [(&str, usize); 3] = [("name", 16), ("state", 9), ("reason", 0)];
