//! Commands for copies of the database: making and checking them, and putting one in the database's place.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use r3mes_edge::model::Timestamp;
use r3mes_edge::store::{
    Actor, BackupFile, BackupList, LedgerReport, back_up, backup_file, prune_backups, restore,
    verify_backup,
};
use r3mes_edge::{Clock, Config, Repository, SqliteStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{self, Client, server_of};
use super::doctor::mebibytes;
use super::output::{answer, note, progress};
use super::requests::verdict;
use super::{Failure, Result, admin_key, checked};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create a verified copy of the database, also while a server runs
    ///
    /// Example: r3mes-edge backup create --keep 7
    Create(Create),
    /// List the backups in backup.folder or beside the database, newest first
    ///
    /// Example: r3mes-edge backup list
    List,
    /// Check every page of a backup, and every wallet's ledger
    ///
    /// Example: r3mes-edge backup verify r3mes-edge.db.20261125T120000.000Z.backup
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Replace the database with a backup; the server must not run
    ///
    /// Example: r3mes-edge backup restore r3mes-edge.db.20261125T120000.000Z.backup
    Restore {
        /// The backup, which is verified first
        file: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct Create {
    /// The new file [default: in backup.folder or beside the database, named by the time]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Then delete all backups there but the newest N [default: all are kept]
    #[arg(long, value_name = "N", conflicts_with = "to", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
}

/// A copy, and what it was found to hold.
#[derive(Deserialize, Serialize)]
struct Copied {
    #[serde(rename(deserialize = "path"))]
    file: PathBuf,
    ledger: LedgerReport,
}

pub(super) async fn create(create: Create, client: &Client) -> Result {
    let Client { config, json, .. } = client;
    if client.remote.is_some() {
        if create.to.is_some() || create.keep.is_some() {
            let what = "--to and --keep are for a server on this machine; elsewhere it writes to its own backup.folder";
            return Err(Failure::Usage(what.to_owned()));
        }
        progress("copying and checking the database");
        let copied: Copied = serde_json::from_str(&client.post("/admin/backup", &()).await?)?;
        return copied.print(*json);
    }
    let (database, clock) = (&config.database, Clock::default());
    // A clock that is wrong neither dates a copy nor says which one is the oldest.
    let last = SqliteStore::open_read_only(database)?.last_clock().await?;
    if let Some(last) = last {
        clock.resume(&last);
    }
    progress("copying and checking the database");
    let copied = if create.to.is_none() && server_of(database)?.is_some() {
        // By the server, so that no write waits; in the folder of its own configuration.
        serde_json::from_str(&client.post("/admin/backup", &()).await?)?
    } else {
        let beside = || backup_file(database, config.backup.folder(), clock.now());
        let file = create.to.unwrap_or_else(beside);
        let ledger = back_up(database, &file)?;
        record(config, &file, clock.now()).await;
        Copied { file, ledger }
    };
    copied.print(*json)?;
    let Some(keep) = create.keep else {
        return Ok(());
    };
    if clock.jump().is_some() {
        note(
            "no old copy was deleted, as the clock of this machine is in question: see db accept-clock",
        );
        return Ok(());
    }
    prune_backups(database, &copied.file, keep.into(), clock.now())
        .map_err(|error| Failure::Failed(format!("old copies were not deleted: {error}")))
}

/// Adds a backup to the audit trail. Beside a server the file is only read, and where the caller may not write it, the
/// backup is what counts.
async fn record(config: &Config, file: &Path, now: Timestamp) {
    let recorded = async {
        if server_of(&config.database)?.is_some() {
            return Ok(());
        }
        let name = file.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let store = client::open(config, false).await?;
        let actor = Actor::local(now);
        let recorded = store.record_action("backup.create", name, actor).await;
        recorded.map_err(Failure::from)
    };
    if let Err(failure) = recorded.await {
        note(format!("the audit trail has no entry of it: {failure}"));
    }
}

pub(super) async fn list(client: &Client) -> Result {
    let text = client.get("/admin/backups").await?;
    let found: BackupList = serde_json::from_str(&text)?;
    let now = Clock::default().now();
    let named = found.backups.iter().map(|copy| copy.name.len());
    let width = named.max().unwrap_or_default();
    let mut lines = format!("{:width$}  {:>12}  {:>7}", "NAME", "SIZE", "AGE");
    for BackupFile {
        name,
        bytes,
        created_at,
    } in &found.backups
    {
        let (size, age) = (mebibytes(*bytes), age(*created_at, now));
        lines += &format!("\n{name:width$}  {size:>12}  {age:>7}");
    }
    if found.backups.is_empty() {
        let folder = found.folder.as_deref().unwrap_or_default();
        lines = format!("no backup in {folder}; make one with r3mes-edge backup create");
    }
    answer(client.json, text, lines)
}

/// How long ago it was, in the largest unit that fits.
fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.millis().saturating_sub(then.millis()).max(0) / 1000;
    let units = [(86_400, "d"), (3600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    let (length, name) = unit.unwrap_or((1, "s"));
    format!("{} {name}", seconds / length)
}

pub(super) fn verify(file: PathBuf, json: bool) -> Result {
    progress("checking every page and every wallet");
    let ledger = verify_backup(&file)?;
    let copied = Copied { file, ledger };
    copied.print(json)?;
    checked("the copy", copied.ledger.mistakes.len())
}

impl Copied {
    fn print(&self, json: bool) -> Result {
        let verdict = verdict(&self.ledger);
        let text = format!("{}: {verdict}", self.file.display());
        answer(json, serde_json::to_string(self)?, text)
    }
}

/// Puts a copy in the database's place.
pub(super) async fn run_restore(config: &Config, file: &Path, json: bool) -> Result {
    let database = &config.database;
    let actor = Actor::local(Clock::default().now());
    let suffix = format!("{}.replaced", actor.at.compact());
    progress("copying the database");
    let old = restore(file, database, &suffix, &actor)?;
    let mut text = format!(
        "{} now holds the copy {}",
        database.display(),
        file.display()
    );
    if let Some(old) = &old {
        let old = old.display();
        text += &format!("\nthe database before is now {old}; it belongs together with its -wal");
    }
    answer(json, json!({ "database": database, "replaced": old }), text)?;
    admin_key::report(database).await;
    Ok(())
}
