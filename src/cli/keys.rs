use std::io::{Write, stdout};
use std::time::Duration;

use clap::Subcommand;
use r3mes_edge::Repository;
use r3mes_edge::auth::{self, KeyRequest, Scopes, issue};
use r3mes_edge::config::parse_duration;
use r3mes_edge::model::{Ids, Wallet};
use r3mes_edge::store::StoreError;
use serde_json::{Value, json};

use super::Failure;
use super::access::{Access, ask, open_failure, store_failure};
use super::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a key; it is printed once, alone on stdout
    #[command(
        after_help = "Example: KEY=$(r3mes-edge keys create --wallet remes1… --scopes chat,read --expires 90d)"
    )]
    Create {
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
        #[arg(long, value_name = "DAYS")]
        expires: Option<String>,
        /// Make an admin key, which belongs to no wallet
        #[arg(long)]
        admin: bool,
    },
    /// List keys, newest first
    #[command(after_help = "Example: r3mes-edge keys list --wallet remes1…")]
    List {
        /// Only this wallet's
        #[arg(long)]
        wallet: Option<String>,
    },
    /// Show a key, without what only its owner knows
    #[command(after_help = "Example: r3mes-edge keys show key_01J…")]
    Show {
        /// The key's id, as `keys list` shows it
        id: String,
    },
    /// Make a key in the place of another; it is printed once, alone on stdout
    #[command(after_help = "Example: KEY=$(r3mes-edge keys rotate key_01J… --grace 24h)")]
    Rotate {
        /// The key's id, as `keys list` shows it
        id: String,
        /// How long the old key goes on, at most 30d
        #[arg(long, value_name = "DURATION", default_value = "0s")]
        grace: String,
    },
    /// Revoke a key; it fails on its very next request
    #[command(after_help = "Example: r3mes-edge keys revoke key_01J…")]
    Revoke {
        /// The key's id, as `keys list` shows it
        id: String,
    },
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    match command {
        Command::Create {
            wallet,
            name,
            scopes,
            expires,
            admin,
        } => {
            let scopes = match (&scopes, admin) {
                (_, true) => Ok(Scopes::ADMIN),
                (None, false) => Ok(Scopes::DEFAULT),
                (Some(names), false) => Scopes::parse(names.iter().map(String::as_str)),
            };
            let scopes = scopes.map_err(|what| Failure::Usage(format!("--scopes {what}")))?;
            let name =
                KeyRequest::name(&name).map_err(|what| Failure::Usage(format!("--name {what}")))?;
            let days = expires.as_deref().map(days).transpose()?;
            create(
                settings,
                json,
                parse_wallet(wallet.as_deref())?,
                name,
                scopes,
                days,
            )
            .await
        }
        Command::List { wallet } => list(settings, json, parse_wallet(wallet.as_deref())?).await,
        Command::Show { id } => show(settings, json, id).await,
        Command::Rotate { id, grace } => {
            let grace = parse_duration(&grace)
                .map_err(|what| Failure::Usage(format!("--grace: {what}")))?;
            rotate(settings, json, id, grace).await
        }
        Command::Revoke { id } => revoke(settings, json, id).await,
    }
}

fn parse_wallet(text: Option<&str>) -> Result<Option<Wallet>, Failure> {
    text.map(Wallet::parse)
        .transpose()
        .map_err(|what| Failure::Usage(format!("--wallet: {what}")))
}

fn days(text: &str) -> Result<u64, Failure> {
    const DAY: u64 = 86_400;
    let duration =
        parse_duration(text).map_err(|what| Failure::Usage(format!("--expires: {what}")))?;
    match (
        duration.as_secs() / DAY,
        duration.as_secs() % DAY,
        duration.subsec_nanos(),
    ) {
        (days @ 1..=365, 0, 0) => Ok(days),
        _ => Err(Failure::Usage(
            "--expires must be whole days, 1d to 365d".to_owned(),
        )),
    }
}

async fn create(
    settings: &Settings,
    json: bool,
    wallet: Option<Wallet>,
    name: String,
    scopes: Scopes,
    days: Option<u64>,
) -> Result<(), Failure> {
    let answer = match Access::open(&settings.config.database).await? {
        Access::Server { address, database } => {
            let body = json!({ "wallet_address": wallet, "name": name, "scopes": scopes, "expires_days": days });
            ask(&address, &database, "POST", "/api/keys", Some(&body)).await?
        }
        Access::File(store) => {
            let now = r3mes_edge::Clock::default().now();
            let expires_at = days.map(|days| now.plus(Duration::from_secs(days * 86_400)));
            let ids = Ids::new().map_err(|error| Failure::Failed(error.to_string()))?;
            let request = KeyRequest {
                wallet,
                name,
                scopes,
                expires_at,
                login: false,
            };
            let max = settings.config.auth.max_keys_per_wallet;
            issue(&store, &ids, request, max, now, None)
                .await
                .map_err(store_failure)?
                .shown()
        }
    };
    show_new(&answer, json)
}

/// Prints a new key, the one time it can be seen.
fn show_new(answer: &Value, json: bool) -> Result<(), Failure> {
    let shown = if json {
        answer.to_string()
    } else {
        eprintln!(
            "{} with {}: keep this key, it is shown only now",
            text(&answer["id"]),
            scopes(answer)
        );
        text(&answer["api_key"]).to_owned()
    };
    writeln!(stdout(), "{shown}").map_err(|error| {
        Failure::Failed(format!(
            "the key could not be written and is lost ({error}): revoke {} and make another",
            text(&answer["id"])
        ))
    })
}

async fn rotate(
    settings: &Settings,
    json: bool,
    id: String,
    grace: Duration,
) -> Result<(), Failure> {
    const MOST: Duration = Duration::from_secs(30 * 86_400);
    if grace > MOST || grace.subsec_nanos() > 0 {
        return Err(Failure::Usage(
            "--grace must be whole seconds, at most 30d".to_owned(),
        ));
    }
    plain_id(&id)?;
    let answer = match Access::open(&settings.config.database).await? {
        Access::Server { address, database } => {
            let body = json!({ "grace_seconds": grace.as_secs() });
            ask(
                &address,
                &database,
                "POST",
                &format!("/api/keys/{id}/rotate"),
                Some(&body),
            )
            .await?
        }
        Access::File(store) => {
            let now = r3mes_edge::Clock::default().now();
            let ids = Ids::new().map_err(|error| Failure::Failed(error.to_string()))?;
            let old = store.key(id).await.map_err(store_failure)?;
            let old = old.ok_or_else(|| store_failure(StoreError::KeyNotFound))?;
            let max = settings.config.auth.max_keys_per_wallet;
            let (issued, _) = auth::rotate(&store, &ids, &old, now.plus(grace), max, now)
                .await
                .map_err(store_failure)?;
            issued.shown()
        }
    };
    show_new(&answer, json)
}

/// An id that may stand in a path.
fn plain_id(id: &str) -> Result<(), Failure> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Failure::Usage("a key's id looks like key_01J…".to_owned()));
    }
    Ok(())
}

async fn list(settings: &Settings, json: bool, wallet: Option<Wallet>) -> Result<(), Failure> {
    const PAGE: usize = 500;
    let mut access = Access::reading(&settings.config.database)?;
    let mut keys: Vec<Value> = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let page = match &mut access {
            Access::Server { address, database } => {
                let wallet = wallet
                    .map(|wallet| format!("&wallet_address={wallet}"))
                    .unwrap_or_default();
                let cursor = before.map(|id| format!("&cursor={id}")).unwrap_or_default();
                let mut answer = ask(
                    address,
                    database,
                    "GET",
                    &format!("/api/keys?limit={PAGE}{wallet}{cursor}"),
                    None,
                )
                .await?;
                match answer["keys"].take() {
                    Value::Array(page) => page,
                    _ => {
                        return Err(Failure::Failed(
                            "the server's answer holds no keys".to_owned(),
                        ));
                    }
                }
            }
            Access::File(reader) => {
                let now = r3mes_edge::Clock::default().now();
                let page = reader
                    .keys(wallet.as_ref(), before.as_deref(), PAGE)
                    .map_err(open_failure)?;
                page.iter().map(|key| key.shown(now)).collect()
            }
        };
        before = page.last().map(|key| text(&key["id"]).to_owned());
        let last = page.len() < PAGE;
        keys.extend(page);
        if last {
            break;
        }
    }
    if json {
        println!("{}", json!({ "keys": keys, "next_cursor": null }));
        return Ok(());
    }
    for key in &keys {
        let state = if key["is_active"] == true {
            "active"
        } else {
            "off"
        };
        let owner = key["wallet_address"].as_str().unwrap_or("admin");
        println!(
            "{}  {}…  {state:6}  {:24}  {owner}  {}",
            text(&key["id"]),
            text(&key["start"]),
            scopes(key),
            text(&key["name"])
        );
    }
    Ok(())
}

async fn show(settings: &Settings, json: bool, id: String) -> Result<(), Failure> {
    plain_id(&id)?;
    let key = match Access::reading(&settings.config.database)? {
        Access::Server { address, database } => {
            let path = format!("/api/keys/{id}");
            ask(&address, &database, "GET", &path, None).await?
        }
        Access::File(mut reader) => {
            let key = reader.key(&id).map_err(open_failure)?;
            let key = key.ok_or_else(|| store_failure(StoreError::KeyNotFound))?;
            key.shown(r3mes_edge::Clock::default().now())
        }
    };
    if json {
        println!("{key}");
        return Ok(());
    }
    for (name, value) in key.as_object().into_iter().flatten() {
        let value = match value {
            Value::Array(_) => scopes(&key),
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        println!("{name:15} {value}");
    }
    Ok(())
}

fn scopes(key: &Value) -> String {
    let names = key["scopes"].as_array().into_iter().flatten();
    names.map(text).collect::<Vec<_>>().join(",")
}

async fn revoke(settings: &Settings, json: bool, id: String) -> Result<(), Failure> {
    plain_id(&id)?;
    let answer = match Access::open(&settings.config.database).await? {
        Access::Server { address, database } => {
            ask(
                &address,
                &database,
                "DELETE",
                &format!("/api/keys/{id}"),
                None,
            )
            .await?
        }
        Access::File(store) => {
            let now = r3mes_edge::Clock::default().now();
            store
                .revoke_key(id, None, now)
                .await
                .map_err(store_failure)?
                .shown(now)
        }
    };
    if json {
        println!("{answer}");
    } else {
        println!("{} is revoked", text(&answer["id"]));
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
