use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use r3mes_edge::Repository;
use r3mes_edge::auth::{KeyRequest, PlainKey, Scopes};
use r3mes_edge::config::parse_duration;
use r3mes_edge::model::Wallet;
use r3mes_edge::store::{StoreError, issue_key, rotate_key};
use serde_json::{Value, json};

use super::Failure;
use super::access::{Access, ask, key_state, open_failure, store_failure};
use super::admin_key::{self, RELOAD, State, Writable};
use super::output::note;
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
        /// Make an admin key, which belongs to no wallet, and put it into the admin key file, unless it --expires. Needs
        /// no working key, but the database's owner, or root
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
    /// Revoke a key; it fails on its very next request (the admin key file's own: rotate it instead)
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
            if admin && days.is_none() {
                return create_admin(settings, json, name).await;
            }
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
            let request = KeyRequest {
                wallet,
                name,
                scopes,
                expires_at,
                login: false,
            };
            let max = settings.config.auth.max_keys_per_wallet;
            issue_key(&store, request, max, now, None)
                .await
                .map_err(store_failure)?
                .shown()
        }
    };
    show_new(&answer, json, None)
}

/// Makes an admin key and puts it into the admin key file. What was there stays valid. That the caller may write the file
/// is enough: a server whose key the file has lost adopts the new one.
async fn create_admin(settings: &Settings, json: bool, name: String) -> Result<(), Failure> {
    let database = &settings.config.database;
    let writable = Writable::check(database)?;
    let access = Access::open(database).await?;
    let old = file_key_state(&access, database).await?;
    let old = match old {
        Some(State::Works { id, ends_at: None }) => Some(id),
        _ => None,
    };
    let mut adopted = true;
    let mut answer = match access {
        // One that ends would make one that ends with it.
        Access::Server { address, .. } if old.is_some() => {
            let body = json!({ "name": name, "scopes": Scopes::ADMIN });
            ask(&address, database, "POST", "/api/keys", Some(&body)).await?
        }
        Access::Server { .. } => {
            adopted = false;
            let key = PlainKey::generate().map_err(|error| Failure::Failed(error.to_string()))?;
            json!({ "id": null, "api_key": key.reveal(), "scopes": Scopes::ADMIN })
        }
        Access::File(store) => {
            let now = r3mes_edge::Clock::default().now();
            let request = KeyRequest {
                name,
                ..admin_key::admin_request()
            };
            let issued = issue_key(&store, request, usize::MAX, now, None).await;
            issued.map_err(store_failure)?.shown()
        }
    };
    let file = write_key(writable, &answer)?;
    answer["file"] = file.display().to_string().into();
    show_new(&answer, json, Some(&file))?;
    let file = file.display();
    match (adopted, old) {
        (false, _) => note(format_args!(
            "it is in {file}; {RELOAD}, and it adopts the key"
        )),
        (true, None) => note(format_args!(
            "it is in {file}, with which commands ask the server"
        )),
        (true, Some(old)) => note(format_args!(
            "it is in {file} in the place of {old}, which stays valid: r3mes-edge keys revoke {old}"
        )),
    }
    Ok(())
}

/// The state of the key in the admin key file, where there is one.
async fn file_key_state(access: &Access, database: &Path) -> Result<Option<State>, Failure> {
    let Ok(key) = admin_key::read(database) else {
        return Ok(None);
    };
    Ok(Some(match access {
        Access::Server { address, .. } => key_state(address, database, key).await?,
        Access::File(store) => {
            let record = store.key_by_hash(key.hash()).await.map_err(store_failure)?;
            State::of(record, r3mes_edge::Clock::default().now())
        }
    }))
}

/// Whether a key is the one in the admin key file.
async fn is_file_key(access: &Access, database: &Path, id: &str) -> Result<bool, Failure> {
    let state = file_key_state(access, database).await?;
    Ok(matches!(state, Some(State::Works { id: own, .. }) if own == id))
}

fn write_key(writable: Writable, answer: &Value) -> Result<PathBuf, Failure> {
    let key = PlainKey::parse(text(&answer["api_key"]));
    let key = key.ok_or_else(|| Failure::Failed("the server's answer holds no key".to_owned()))?;
    writable.write(&key).map_err(|error| {
        Failure::Failed(format!(
            "the new key {} could not be written into the admin key file ({error}), which holds the old one still: revoke the new one",
            text(&answer["id"])
        ))
    })
}

/// Prints a new key, the one time it can be seen; `file` is where it stands as well.
fn show_new(answer: &Value, json: bool, file: Option<&Path>) -> Result<(), Failure> {
    let shown = if json {
        answer.to_string()
    } else {
        let until = answer["expires_at"].as_str();
        let until = until.map_or(String::new(), |end| format!(", until {end}"));
        note(format_args!(
            "{} with {}{until}: keep this key, it is shown only now",
            answer["id"].as_str().unwrap_or("a new key"),
            scopes(answer)
        ));
        text(&answer["api_key"]).to_owned()
    };
    writeln!(stdout(), "{shown}").map_err(|error| {
        Failure::Failed(match file {
            Some(file) => format!(
                "the new key could not be written ({error}), but it is in {}",
                file.display()
            ),
            None => format!(
                "the key could not be written and is lost ({error}): revoke {} and make another",
                text(&answer["id"])
            ),
        })
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
    let database = &settings.config.database;
    let access = Access::open(database).await?;
    // The old key of the file goes on until the new one is on the disk, so that a crash leaves one that works.
    let own = is_file_key(&access, database, &id).await?;
    let writable = own.then(|| Writable::check(database)).transpose()?;
    let lasting = if own && grace.is_zero() { MOST } else { grace };
    let answer = match &access {
        Access::Server { address, .. } => {
            let body = json!({ "grace_seconds": lasting.as_secs() });
            let path = format!("/api/keys/{id}/rotate");
            ask(address, database, "POST", &path, Some(&body)).await?
        }
        Access::File(store) => {
            let now = r3mes_edge::Clock::default().now();
            let old = store.key(id.clone()).await.map_err(store_failure)?;
            let old = old.ok_or_else(|| store_failure(StoreError::KeyNotFound))?;
            let (until, max) = (now.plus(lasting), settings.config.auth.max_keys_per_wallet);
            let rotated = rotate_key(store, &old, until, None, max, now).await;
            rotated.map_err(store_failure)?.0.shown()
        }
    };
    let Some(writable) = writable else {
        return show_new(&answer, json, None);
    };
    let file = write_key(writable, &answer)?;
    if lasting != grace {
        end(access, database, &id).await.map_err(|failure| {
            let why = failure.text().unwrap_or_default();
            Failure::Failed(format!(
                "the new key is in {}, but the old one still works ({why}): r3mes-edge keys revoke {id}",
                file.display()
            ))
        })?;
    }
    note(format_args!("{} holds the new key now", file.display()));
    show_new(&answer, json, Some(&file))
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
    let database = &settings.config.database;
    let access = Access::open(database).await?;
    let own = is_file_key(&access, database, &id).await?;
    let server = matches!(access, Access::Server { .. });
    let answer = end(access, database, &id).await?;
    if json {
        println!("{answer}");
    } else {
        println!("{} is revoked", text(&answer["id"]));
    }
    // Not refused, as a key that leaked must end at once; a new one takes no working key.
    let state = State::Refused("it was revoked just now".to_owned());
    if let Some(problem) = state.problem(database, server).filter(|_| own) {
        note(format_args!("{problem}"));
    }
    Ok(())
}

/// Has a key open nothing from now on; the key as it is then.
async fn end(access: Access, database: &Path, id: &str) -> Result<Value, Failure> {
    match access {
        Access::Server { address, .. } => {
            let path = format!("/api/keys/{id}");
            ask(&address, database, "DELETE", &path, None).await
        }
        Access::File(store) => {
            let now = r3mes_edge::Clock::default().now();
            let revoked = store.revoke_key(id.to_owned(), None, now).await;
            Ok(revoked.map_err(store_failure)?.shown(now))
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
