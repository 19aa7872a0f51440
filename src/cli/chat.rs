//! `chat`: one paid message, whose answer is printed as it comes.

use std::io::{Read, stdin};
use std::path::PathBuf;

use clap::Args;
use http_body_util::BodyExt;
use r3mes_edge::auth::PlainKey;
use r3mes_edge::model::Wallet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::Client;
use super::output::{answer, counted, note, piece};
use super::{Failure, Result, admin_key, failed};

/// The end of the variable's name.
pub(super) const KEY_VARIABLE: &str = "KEY";

#[derive(Args)]
pub(super) struct Chat {
    /// The message; - reads it from stdin
    text: String,
    /// The wallet that pays, where the admin key is used [default: miner.wallet of the configuration]
    #[arg(long, value_parser = Wallet::parse)]
    wallet: Option<Wallet>,
    /// The model, by its name or alias in /v1/models [default: the server's choice]
    #[arg(long)]
    model: Option<String>,
    /// A file with a key of the wallet that pays [default: the variable R3MES_EDGE_KEY, else the admin key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Request<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wallet_address: Option<Wallet>,
}

/// What an answer cost, as the wallet's ledger has it.
#[derive(Serialize)]
struct Paid {
    wallet_address: Wallet,
    model: Option<String>,
    charged: Box<RawValue>,
    balance: Box<RawValue>,
}

#[derive(Serialize)]
struct Answer {
    text: String,
    request_id: String,
    #[serde(flatten)]
    paid: Option<Paid>,
}

pub(super) async fn run(chat: &Chat, mut client: Client) -> Result {
    let address = client.running("models")?;
    client.key = key(chat)?;
    let wallet = payer(chat, &client)?;
    let mut read = String::new();
    let message = match chat.text.as_str() {
        "-" => {
            stdin().read_to_string(&mut read).map_err(failed)?;
            read.trim_end()
        }
        text => text,
    };
    let request = Request {
        message,
        adapter: chat.model.as_deref(),
        wallet_address: wallet,
    };
    let request = serde_json::to_string(&request)?;
    let response = client.open(address, "/chat", request).await?;
    let request_id = response.headers().get("x-request-id");
    let request_id = request_id.and_then(|id| id.to_str().ok());
    let request_id = request_id.unwrap_or_default().to_owned();
    let (mut body, mut text, mut broken) = (response.into_body(), Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let data = frame.into_data().unwrap_or_default();
                if client.json {
                    text.extend_from_slice(&data);
                } else {
                    piece(&data)?;
                }
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    // It is charged before its end, also where it breaks off.
    let paid = paid(&client, wallet, &request_id).await;
    let paid = paid.inspect_err(|failure| note(format_args!("the charge is not known: {failure}")));
    if let Some(error) = broken {
        let paid = paid.map_or(String::new(), |paid| {
            format!("; {}", cost_line(paid.as_ref()))
        });
        let what = format!("the answer broke off ({error}), request {request_id}{paid}");
        return Err(Failure::Failed(what));
    }
    let paid = paid.ok();
    if client.json {
        let text = String::from_utf8_lossy(&text).into_owned();
        let paid = paid.flatten();
        let answered = Answer {
            text,
            request_id,
            paid,
        };
        return answer(true, serde_json::to_string(&answered)?, "");
    }
    if let Some(paid) = paid {
        note(cost_line(paid.as_ref()));
    }
    Ok(())
}

/// The key of a wallet that pays, if there is one.
fn key(chat: &Chat) -> Result<Option<PlainKey>> {
    if let Some(file) = &chat.key_file {
        return admin_key::read_key("--key-file", file).map(Some);
    }
    let variable = format!("R3MES_EDGE_{KEY_VARIABLE}");
    let Some(text) = std::env::var_os(&variable).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let key = PlainKey::parse(text.to_string_lossy().trim());
    let wrong = || Failure::Usage(format!("the variable {variable} does not hold an API key"));
    key.ok_or_else(wrong).map(Some)
}

/// The wallet that the request names: an admin's must, and a wallet's key has one of its own.
fn payer(chat: &Chat, client: &Client) -> Result<Option<Wallet>> {
    let configured = client.config.miner.wallet;
    match chat.wallet.or(configured.filter(|_| client.key.is_none())) {
        None if client.key.is_none() => Err(Failure::Usage(
            "which wallet pays? name one with --wallet, or a key of one with --key-file".to_owned(),
        )),
        wallet => Ok(wallet),
    }
}

/// What the ledger has of this request; none if nothing was charged.
async fn paid(client: &Client, wallet: Option<Wallet>, request_id: &str) -> Result<Option<Paid>> {
    #[derive(Deserialize)]
    struct Ledger {
        entries: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        reference: Option<String>,
        amount: Box<RawValue>,
        balance: Box<RawValue>,
        detail: Option<Value>,
    }
    let wallet_address = match wallet {
        Some(wallet) => wallet,
        None => {
            let me: Value = serde_json::from_str(&client.get("/auth/me").await?)?;
            let own = me["wallet_address"].as_str().unwrap_or_default();
            Wallet::parse(own).map_err(failed)?
        }
    };
    // The newest; others of the wallet may have been charged since.
    let path = format!("/users/{wallet_address}/ledger?limit=100");
    let ledger: Ledger = serde_json::from_str(&client.get(&path).await?)?;
    let of_request = |entry: &&Entry| {
        let detail = entry.detail.as_ref();
        detail.is_some_and(|detail| detail["request_id"] == request_id)
    };
    let entry = ledger.entries.iter().find(of_request);
    // A refund names the entry that it takes back.
    let is_refunded = |of: &Entry| {
        let mut entries = ledger.entries.iter();
        entries.any(|entry| entry.reference.as_ref() == Some(&of.id))
    };
    let entry = entry.filter(|entry| !is_refunded(entry));
    entry
        .map(|entry| {
            let model = entry
                .detail
                .as_ref()
                .and_then(|detail| detail["adapter"].as_str());
            let amount = entry.amount.get();
            // A charge is a debit.
            let charged = amount.strip_prefix('-').unwrap_or(amount).to_owned();
            Ok(Paid {
                wallet_address,
                model: model.map(str::to_owned),
                charged: RawValue::from_string(charged)?,
                balance: entry.balance.clone(),
            })
        })
        .transpose()
}

/// The last line.
fn cost_line(paid: Option<&Paid>) -> String {
    let Some(paid) = paid else {
        return "nothing was charged".to_owned();
    };
    let model = paid.model.as_deref().unwrap_or("the model");
    let (charged, balance) = (
        counted(&paid.charged, "credit"),
        counted(&paid.balance, "credit"),
    );
    format!(
        "{charged} charged for {model}; {} has {balance} left",
        paid.wallet_address
    )
}
