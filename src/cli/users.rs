use std::io::{BufWriter, Write, stdout};

use clap::Subcommand;
use r3mes_edge::model::Wallet;
use r3mes_edge::store::{Outcome, SqliteReader, StoreError};
use r3mes_edge::{Clock, Repository};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Failure;
use super::access::{Access, ask_text, do_once, open_failure, read, store_failure, text};
use super::output::{Items, unwritten};
use super::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make an account with 0 credits
    #[command(after_help = "Example: r3mes-edge users create remes1…")]
    Create {
        /// Its wallet address
        #[arg(value_parser = Wallet::parse)]
        wallet: Wallet,
    },
    /// Show an account
    #[command(after_help = "Example: r3mes-edge users show remes1…")]
    Show {
        /// Its wallet address
        #[arg(value_parser = Wallet::parse)]
        wallet: Wallet,
    },
    /// List all accounts, in the order of their addresses
    #[command(
        after_help = "Example: r3mes-edge users list\n\nA line is an account: address, credits, when it was made, when it mined last."
    )]
    List,
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    let database = &settings.config.database;
    let answer = match command {
        Command::Create { wallet } => create(Access::open(database).await?, wallet).await?,
        Command::Show { wallet } => show(Access::reading(database)?, wallet).await?,
        Command::List => return list(Access::reading(database)?, json).await,
    };
    if json {
        println!("{}", answer.trim_end());
    } else {
        println!("{}", line(&answer)?);
    }
    Ok(())
}

async fn create(access: Access, wallet: Wallet) -> Result<String, Failure> {
    match access {
        Access::Server { address, database } => {
            let body = json!({ "wallet_address": wallet });
            do_once(&address, &database, "/users", body.to_string()).await
        }
        Access::File(store) => {
            let made = store.create_user(wallet, Clock::default().now(), None);
            match made.await.map_err(store_failure)? {
                Outcome::New(user) => text(&user),
                Outcome::Replayed(kept) => Ok(kept.answer.unwrap_or_default()),
            }
        }
    }
}

async fn show(access: Access<SqliteReader>, wallet: Wallet) -> Result<String, Failure> {
    match access {
        Access::Server { address, database } => {
            ask_text(&address, &database, &format!("/users/{wallet}")).await
        }
        Access::File(mut reader) => {
            let user = reader.user(&wallet).map_err(open_failure)?;
            let user = user.ok_or_else(|| store_failure(StoreError::UserNotFound))?;
            text(&user)
        }
    }
}

async fn list(access: Access<SqliteReader>, json: bool) -> Result<(), Failure> {
    if json {
        let mut items = Items::begin("{\"users\":[")?;
        each(access, |user| items.add(&user)).await?;
        return items.end("],\"next_cursor\":null}");
    }
    let mut out = BufWriter::new(stdout());
    each(access, |user| {
        writeln!(out, "{}", line(user.get())?).map_err(unwritten)
    })
    .await?;
    out.flush().map_err(unwritten)
}

/// A page of accounts, each as its JSON text: amounts must not pass through floats.
#[derive(Deserialize)]
struct Page {
    users: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// Takes every account, a page at a time.
async fn each(
    access: Access<SqliteReader>,
    mut take: impl FnMut(Box<RawValue>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    const PAGE: usize = 500;
    match access {
        Access::Server { address, database } => {
            let mut cursor = String::new();
            loop {
                let path = format!("/users?limit={PAGE}{cursor}");
                let page: Page = read(&ask_text(&address, &database, &path).await?)?;
                page.users.into_iter().try_for_each(&mut take)?;
                match page.next_cursor {
                    None => return Ok(()),
                    Some(next) => cursor = format!("&cursor={next}"),
                }
            }
        }
        Access::File(mut reader) => {
            let mut after = None;
            loop {
                let page = reader.users(after.as_ref(), PAGE).map_err(open_failure)?;
                for user in &page {
                    let user = RawValue::from_string(text(user)?);
                    take(user.map_err(|error| Failure::Failed(error.to_string()))?)?;
                }
                after = page.last().map(|user| user.wallet_address);
                if page.len() < PAGE {
                    return Ok(());
                }
            }
        }
    }
}

/// An account in one line.
fn line(user: &str) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Shown<'a> {
        wallet_address: &'a str,
        #[serde(borrow)]
        credits: &'a RawValue,
        last_mining_at: Option<&'a str>,
        created_at: &'a str,
    }
    let user: Shown<'_> = read(user)?;
    Ok(format!(
        "{}  {:>18}  {}  {}",
        user.wallet_address,
        user.credits.get(),
        user.created_at,
        user.last_mining_at.unwrap_or("-")
    ))
}
