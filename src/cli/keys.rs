//! Commands for API keys. A new key is printed once, alone on stdout; the admin key file's own is replaced there as well.

use std::io::{Write, stdout};
use std::path::Path;

use clap::{Args, Subcommand};
use r3mes_edge::Config;
use r3mes_edge::auth::PlainKey;
use r3mes_edge::config::parse_duration;
use r3mes_edge::model::Wallet;
use serde_json::{Map, Value, json};

use super::admin_key::{self, KeyState, RELOAD, Writable};
use super::client::{self, call, get};
use super::output::{Members, answer, note, text};
use super::{Failure, failed, path_segment};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a key; it is printed once, alone on stdout
    ///
    /// Example: KEY=$(r3mes-edge keys create --wallet remes1… --scopes chat,read --expires 90d)
    Create(Create),
    /// List keys, newest first
    ///
    /// Example: r3mes-edge keys list --wallet remes1…
    List {
        /// Only this wallet's
        #[arg(long, value_parser = Wallet::parse)]
        wallet: Option<Wallet>,
    },
    /// Show a key, without its secret
    ///
    /// Example: r3mes-edge keys show key_01J…
    Show(Key),
    /// Make a key that replaces another; it is printed once, alone on stdout
    ///
    /// Example: KEY=$(r3mes-edge keys rotate key_01J… --grace 24h)
    Rotate {
        #[command(flatten)]
        key: Key,
        /// How long the old key goes on, at most 30d
        #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = seconds)]
        grace: u64,
    },
    /// Revoke a key; it fails on its very next request (the admin key file's own: rotate it instead)
    ///
    /// Example: r3mes-edge keys revoke key_01J…
    Revoke(Key),
}

#[derive(Args)]
pub(super) struct Create {
    /// Whose key it will be
    #[arg(long, required_unless_present = "admin", conflicts_with = "admin")]
    wallet: Option<String>,
    /// A name to recognise it by
    #[arg(long, default_value = "")]
    name: String,
    /// What it may do: chat, read, miner, keys
    #[arg(long, value_delimiter = ',', conflicts_with = "admin")]
    scopes: Option<Vec<String>>,
    /// How long it is valid: whole days, 1d to 365d [default: for ever]
    #[arg(long, value_name = "DAYS", value_parser = days)]
    expires: Option<u64>,
    /// Make an admin key, which belongs to no wallet, and put it into the admin key file, unless it --expires. Needs no
    /// working key, but the database's owner, or root
    #[arg(long)]
    admin: bool,
}

#[derive(Args)]
pub(super) struct Key {
    /// The key's id, as `keys list` shows it
    #[arg(value_parser = path_segment)]
    id: String,
}

fn seconds(text: &str) -> Result<u64, String> {
    match parse_duration(text) {
        Ok(duration) if duration.subsec_nanos() == 0 => Ok(duration.as_secs()),
        Ok(_) => Err("must be whole seconds".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn days(text: &str) -> Result<u64, String> {
    const DAY: u64 = 86_400;
    match seconds(text)? {
        seconds if seconds % DAY == 0 => Ok(seconds / DAY),
        _ => Err("must be whole days, 1d to 365d".to_owned()),
    }
}

pub(super) async fn run(command: Command, config: &Config, json: bool) -> Result<(), Failure> {
    match command {
        Command::Create(create) if create.admin && create.expires.is_none() => {
            create_admin(config, json, &create.name).await
        }
        Command::Create(Create {
            wallet,
            name,
            scopes,
            expires,
            admin,
        }) => {
            let scopes = if admin {
                Some(vec!["admin".to_owned()])
            } else {
                scopes
            };
            let body = json!({ "wallet_address": wallet, "name": name, "scopes": scopes, "expires_days": expires });
            print_new(&post(config, "/api/keys", &body).await?, json, None)
        }
        Command::List { wallet } => {
            let of = wallet.map(|wallet| format!("wallet_address={wallet}&"));
            let query = format!("/api/keys?{}", of.unwrap_or_default());
            client::list(config, "keys", &query, json, line).await
        }
        Command::Show(key) => {
            let key = get(config, &format!("/api/keys/{}", key.id)).await?;
            answer(&key, json, |key| {
                let members: Map<String, Value> = serde_json::from_str(key)?;
                let lines = members
                    .iter()
                    .map(|(name, value)| format!("{name:15} {}", text(value)));
                Ok(lines.collect::<Vec<_>>().join("\n"))
            })
        }
        Command::Rotate { key, grace } => rotate(config, json, &key.id, grace).await,
        Command::Revoke(key) => {
            let id = key.id;
            let own = is_file_key(config, &id).await?;
            let revoked = revoke(config, &id).await?;
            answer(&revoked, json, |_| Ok(format!("{id} is revoked")))?;
            // Not refused before, as a leaked key must be revocable; creating a new one needs no valid key.
            let state = KeyState::Refused("it was revoked just now");
            if own && let Err(problem) = state.check(&config.database) {
                note(problem);
            }
            Ok(())
        }
    }
}

fn line(key: &Members) -> String {
    format!(
        "{}  {}…  {:6}  {:24}  {}  {}",
        key.get("id", ""),
        key.get("start", ""),
        if key.get("is_active", "") == "true" {
            "active"
        } else {
            "off"
        },
        key.get("scopes", ""),
        key.get("wallet_address", "admin"),
        key.get("name", "")
    )
}

async fn post(config: &Config, path: &str, body: &Value) -> Result<Value, Failure> {
    let made = call(config, "POST", path, body.to_string()).await?;
    Ok(serde_json::from_str(&made)?)
}

async fn revoke(config: &Config, id: &str) -> Result<String, Failure> {
    call(config, "DELETE", &format!("/api/keys/{id}"), String::new()).await
}

/// The status of the key in the admin key file; `None` without a key.
async fn file_key(database: &Path) -> Result<Option<KeyState>, Failure> {
    match admin_key::read(database) {
        Ok(key) => admin_key::state_of(database, &key).await.map(Some),
        Err(_) => Ok(None),
    }
}

async fn is_file_key(config: &Config, id: &str) -> Result<bool, Failure> {
    let key = file_key(&config.database).await?;
    Ok(matches!(key, Some(KeyState::Valid(own, _)) if own == id))
}

/// Creates an admin key and writes it to the admin key file; an earlier key stays valid. Permission to write the file is
/// enough: a running server adopts the new key.
async fn create_admin(config: &Config, json: bool, name: &str) -> Result<(), Failure> {
    let database = &config.database;
    let writable = Writable::check(database)?;
    let old = match file_key(database).await? {
        Some(KeyState::Valid(id, None)) => Some(id),
        _ => None,
    };
    let scopes = ["admin"];
    // A key with an expiry can only create keys with at most the same.
    let is_adopted = old.is_none() && client::server_of(database)?.is_some();
    let mut new = if is_adopted {
        let key = PlainKey::generate().map_err(failed)?;
        json!({ "id": null, "api_key": key.reveal(), "scopes": scopes })
    } else {
        post(
            config,
            "/api/keys",
            &json!({ "name": name, "scopes": scopes }),
        )
        .await?
    };
    let file = write(writable, &new)?;
    new["file"] = file.clone().into();
    print_new(&new, json, Some(&file))?;
    note(match old {
        _ if is_adopted => format!("it is in {file}; {RELOAD}, and it adopts the key"),
        None => format!("it is in {file}, with which commands ask the server"),
        Some(old) => format!(
            "it is in {file} and replaces {old}, which stays valid: r3mes-edge keys revoke {old}"
        ),
    });
    Ok(())
}

async fn rotate(config: &Config, json: bool, id: &str, grace: u64) -> Result<(), Failure> {
    const LONGEST: u64 = 30 * 86_400;
    let path = format!("/api/keys/{id}/rotate");
    if !is_file_key(config, id).await? {
        let new = post(config, &path, &json!({ "grace_seconds": grace })).await?;
        return print_new(&new, json, None);
    }
    let writable = Writable::check(&config.database)?;
    // The old key stays valid until the new one is on the disk, so that a crash leaves a valid one.
    let lasting = if grace == 0 { LONGEST } else { grace };
    let new = post(config, &path, &json!({ "grace_seconds": lasting })).await?;
    let file = write(writable, &new)?;
    if grace == 0
        && let Err(failure) = revoke(config, id).await
    {
        return Err(Failure::Failed(format!(
            "the new key is in {file}, but the old one still works ({failure}): r3mes-edge keys revoke {id}"
        )));
    }
    note(format!("{file} holds the new key now"));
    print_new(&new, json, Some(&file))
}

/// Writes a new key to the admin key file.
fn write(writable: Writable, new: &Value) -> Result<String, Failure> {
    match writable.write(&text(&new["api_key"])) {
        Ok(file) => Ok(file.display().to_string()),
        Err(error) => Err(Failure::Failed(format!(
            "the new key {} could not be written into the admin key file ({error}), which holds the old one still: revoke the new one",
            text(&new["id"])
        ))),
    }
}

/// Prints a new key, which is not shown again; `file` is where it is stored as well.
fn print_new(new: &Value, json: bool, file: Option<&str>) -> Result<(), Failure> {
    let (id, scopes) = (text(&new["id"]), text(&new["scopes"]));
    if !json {
        note(format!(
            "{id} with {scopes}: store this key, it is shown only now"
        ));
    }
    let shown = if json {
        new.to_string()
    } else {
        text(&new["api_key"])
    };
    writeln!(stdout(), "{shown}").map_err(|error| {
        Failure::Failed(match file {
            Some(file) => format!("the new key could not be printed ({error}), but it is in {file}"),
            None => format!(
                "the new key could not be printed and is lost ({error}): revoke {id} and make another"
            ),
        })
    })
}
