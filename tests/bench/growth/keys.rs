//! More and more keys, each of an account of its own and used from an address of its own: what the server remembers of
//! them has a bound, and what it does not remember it looks up.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bech32::{Bech32, Hrp};
use bytes::Bytes;
use r3mes_edge::auth::PlainKey;
use r3mes_edge::model::Wallet;
use rusqlite::{Connection as Database, params};

use super::{Axis, Step, bytes, decades, grouped};
use crate::load::{Job, Used, closed, each};
use crate::processes::Edge;
use crate::wire::{call, request};
use crate::{Bench, Result, Target};

pub(super) const PATH: &str = "growth-keys";

/// Keys that were made, as they are sent.
type Keys = Arc<[String]>;

fn made(most: u64) -> Result<Keys> {
    (0..most)
        .map(|_| Ok(PlainKey::generate()?.reveal().to_owned()))
        .collect()
}

/// An account's address for each number.
fn wallet(number: u64) -> Result<Wallet> {
    let mut account = [7; 20];
    // Accounts are hashes: those of neighbours are far apart.
    account[..8].copy_from_slice(&mixed(number).to_be_bytes());
    let prefix = Hrp::parse(Wallet::PREFIX).map_err(|error| error.to_string())?;
    let text = bech32::encode::<Bech32>(prefix, &account).map_err(|error| error.to_string())?;
    Ok(Wallet::parse(&text)?)
}

/// A number in which no order of the first is left (splitmix64, Steele and others, OOPSLA 2014).
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Puts keys into a database that no server has.
fn filled(file: &Path, keys: &[String]) -> Result<()> {
    let mut database = Database::open(file)?;
    // It is flushed once, at the end.
    database.pragma_update(None, "synchronous", "off")?;
    let fill = database.transaction()?;
    {
        let mut user = fill.prepare("INSERT INTO users (wallet, created_at) VALUES (?1, 0)")?;
        let mut insert = fill.prepare(
            "INSERT INTO api_keys (id, hash, start, wallet, name, scopes, created_at) VALUES (?1, ?2, ?3, ?4, '', 'read', 0)",
        )?;
        for (number, key) in (0..).zip(keys) {
            let wallet = wallet(number)?;
            let key = PlainKey::parse(key).ok_or("a key is none")?;
            user.execute([wallet.as_str()])?;
            let (id, hash) = (format!("key_{number:016}"), key.hash());
            insert.execute(params![id, hash.as_bytes(), key.start(), wallet.as_str()])?;
        }
    }
    fill.commit()?;
    database.close().map_err(|(_, error)| error)?;
    std::fs::File::open(file)?.sync_all()?;
    Ok(())
}

/// A server whose file has so many keys.
struct Keyring {
    edge: Edge,
    keys: Keys,
    size: usize,
    /// The most memory that it had while each was used.
    most: u64,
}

impl Keyring {
    fn new(bench: &Bench, keys: &Keys, size: u64) -> Result<Self> {
        let file = bench.folder.path().join(format!("keys-{size}.db"));
        // Who comes by a proxy that is trusted has the address that it names.
        let config = "auth.trusted_proxies = [\"127.0.0.1\"]";
        // Made by the server, and ended, so that it can be filled.
        drop(Edge::start(file.clone(), config)?);
        let (keys, size) = (Arc::clone(keys), usize::try_from(size)?);
        filled(&file, &keys[..size])?;
        let edge = Edge::start(file, config)?;
        let mut keyring = Self {
            edge,
            keys,
            size,
            most: 0,
        };
        keyring.use_each(bench)?;
        Ok(keyring)
    }

    /// A read with the key of this number, and from an address of its own; `number` has one for each request.
    fn reads(&self, number: impl Fn(usize) -> usize + Send + Sync + 'static) -> Job {
        let (keys, asked) = (Arc::clone(&self.keys), AtomicUsize::new(0));
        let requests = move |_| {
            let number = number(asked.fetch_add(1, Ordering::Relaxed));
            let address = std::net::Ipv4Addr::from_bits(0x0A00_0000 + number as u32);
            let key = &keys[number];
            let text = format!(
                "GET /auth/me HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\nX-API-Key: {key}\r\n\r\n"
            );
            Bytes::from(text)
        };
        Job {
            requests: Arc::new(requests),
            ..Job::same(self.edge.process.address, Bytes::new())
        }
    }

    fn use_each(&mut self, bench: &Bench) -> Result<()> {
        const PARTS: usize = 10;
        let began = Instant::now();
        let connections = self.size.min(50);
        let times = self.size / connections;
        let parts = if times.is_multiple_of(PARTS) {
            PARTS
        } else {
            1
        };
        let job = self.reads(|number| number);
        let used = |_| {
            each(
                &job,
                connections,
                times / parts,
                Duration::ZERO,
                &Used::default,
            )?;
            Ok(bytes(self.edge.process.peak() as f64))
        };
        let memory: Vec<String> = (0..parts).map(used).collect::<Result<_>>()?;
        self.most = self.edge.process.peak();
        let note = format!(
            "{} keys used once in {:.1} s; memory after each {}: {}; the limiter of reads holds {:.0} of the keys and addresses",
            grouped(self.size as u64),
            began.elapsed().as_secs_f64(),
            grouped((self.size / parts) as u64),
            memory.join(", "),
            self.metric_sum("rate_limiter_entries{class=\"read\"")?,
        );
        bench.note(PATH, &note);
        Ok(())
    }

    /// The sum of the metrics whose lines begin with this.
    fn metric_sum(&self, name: &str) -> Result<f64> {
        let admin = self.edge.database.with_added_extension("admin-key");
        let admin = std::fs::read_to_string(admin)?;
        let page = request("GET", "/metrics", Some(admin.trim()), "");
        let page = call(self.edge.process.address, &page)?;
        let page = String::from_utf8_lossy(&page);
        let lines = page.lines().filter_map(|line| line.strip_prefix("r3mes_"));
        let found = lines.filter(|line| line.starts_with(name));
        let values = found.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Keys that were looked up, and requests.
    fn looked_up(&self) -> Result<[f64; 2]> {
        Ok([
            self.metric_sum("key_lookups")?,
            self.metric_sum("http_requests_total")?,
        ])
    }

    fn target<'a>(&'a self, bench: &Bench) -> Target<'a> {
        let (size, length) = (self.size as u64, bench.length());
        let job = self.reads(move |number| (mixed(number as u64) % size) as usize);
        let process = &self.edge.process;
        Target {
            name: "a read by any of them",
            process: None,
            round: Box::new(move || closed(&job, 1, length, &|| process.used())),
        }
    }
}

pub(super) fn keys(bench: &Bench) -> Result<Axis> {
    let sizes = decades(1, if bench.quick { 1000 } else { 1_000_000 });
    let keys = made(sizes.last().copied().unwrap_or(1))?;
    let keyrings = sizes.iter().map(|size| Keyring::new(bench, &keys, *size));
    let keyrings: Vec<Keyring> = keyrings.collect::<Result<_>>()?;
    let targets: Vec<_> = keyrings
        .iter()
        .map(|keyring| keyring.target(bench))
        .collect();
    let before = keyrings.iter().map(Keyring::looked_up);
    let before: Vec<_> = before.collect::<Result<_>>()?;
    let all = bench.interleaved(&targets)?;
    for (keyring, before) in keyrings.iter().zip(before) {
        let [looked_up, asked] = keyring.looked_up()?;
        let share = (looked_up - before[0]) / (asked - before[1]) * 100.0;
        let note = format!(
            "{} keys: {share:.0} % of the reads looked their key up in a file of {:.0} MB",
            grouped(keyring.size as u64),
            std::fs::metadata(&keyring.edge.database)?.len() as f64 / 1e6
        );
        bench.note(PATH, &note);
    }
    let steps = all.iter().zip(keyrings.iter().zip(&sizes));
    let steps = steps.map(|(series, (keyring, size))| Step::of(*size, series, keyring.most));
    Ok(Axis {
        path: PATH,
        of: "keys",
        unit: "request",
        steps: steps.collect(),
    })
}
