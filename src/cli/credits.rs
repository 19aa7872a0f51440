use clap::{Args, Subcommand};
use r3mes_edge::model::{Credits, Wallet};
use r3mes_edge::store::{Granted, LedgerEntry, Outcome};
use r3mes_edge::{Clock, Repository};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Failure;
use super::access::{Access, do_once, read, store_failure, text};
use super::settings::Settings;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Give credits to a wallet; its account is made where there is none
    #[command(
        after_help = "Example: r3mes-edge credits grant remes1… 12.5 --reason welcome\n\nShould the server's answer be lost, it is asked again in a way that grants once."
    )]
    Grant(Movement),
    /// Take credits from a wallet, never more than it has
    #[command(after_help = "Example: r3mes-edge credits take remes1… 0.25 --reason correction")]
    Take(Movement),
}

#[derive(Args)]
pub(super) struct Movement {
    /// The wallet address
    #[arg(value_parser = Wallet::parse)]
    wallet: Wallet,
    /// How many: a plain decimal number of at most 6 places
    #[arg(value_parser = amount, allow_hyphen_values = true)]
    amount: Credits,
    /// Why, as the ledger will say
    #[arg(long, value_parser = LedgerEntry::reason)]
    reason: String,
}

fn amount(text: &str) -> Result<Credits, &'static str> {
    let amount = Credits::parse(text)?;
    if amount <= Credits::ZERO {
        return Err("must be more than 0; `credits take` takes what `credits grant` gave");
    }
    Ok(amount)
}

pub(super) async fn run(command: Command, settings: &Settings, json: bool) -> Result<(), Failure> {
    let (amount, movement) = match command {
        Command::Grant(movement) => (movement.amount, movement),
        Command::Take(movement) => (movement.amount.negated(), movement),
    };
    let Movement { wallet, reason, .. } = movement;
    let answer = match Access::open(&settings.config.database).await? {
        Access::Server { address, database } => {
            // A struct, as an amount in a Value would pass through a float.
            #[derive(Serialize)]
            struct Body {
                amount: Credits,
                reason: String,
            }
            let body = text(&Body { amount, reason })?;
            do_once(
                &address,
                &database,
                &format!("/users/{wallet}/credits"),
                body,
            )
            .await?
        }
        Access::File(store) => {
            let now = Clock::default().now();
            let granted = store.grant(wallet, amount, reason, now, None).await;
            match granted.map_err(store_failure)? {
                Outcome::New((entry, _)) => text(&Granted::from(&entry))?,
                Outcome::Replayed(kept) => kept.answer.unwrap_or_default(),
            }
        }
    };
    if json {
        println!("{}", answer.trim_end());
        return Ok(());
    }
    #[derive(Deserialize)]
    struct Shown<'a> {
        #[serde(borrow)]
        credits: &'a RawValue,
    }
    let shown: Shown<'_> = read(&answer)?;
    println!("{wallet} has {} credits now", shown.credits.get());
    Ok(())
}
