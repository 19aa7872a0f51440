//! `status` and `alerts`: what the top of the operator's page says, on the command line.

use r3mes_edge::model::Wallet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::address::{open_line, page};
use super::client::Client;
use super::doctor::failing_nodes;
use super::output::{Column, answer, counted, row, table};
use super::{Failure, Result};

#[derive(Serialize)]
struct Status {
    /// Where the page is, if a browser can open it.
    open: Option<String>,
    address: String,
    /// `ok`, `warning` or `problem`.
    status: &'static str,
    summary: String,
    health: Box<RawValue>,
    /// None where the server evaluates none.
    alerts: Option<Box<RawValue>>,
    /// The wallet of the configuration's miner, or of the only account.
    wallet_address: Option<Wallet>,
    account: Option<Box<RawValue>>,
    miner: Option<Box<RawValue>>,
}

pub(super) async fn status(client: &Client) -> Result {
    let address = client.running("a status")?;
    let health = client.get("/health").await?;
    let alerts = existing(client, "/alerts").await?;
    let wallet_address = wallet(client).await?;
    let of = async |path: &str| match wallet_address {
        Some(wallet) => existing(client, &format!("{path}/{wallet}")).await,
        None => Ok(None),
    };
    let shown: Value = serde_json::from_str(&health)?;
    let firing = match &alerts {
        Some(alerts) => serde_json::from_str::<Alerts>(alerts.get())?.firing,
        None => Vec::new(),
    };
    let (status, summary) = summary(&shown, &parsed(&firing)?);
    let status = Status {
        open: page(&address),
        status,
        summary,
        health: RawValue::from_string(health)?,
        account: of("/users").await?,
        miner: of("/miner/stats").await?,
        alerts,
        wallet_address,
        address,
    };
    answer(
        client.json,
        serde_json::to_string(&status)?,
        status.text(&shown, &parsed(&firing)?)?,
    )
}

/// The answer to a GET; none where there is nothing.
async fn existing(client: &Client, path: &str) -> Result<Option<Box<RawValue>>> {
    match client.get(path).await {
        Ok(answer) => Ok(Some(RawValue::from_string(answer)?)),
        Err(Failure::NotFound(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The wallet whose miner is shown: that of the configuration, or of the only account.
async fn wallet(client: &Client) -> Result<Option<Wallet>> {
    if let Some(wallet) = client.config.miner.wallet {
        return Ok(Some(wallet));
    }
    let accounts: Value = serde_json::from_str(&client.get("/users?limit=2").await?)?;
    let only = match accounts["users"].as_array().map(Vec::as_slice) {
        Some([only]) => only["wallet_address"].as_str(),
        _ => None,
    };
    Ok(only.and_then(|text| Wallet::parse(text).ok()))
}

fn parsed(items: &[Box<RawValue>]) -> Result<Vec<Value>> {
    let items = items.iter().map(|item| serde_json::from_str(item.get()));
    Ok(items.collect::<Result<_, _>>()?)
}

/// How the node is, in a sentence: the gravest thing first, as on the page.
fn summary(health: &Value, firing: &[Value]) -> (&'static str, String) {
    const CRITICAL: &str = "CRITICAL";
    let is_critical = |alert: &&Value| alert["severity"] == CRITICAL;
    let worst = firing.iter().find(is_critical).or(firing.first());
    let breakers = || health["breakers"].as_array().into_iter().flatten();
    let open = breakers().filter(|breaker| breaker["state"] != "CLOSED");
    let open: Vec<_> = open
        .filter_map(|breaker| breaker["name"].as_str())
        .collect();
    let warning = |text: &str| ("warning", text.to_owned());
    if health["draining"] == true {
        return warning(
            "it is shutting down: it completes requests in flight and accepts no new ones",
        );
    }
    if health["storage"]["ready"] == false {
        return ("problem", "it rejects writes".to_owned());
    }
    if let Some(alert) = worst {
        let grade = if is_critical(&alert) {
            "problem"
        } else {
            "warning"
        };
        return (
            grade,
            alert["summary"].as_str().unwrap_or_default().to_owned(),
        );
    }
    if !open.is_empty() {
        return ("warning", format!("out of use: {}", open.join(", ")));
    }
    if health["chain_halted"] == true {
        return warning("the chain is halted: its newest block is older than it should be");
    }
    match health["status"] == "ok" {
        true => {
            let upstreams = counted(breakers().count(), "upstream");
            ("ok", format!("all systems normal; {upstreams}, no alert"))
        }
        false => warning("degraded"),
    }
}

impl Status {
    fn text(&self, health: &Value, firing: &[Value]) -> Result<String> {
        let mut lines = vec![open_line(&self.address), String::new()];
        let mut add = |name: &str, text: &str| lines.push(format!("{name:10} {text}"));
        add("status", &format!("{}: {}", self.status, self.summary));
        add("version", health["version"].as_str().unwrap_or_default());
        add(
            "uptime",
            &span(health["uptime_seconds"].as_u64().unwrap_or(0)),
        );
        let breakers = health["breakers"].as_array();
        let breakers = breakers.map_or(&[][..], Vec::as_slice);
        for breaker in breakers {
            add("upstream", &upstream(breaker));
        }
        if breakers.is_empty() {
            add("upstream", "none is configured, and none was found");
        }
        for (_, found) in failing_nodes(self.health.get().as_bytes()) {
            add("upstream", &found);
        }
        if let Some(wallet) = self.wallet_address {
            add("wallet", &wallet.to_string());
        }
        if let Some(account) = &self.account {
            let credits = row(account.get(), &[("credits", "", 0)])?;
            add("balance", &format!("{credits} credits"));
        }
        if let Some(miner) = &self.miner {
            add("miner", &hashrate(&serde_json::from_str(miner.get())?));
        }
        match &self.alerts {
            None => add("alerts", "this server evaluates none"),
            Some(_) if firing.is_empty() => add("alerts", "none fires"),
            Some(_) => {}
        }
        for alert in firing {
            let of = |name: &str| alert[name].as_str().unwrap_or_default();
            let text = format!(
                "{} {}: {} (since {})",
                of("severity"),
                of("name"),
                of("summary"),
                of("since")
            );
            add("alert", &text);
        }
        Ok(lines.join("\n"))
    }
}

/// `node: in use`, or why not.
fn upstream(breaker: &Value) -> String {
    let name = breaker["name"].as_str().unwrap_or_default();
    let state = match breaker["state"].as_str().unwrap_or_default() {
        "CLOSED" => return format!("{name}: in use"),
        state => state.to_lowercase().replace('_', "-"),
    };
    let reason = breaker["reason"].as_str().unwrap_or("no reason is known");
    let again = breaker["retry_after_seconds"].as_u64();
    let again = again.map_or(String::new(), |wait| {
        format!("; next attempt in {}", span(wait))
    });
    format!("{name}: {state}, {reason}{again}")
}

/// `42.5 H/s, mining, 67 °C, last sample at 2026-…`
fn hashrate(miner: &Value) -> String {
    let Some(at) = miner["recorded_at"].as_str() else {
        return "no sample yet".to_owned();
    };
    let rate = miner["hashrate"].as_f64().map(|rate| {
        let unit = miner["hashrate_unit"].as_str().unwrap_or_default();
        format!("{rate} {unit}")
    });
    let state = if miner["is_active"] == true {
        "mining"
    } else {
        "silent"
    };
    let celsius = miner["gpu_temperature"].as_f64();
    let celsius = celsius.map(|celsius| format!("{celsius} °C"));
    let last = Some(format!("last sample at {at}"));
    let all = [rate, Some(state.to_owned()), celsius, last];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Seconds in their two largest units at most.
fn span(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

#[derive(Deserialize)]
struct Alerts {
    firing: Vec<Box<RawValue>>,
    recent: Vec<Box<RawValue>>,
}

pub(super) async fn alerts(client: &Client) -> Result {
    const FIRING: [Column; 5] = [
        ("severity", "SEVERITY", 8),
        ("name", "FIRING", 20),
        ("subject", "SUBJECT", 16),
        ("since", "SINCE (UTC)", 24),
        ("summary", "SUMMARY", 0),
    ];
    const RECENT: [Column; 6] = [
        ("severity", "SEVERITY", 8),
        ("name", "ENDED", 20),
        ("subject", "SUBJECT", 16),
        ("since", "SINCE (UTC)", 24),
        ("resolved_at", "UNTIL (UTC)", 24),
        ("summary", "SUMMARY", 0),
    ];
    client.running("alerts")?;
    let text = client.get("/alerts").await?;
    if client.json {
        return answer(true, text, "");
    }
    let Alerts { firing, recent } = serde_json::from_str(&text)?;
    table(&firing, "alert fires", &FIRING)?;
    if !firing.is_empty() && !recent.is_empty() {
        println!("");
    }
    table(&recent, "alert ended lately", &RECENT)
}
