//! The commands that are one request and print its answer: accounts, credits, the ledger's check, the audit
//! trail, breakers.

use clap::{Args, Subcommand};
use r3mes_edge::model::{Credits, ParseError, Timestamp, Wallet};
use r3mes_edge::store::{LedgerEntry, LedgerReport};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::client::Client;
use super::output::{Column, answer, counted, members, progress, row, table};
use super::{Result, checked, path_segment};

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
    /// List all accounts, or those with a part of an address
    ///
    /// Example: r3mes-edge users list --sort balance
    List {
        /// The order: by the address; or the newest account, the largest balance or the latest use first
        #[arg(long, default_value = "address", value_parser = ["address", "created", "balance", "last_used"])]
        sort: String,
        /// A part of the wallet address [default: all accounts]
        #[arg(long, value_name = "TEXT", value_parser = path_segment)]
        search: Option<String>,
    },
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
        Users::List { sort, search } => {
            let search = search.map_or_else(String::new, |part| format!("&search={part}"));
            let query = format!("/users?sort={sort}{search}&");
            return client.list("users", &query, &LISTED_USER).await;
        }
    };
    answer(client.json, &user, members(&user)?)
}

const LISTED_USER: [Column; 6] = [
    ("wallet_address", "WALLET", 44),
    ("credits", "CREDITS", 18),
    ("created_at", "CREATED (UTC)", 24),
    ("last_used_at", "LAST USED (UTC)", 24),
    ("last_mining_at", "LAST MINED (UTC)", 24),
    ("blocked", "BLOCKED", 0),
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
    /// In credits: a decimal number with at most 6 decimal places
    #[arg(value_parser = amount, allow_hyphen_values = true)]
    amount: Credits,
    /// The reason, for the ledger
    #[arg(long, value_parser = LedgerEntry::reason)]
    reason: String,
    /// What it belongs to elsewhere, for the ledger: the number of an invoice, say [default: none]
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
    let credits = row(&granted, &[("credits", "", 0)])?;
    answer(
        client.json,
        &granted,
        format!("{wallet} has {credits} credits now"),
    )
}

#[derive(Args)]
pub(super) struct Used {
    /// What each line is of
    #[arg(long, default_value = "day", value_parser = ["day", "key", "model"])]
    by: String,
    /// The first day has this time: RFC 3339 or unix seconds [default: 30 days before the end]
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    from: Option<Timestamp>,
    /// The last day has this time, or ends with it [default: now]
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    to: Option<Timestamp>,
    /// Only of this wallet [default: all wallets]
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
        "key" => ("key_id", "KEY", 30),
        "model" => ("model", "MODEL", 30),
        _ => ("day", "DAY (UTC)", 10),
    };
    let columns = [
        group,
        ("requests", "REQUESTS", 10),
        ("lost", "LOST", 10),
        ("prompt_tokens", "PROMPT TOKENS", 15),
        ("cached_tokens", "CACHED TOKENS", 15),
        ("completion_tokens", "COMPLETION TOKENS", 17),
        ("credits", "CREDITS", 0),
    ];
    client.list("usage", &query, &columns).await
}

pub(super) async fn verify_ledger(client: &Client, full: bool) -> Result {
    progress("checking every wallet");
    let path = format!("/admin/ledger/verify?full={full}");
    let verified = client.get(&path).await?;
    let report: LedgerReport = serde_json::from_str(&verified)?;
    let mut text = verdict(&report);
    if !full {
        text += " since the last check; --full checks all of them";
    }
    answer(client.json, &verified, text)?;
    checked("the ledger", report.mistakes.len())
}

/// The errors of a report, each on a line, then whether the ledger adds up.
pub(super) fn verdict(report: &LedgerReport) -> String {
    let errors: String = report
        .mistakes
        .iter()
        .map(|error| format!("{error}\n"))
        .collect();
    let numbers = numbers(report);
    match report.mistakes.len() {
        0 => format!("the ledger adds up: {numbers}"),
        n => format!(
            "{errors}the ledger does NOT add up: {} in {numbers}",
            counted(n, "error")
        ),
    }
}

pub(super) fn numbers(report: &LedgerReport) -> String {
    let (wallets, entries) = (report.wallets, report.entries);
    format!(
        "{}, {}",
        counted(wallets, "wallet"),
        counted(entries, "entry")
    )
}

#[derive(Subcommand)]
pub(super) enum Audit {
    /// List the administrative changes of two years, newest first
    ///
    /// A change is by a key or by a local user (local:UID), from a client's address.
    ///
    /// Example: r3mes-edge audit list
    List,
}

pub(super) async fn audit(client: &Client) -> Result {
    const COLUMNS: [Column; 7] = [
        ("created_at", "TIME (UTC)", 24),
        ("actor", "ACTOR", 30),
        ("address", "ADDRESS", 15),
        ("action", "ACTION", 15),
        ("target", "TARGET", 44),
        ("amount", "CREDITS", 18),
        ("reason", "REASON", 0),
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

#[derive(Deserialize)]
struct List {
    breakers: Vec<Box<RawValue>>,
}

pub(super) async fn breakers(command: Breakers, client: &Client) -> Result {
    client.running("breakers")?;
    let (Upstream { name }, state) = match command {
        Breakers::Open(upstream) => (upstream, "open"),
        Breakers::Reset(upstream) => (upstream, "reset"),
        Breakers::List => {
            let text = client.get("/admin/breakers").await?;
            if client.json {
                return answer(true, text, "");
            }
            let list: List = serde_json::from_str(&text)?;
            return table(&list.breakers, "upstreams", &BREAKER);
        }
    };
    let (path, body) = (format!("/admin/breakers/{name}"), json!({ "state": state }));
    let breaker = client.post(&path, &body).await?;
    answer(client.json, &breaker, members(&breaker)?)
}

const BREAKER: [Column; 4] = [
    ("name", "UPSTREAM", 16),
    ("state", "STATE", 9),
    ("retry_after_seconds", "RETRY IN (S)", 0),
    ("reason", "REASON", 0),
];
