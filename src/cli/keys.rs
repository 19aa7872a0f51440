//! Commands for API keys. A new key is printed once, alone on stdout; the admin key file's own is replaced there as well.

use std::io::{Write, stdout};
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use r3mes_edge::auth::PlainKey;
use r3mes_edge::config::parse_duration;
use r3mes_edge::model::{Credits, Period, Wallet};
use serde::Serialize;
use serde_json::{Value, json};

use super::admin_key::{self, RELOAD};
use super::client::{self, Client};
use super::output::{Column, answer, check_open, members, note};
use super::{Failure, Result, failed, path_segment};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create a key; it is printed only now, alone on stdout
    ///
    /// Example: KEY=$(r3mes-edge keys create --wallet remes1… --scopes chat,read --expires 90d)
    Create(Create),
    /// List keys, newest first
    ///
    /// Example: r3mes-edge keys list --wallet remes1…
    List {
        /// Only keys of this wallet [default: all wallets]
        #[arg(long, value_parser = Wallet::parse)]
        wallet: Option<Wallet>,
    },
    /// Show a key, without its secret
    ///
    /// Example: r3mes-edge keys show key_01J…
    Show(Key),
    /// Create a key that replaces another; it is printed only now, alone on stdout
    ///
    /// Example: KEY=$(r3mes-edge keys rotate key_01J… --grace 24h)
    Rotate {
        #[command(flatten)]
        key: Key,
        /// How long the old key stays valid: 30s, 24h, at most 30d
        #[arg(long, value_name = "24h", default_value = "0s", value_parser = parse_duration)]
        grace: Duration,
    },
    /// Revoke a key; it fails on its very next request (the admin key file's own: rotate it instead)
    ///
    /// Example: r3mes-edge keys revoke key_01J…
    Revoke(Key),
}

#[derive(Args, Serialize)]
pub(super) struct Create {
    /// The wallet that owns the key
    #[arg(long, required_unless_present = "admin", conflicts_with = "admin")]
    #[serde(rename = "wallet_address")]
    wallet: Option<String>,
    /// A name for lists [default: none]
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Its scopes: chat, read, miner, keys, metrics [default: chat,read]
    #[arg(
        long,
        value_name = "SCOPE,…",
        value_delimiter = ',',
        conflicts_with = "admin"
    )]
    scopes: Option<Vec<String>>,
    /// How long it is valid, in whole days: 90d, say; 1d to 365d [default: for ever]
    #[arg(long, value_name = "90d", value_parser = days)]
    #[serde(rename = "expires_days")]
    expires: Option<u64>,
    /// The models it may use, by name or alias. A key that it makes has the same limits and shares them [default: all]
    #[arg(
        long,
        value_name = "MODEL,…",
        value_delimiter = ',',
        conflicts_with = "admin"
    )]
    models: Option<Vec<String>>,
    /// Credits it may spend in each period [default: no limit]
    #[arg(long, value_name = "CREDITS", value_parser = Credits::parse, requires = "credit_period", conflicts_with = "admin")]
    credit_limit: Option<Credits>,
    /// The period of the limit by the calendar in UTC: day, week (from Monday), month or total [default: none]
    #[arg(long, visible_alias = "per", value_name = "PERIOD", value_parser = Period::parse, requires = "credit_limit")]
    credit_period: Option<Period>,
    /// Paid requests that may run at a time [default: no limit]
    #[arg(long, value_name = "N", conflicts_with = "admin")]
    max_concurrency: Option<u32>,
    /// Create an admin key, which belongs to no wallet, and write it to the admin key file, unless it --expires. Needs no
    /// valid key: only the database's owner or root may run it. With --url it is only printed
    #[arg(long)]
    #[serde(skip)]
    admin: bool,
}

#[derive(Args)]
pub(super) struct Key {
    /// The key's id, as `keys list` shows it
    #[arg(value_parser = path_segment)]
    id: String,
}

fn days(text: &str) -> Result<u64, String> {
    match parse_duration(text)?.as_secs() {
        seconds if seconds % DAY == 0 => Ok(seconds / DAY),
        _ => Err("must be whole days, 1d to 365d".to_owned()),
    }
}

pub(super) async fn run(command: Command, client: &Client) -> Result {
    match command {
        Command::Create(mut create) => {
            if create.admin {
                create.scopes = Some(vec!["admin".to_owned()]);
            }
            if create.admin && create.expires.is_none() && client.remote.is_none() {
                return create_admin(&create, client).await;
            }
            check_open()?;
            print(client.post("/api/keys", &create).await?, client, None)
        }
        Command::List { wallet } => {
            let of = wallet.map(|wallet| format!("wallet={wallet}&"));
            let query = format!("/api/keys?{}", of.unwrap_or_default());
            client.list("keys", &query, &COLUMNS).await
        }
        Command::Show(key) => {
            let key = client.get(&format!("/api/keys/{}", key.id)).await?;
            answer(client.json, &key, members(&key)?)
        }
        Command::Rotate { key, grace } => rotate(client, &key.id, grace.as_secs()).await,
        Command::Revoke(Key { id }) => {
            let is_own = is_file_key(client, &id).await?;
            let revoked = client.delete(&format!("/api/keys/{id}")).await?;
            answer(client.json, revoked, format!("{id} is revoked"))?;
            // Not refused before, as a leaked key must be revocable; creating a new one needs no valid key.
            match is_own {
                true if client.remote.is_some() => note(format!(
                    "that was the key in {} itself: put another one there, made on the server's machine by r3mes-edge keys create --admin",
                    admin_key::path(&client.config.database).display()
                )),
                true => admin_key::report(&client.config.database).await,
                false => {}
            }
            Ok(())
        }
    }
}

/// In seconds.
const DAY: u64 = 86_400;

const COLUMNS: [Column; 8] = [
    ("id", "ID", 30),
    ("start", "START", 10),
    ("is_active", "STATE", 6),
    ("scopes", "SCOPES", 17),
    ("wallet_address", "WALLET", 44),
    ("name", "NAME", 16),
    ("limits", "LIMITS", 0),
    ("spent", "SPENT (CREDITS)", 0),
];

/// Whether it is the key in the admin key file.
async fn is_file_key(client: &Client, id: &str) -> Result<bool> {
    if client.remote.is_some() {
        let me: Value = serde_json::from_str(&client.get("/auth/me").await?)?;
        return Ok(me["key"]["id"] == id);
    }
    let key = admin_key::valid_record(&client.config.database).await?;
    Ok(key.is_some_and(|key| key.id == id))
}

/// Creates an admin key and writes it to the admin key file; an earlier key stays valid. Permission to write the file is
/// enough: a running server adopts the new key.
async fn create_admin(create: &Create, client: &Client) -> Result {
    let database = &client.config.database;
    admin_key::check_writable(database)?;
    // A key with an expiry can only create keys with at most the same.
    let old = admin_key::valid_record(database).await?;
    let old = old.filter(|key| key.ends_at().is_none());
    let is_adopted = old.is_none() && client::server_of(database)?.is_some();
    let new = if is_adopted {
        let key = PlainKey::generate().map_err(failed)?;
        json!({ "id": null, "api_key": key.reveal(), "scopes": create.scopes }).to_string()
    } else {
        client.post("/api/keys", create).await?
    };
    let file = write(&new, database, database)?;
    print(new, client, Some(&file))?;
    note(match old {
        _ if is_adopted => format!("it is in {file}; {RELOAD}, and it adopts the key"),
        None => format!("it is in {file}, with which commands ask the server"),
        Some(old) => format!(
            "it is in {file} and replaces {id}, which stays valid: r3mes-edge keys revoke {id}",
            id = old.id
        ),
    });
    Ok(())
}

async fn rotate(client: &Client, id: &str, grace: u64) -> Result {
    let path = format!("/api/keys/{id}/rotate");
    if !is_file_key(client, id).await? {
        check_open()?;
        let grace = json!({ "grace_seconds": grace });
        let new = client.post(&path, &grace).await?;
        return print(new, client, None);
    }
    let database = &client.config.database;
    // A server elsewhere has its database there, and the file is the caller's.
    let file = admin_key::path(database);
    let like = if client.remote.is_some() {
        &file
    } else {
        database
    };
    admin_key::check_writable(like)?;
    // The old key stays valid until the new one is on the disk, so that a crash leaves a valid one.
    let lasting = if grace == 0 { 30 * DAY } else { grace };
    let lasting = json!({ "grace_seconds": lasting });
    let new = client.post(&path, &lasting).await?;
    let file = write(&new, database, like)?;
    if grace == 0
        && let Err(failure) = client.delete(&format!("/api/keys/{id}")).await
    {
        return Err(Failure::Failed(format!(
            "the new key is in {file}, but the old one still works ({failure}): r3mes-edge keys revoke {id}"
        )));
    }
    note(format!("{file} holds the new key now"));
    print(new, client, Some(&file))
}

/// Writes a new key to the admin key file, for the user whose `like` is; returns the file's name.
fn write(new: &str, database: &Path, like: &Path) -> Result<String> {
    let new: Value = serde_json::from_str(new)?;
    let key = new["api_key"].as_str().unwrap_or_default();
    admin_key::write(database, like, key).map_err(|error| {
        Failure::Failed(format!(
            "the new key {} could not be written into the admin key file ({error}), which holds the old one still: revoke the new one",
            new["id"].as_str().unwrap_or_default()
        ))
    })
}

/// Prints a new key as the server answered it, the only time that it is shown; `file` is where it is stored as well.
fn print(text: String, client: &Client, file: Option<&str>) -> Result {
    let mut new: Value = serde_json::from_str(&text)?;
    let id = new["id"].as_str().unwrap_or("the new key").to_owned();
    let shown = if client.json {
        match file {
            None => text,
            // An admin's, which has no amounts.
            Some(file) => {
                new["file"] = file.into();
                new.to_string()
            }
        }
    } else {
        note(format!("{id}: store this key, it is shown only now"));
        new["api_key"].as_str().unwrap_or_default().to_owned()
    };
    writeln!(stdout(), "{shown}").map_err(|error| {
        let what = format!("the new key could not be printed ({error})");
        Failure::Failed(match file {
            Some(file) => format!("{what}, but it is in {file}"),
            None => format!("{what} and is lost: revoke {id} and make another"),
        })
    })
}
