//! The storage over one SQLite file: many readers beside one writer.
//!
//! `writer` owns the only connection that changes anything; `readers` is a pool of read-only ones; `accounts`, `keys` and
//! `telemetry` hold the transactions of each subject, `history` and `retention` what becomes of samples; `sql` holds every
//! statement, `migrations` how a file of another version gets the schema.

mod accounts;
mod backup;
mod ballast;
mod check;
mod export;
mod history;
mod import;
mod keys;
mod migrations;
mod once;
mod open;
mod reader;
mod readers;
mod retention;
mod row;
mod sql;
mod stable_read;
mod telemetry;
mod unchanged;
mod verify;
mod writer;

pub use backup::{back_up, backup_file, backups, restore, thin_out, verify_backup};
pub use check::{Check, check_database, glance};
pub use export::LedgerExport;
pub(crate) use import::{ImportSource, ImportTransaction};
pub use migrations::{Migrated, migrate_database};
pub use open::{OpenError, SCHEMA_VERSION};
pub use reader::SqliteReader;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;

use self::backup::Part;
use self::ballast::Ballast;
use self::once::once;
use self::readers::Readers;
use self::row::{count, credits_at, maybe_time_at, storage_error, time_at, unreadable, wallet_at};
use self::unchanged::{Commits, Unchanged};
use self::verify::LedgerVerifier;
use self::writer::{Faults, Room, Writer};
use super::lock::with_suffix;
use super::{
    Backup, Change, Counted, Done, Earning, EarningsDay, FileFault, HashratePoint, InstanceLock,
    Kept, LeaderboardRow, LedgerEntry, LedgerReport, MinerStats, Observers, Once, Recorded,
    Repository, Resolution, StoreError, StoreGauges, StoreObserver, Totals, User, real_path,
};
use crate::auth::{KeyHash, KeyRecord};
use crate::model::{Credits, Retention, Sample, Timestamp, Wallet};

/// A database file, open for this process alone to write: [`SqliteStore::open`] makes one, [`Repository`] says what it can
/// do. Its verbs want a tokio runtime around them, of any kind, with its time on. A write that was begun is done, and told
/// to observers, also where its future is dropped.
pub struct SqliteStore {
    path: PathBuf,
    readers: Readers,
    unchanged: Unchanged,
    writer: Writer,
    has_imported_keys: AtomicBool,
    /// Held while a copy is made.
    backing_up: tokio::sync::Mutex<()>,
    /// When it was last looked for what has been kept long enough.
    cut_at: AtomicI64,
    /// Shared with all that has the file open, so that it goes last.
    lock: Mutex<Option<Arc<InstanceLock>>>,
    observers: Arc<Observers>,
}

/// The version of SQLite, which is compiled in.
///
/// ```
/// assert!(r3mes_edge::store::sqlite_version().starts_with("3."));
/// ```
#[must_use]
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

impl SqliteStore {
    /// Opens the database at `path` under its instance lock; makes it (mode 0600) where it is missing and `create` says
    /// so, and its ballast with it: room for the end of what was begun when the disk is full. Blocks, as it is done once
    /// before anything is served.
    ///
    /// # Errors
    /// Where another process has the lock, the file has a second hard link, is missing, is no database of ours, or is newer
    /// than this program; or where it is to be made and parts of another one are there. One of an older version is copied
    /// and migrated.
    pub fn open(path: &Path, create: bool) -> Result<Self, OpenError> {
        let path = &real_path(path);
        let lock = Arc::new(open::lock(path, create)?);
        // Of a restore that was interrupted: whoever does one has the lock.
        backup::delete_database(&path.with_added_extension(open::RESTORING));
        let writing = || {
            let mut connection = open::connect(path)?;
            migrations::bring_along(&mut connection, &lock, path)?;
            open::shape(&mut connection, path)?;
            Ok(connection)
        };
        let connection = writing().or_else(|error| match error {
            // A crash on a full disk left the ballast, and no room even for the log's index.
            OpenError::Storage(StoreError::Full | StoreError::Unavailable(_))
                if Ballast::open(path, false).give_up() =>
            {
                writing()
            }
            error => Err(error),
        })?;
        // It may take a while, and hangs on nothing.
        migrations::verify_aside(path);
        let ballast = Ballast::open(path, create);
        let has_imported_keys = keys::has_imported(&connection)?.into();
        let observers = Arc::new(Observers::default());
        let readers = Readers::open(path, Arc::clone(&lock), Arc::clone(&observers))?;
        lock.watch_logs();
        let log = with_suffix(path, "-wal");
        let (gate, observing) = (readers.gate(), Arc::clone(&observers));
        let commits = Commits::default();
        let unchanged = Unchanged::since(commits.clone());
        let faults = Faults::new(&connection, ballast, Arc::clone(&lock))?;
        let writer = Writer::start(connection, log, faults, gate, commits, observing)
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self {
            path: path.to_owned(),
            readers,
            unchanged,
            writer,
            has_imported_keys,
            backing_up: tokio::sync::Mutex::default(),
            cut_at: AtomicI64::new(i64::MIN),
            lock: Mutex::new(Some(lock)),
            observers,
        })
    }

    /// Writes into the lock file where this process serves, so that commands can ask it, as
    /// [`InstanceLock::announce`] does.
    ///
    /// # Errors
    /// Where the lock file cannot be written.
    pub fn announce(&self, address: &str) -> std::io::Result<()> {
        let lock = self.lock();
        lock.as_ref().map_or(Ok(()), |lock| lock.announce(address))
    }

    /// How long the one thread that writes has been at what it is at: a group of writes, a step of a copy. `None` where it
    /// waits for work. A storage at fault is no long work; minutes mean a disk that does not answer, or a mistake of ours.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        self.writer.busy_for()
    }
}

impl SqliteStore {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<InstanceLock>>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened to the database's files since they were opened.
    fn file_fault(&self) -> Option<FileFault> {
        self.lock().as_ref()?.fault()
    }

    /// A piece of long work, one transaction.
    async fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer
            .write(Room::Common, move |c| work(c).map_err(storage_error))
            .await
    }
}

#[async_trait]
impl Repository for SqliteStore {
    async fn create_user(
        &self,
        wallet: Wallet,
        now: Timestamp,
        asked: Option<Once<User>>,
    ) -> Result<Done<User>, StoreError> {
        let work = move |c: &Connection| once(c, asked, now, || accounts::create(c, &wallet, now));
        let change = |done: &Done<User>| matches!(done, Done::New(_)).then_some(Change::Account);
        self.writer.change(work, change).await
    }

    async fn user(&self, wallet: Wallet) -> Result<Option<User>, StoreError> {
        let commits = match self.unchanged.user(&wallet) {
            Ok(user) => return Ok(Some(user)),
            Err(commits) => commits,
        };
        let user = self.readers.point(|c| accounts::user(c, &wallet)).await?;
        user.iter()
            .for_each(|user| self.unchanged.keep(user, commits));
        Ok(user)
    }

    async fn users(&self, after: Option<Wallet>, limit: usize) -> Result<Vec<User>, StoreError> {
        self.readers
            .scan(move |c| accounts::users(c, after.as_ref(), limit))
            .await
    }

    async fn grant(
        &self,
        wallet: Wallet,
        amount: Credits,
        reason: String,
        now: Timestamp,
        asked: Option<Once<(LedgerEntry, bool)>>,
    ) -> Result<Done<(LedgerEntry, bool)>, StoreError> {
        let work = move |c: &Connection| {
            once(c, asked, now, || {
                accounts::grant(c, &wallet, amount, &reason, now)
            })
        };
        let change = |done: &Done<(LedgerEntry, bool)>| match done {
            Done::New((entry, _)) => Some(Change::Granted(entry.amount)),
            Done::Again(_) => None,
        };
        self.writer.change(work, change).await
    }

    async fn ledger(
        &self,
        wallet: Wallet,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Option<(Credits, Vec<LedgerEntry>)>, StoreError> {
        self.readers
            .scan(move |c| accounts::ledger(c, &wallet, before, limit))
            .await
    }

    async fn reserve(
        &self,
        wallet: Wallet,
        price: Credits,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        self.reserve_ahead(wallet, price, now, Box::new(|| ()))
            .await
    }

    async fn reserve_ahead(
        &self,
        wallet: Wallet,
        price: Credits,
        now: Timestamp,
        taken: Box<dyn FnOnce() + Send>,
    ) -> Result<i64, StoreError> {
        self.writer
            .write(Room::Common, move |c| {
                let reservation = accounts::reserve(c, &wallet, price, now)?;
                taken();
                Ok(reservation)
            })
            .await
    }

    async fn settle(&self, reservation: i64, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .write(Room::Kept, move |c| accounts::settle(c, reservation, now))
            .await
    }

    async fn settle_kept(
        &self,
        reservation: i64,
        answer: String,
        note: Option<String>,
        now: Timestamp,
        asked: Once<(i64, String)>,
    ) -> Result<(), StoreError> {
        let work = move |c: &Connection| {
            let stored = once::find_same(c, &asked.key, &asked.request, now)?;
            accounts::settle(c, reservation, now)?;
            if let Some(note) = note {
                accounts::note(c, reservation, &note)?;
            }
            match stored {
                Some(_) => Ok(()),
                None => once::store(c, &asked, &(reservation, answer), now),
            }
        };
        self.writer.write(Room::Kept, work).await
    }

    async fn note_reservations(&self, notes: Vec<(i64, String)>) -> Result<(), StoreError> {
        let work = move |c: &Connection| {
            let mut notes = notes.iter();
            notes.try_for_each(|(reservation, note)| accounts::note(c, *reservation, note))
        };
        self.writer.write(Room::Common, work).await
    }

    async fn kept(
        &self,
        key: [u8; 32],
        request: [u8; 32],
        now: Timestamp,
    ) -> Result<Option<Kept>, StoreError> {
        let find = move |c: &Connection| once::find(c, &key, now);
        once::same(self.readers.scan(find).await?, &request)
    }

    async fn check_idempotency_rows(
        &self,
        scope: String,
        running: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let work = move |c: &Connection| once::check_rows(c, &scope, running, now);
        self.writer.write(Room::Common, work).await
    }

    async fn refund(&self, reservation: i64, now: Timestamp) -> Result<(), StoreError> {
        self.writer
            .write(Room::Kept, move |c| accounts::refund(c, reservation, now))
            .await
    }

    async fn refund_open(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut refunded = 0;
        loop {
            let some = self
                .writer
                .write(Room::Kept, move |c| accounts::refund_open(c, now, 1000))
                .await?;
            if some == 0 {
                return Ok(refunded);
            }
            refunded += some;
        }
    }

    async fn verify_ledger(&self) -> Result<LedgerReport, StoreError> {
        // A place among the readers for each step only: the log cannot be emptied while one is taken.
        let mut walk = LedgerVerifier::new();
        loop {
            let step = self.readers.scan(move |c| walk.step(c)).await?;
            walk = match step.ended() {
                Ok(report) => return Ok(report),
                Err(walk) => walk,
            };
        }
    }

    async fn create_key(
        &self,
        key: KeyRecord,
        max_active: usize,
        asked: Option<Once<KeyRecord>>,
    ) -> Result<bool, StoreError> {
        let work = move |c: &Connection| {
            let (mut new_account, now) = (false, key.created_at);
            let create = || {
                new_account = keys::create(c, &key, max_active)?;
                Ok(key)
            };
            match once(c, asked, now, create)? {
                Done::New(_) => Ok(new_account),
                Done::Again(kept) => Err(StoreError::AlreadyIssued(kept.reference)),
            }
        };
        let change = |new_account: &bool| new_account.then_some(Change::Account);
        self.writer.change(work, change).await
    }

    async fn key_by_hash(&self, hash: KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        self.readers.point(|c| keys::by_hash(c, &hash)).await
    }

    async fn adopt_key(
        &self,
        sha256: KeyHash,
        hash: KeyHash,
        start: String,
    ) -> Result<Option<KeyRecord>, StoreError> {
        if self.key_by_hash(sha256).await?.is_none() {
            // A guess, which must not cost a write; or another first use was quicker.
            return self.key_by_hash(hash).await;
        }
        self.writer
            .write(Room::Common, move |c| {
                keys::adopt(c, &sha256, &hash, &start)
            })
            .await
    }

    fn has_imported_keys(&self) -> bool {
        self.has_imported_keys.load(Ordering::Acquire)
    }

    async fn keys(
        &self,
        wallet: Option<Wallet>,
        before: Option<String>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        self.readers
            .scan(move |c| keys::list(c, wallet.as_ref(), before.as_deref(), limit))
            .await
    }

    async fn revoke_key(
        &self,
        id: String,
        wallet: Option<Wallet>,
        now: Timestamp,
    ) -> Result<KeyRecord, StoreError> {
        let work = move |c: &Connection| keys::revoke(c, &id, wallet.as_ref(), now);
        self.writer.change(work, changed_key).await
    }

    async fn key(&self, id: String) -> Result<Option<KeyRecord>, StoreError> {
        self.readers.point(|c| keys::by_id(c, &id)).await
    }

    async fn rotate_key(
        &self,
        id: String,
        new: KeyRecord,
        until: Timestamp,
        max_active: usize,
    ) -> Result<KeyRecord, StoreError> {
        let work = move |c: &Connection| keys::rotate(c, &id, &new, until, max_active);
        self.writer.change(work, changed_key).await
    }

    async fn purge(&self, now: Timestamp) -> Result<usize, StoreError> {
        // In steps, so that no request waits behind thousands.
        let step = || {
            let work =
                move |c: &Connection| Ok(keys::purge_logins(c, now, 500)? + once::purge(c, now)?);
            self.writer.write(Room::Common, work)
        };
        let mut purged = 0;
        loop {
            match step().await? {
                0 => return Ok(purged),
                some => purged += some,
            }
        }
    }

    async fn back_up(&self, folder: Option<PathBuf>, now: Timestamp) -> Result<Backup, StoreError> {
        // Until it has its name: verifying is part of it.
        let _one = self
            .backing_up
            .try_lock()
            .map_err(|_| StoreError::Conflict("a copy is being made already".to_owned()))?;
        let to = backup_file(&self.path, folder.as_deref(), now);
        let (grown, growing) = std::sync::mpsc::sync_channel(1);
        let part = blocking(move || Part::begin(to)).await?;
        let flushed = part.flush(growing);
        let copied = self.writer.copy(part.path().to_owned(), grown);
        // It ends with the copy.
        let flushed = in_the_background(move || {
            flushed();
            Ok(())
        });
        let (copied, _) = tokio::join!(copied, flushed);
        copied?;
        in_the_background(move || part.finish()).await
    }

    async fn last_backup(
        &self,
        folder: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let path = self.path.clone();
        blocking(move || {
            let copies = backups(&path, folder.as_deref()).map_err(unavailable)?;
            Ok(backup::newest(&copies, now))
        })
        .await
    }

    async fn thin_out_backups(
        &self,
        folder: Option<PathBuf>,
        keep: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        blocking(move || thin_out(&path, folder.as_deref(), keep, now).map_err(unavailable)).await
    }

    async fn compact(&self, retention: Retention, now: Timestamp) -> Result<(), StoreError> {
        // What a migration left comes first: an hour is made of all its samples.
        let mut came_along = false;
        while self.step(migrations::go_on).await? {
            came_along = true;
        }
        if came_along {
            log::info!("all samples from before the migration have come along");
        }
        // A minute is over when the sample that follows it would have come.
        let until = history::start(now.millis() - history::MINUTE, history::MINUTE);
        while self.step(move |c| history::roll_up(c, until)).await? {}
        let last = self.cut_at.load(Ordering::Relaxed);
        if (last..last.saturating_add(history::HOUR)).contains(&now.millis()) {
            return Ok(());
        }
        let ends = retention::Ends::new(&retention, now);
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let scan = move |c: &Connection| retention::due(c, from, ends);
            let (due, last) = self.readers.scan(scan).await?;
            after = last;
            let due: Arc<[_]> = due.into();
            let cut = || {
                let due = Arc::clone(&due);
                self.step(move |c| retention::cut(c, &due, ends))
            };
            while !due.is_empty() && cut().await? > 0 {}
        }
        while self.step(retention::give_back).await? {}
        self.cut_at.store(now.millis(), Ordering::Relaxed);
        Ok(())
    }

    async fn touch_keys(&self, touched: Vec<(String, Timestamp)>) -> Result<(), StoreError> {
        self.writer
            .write(Room::Common, move |c| keys::touch(c, &touched))
            .await
    }

    async fn record_samples(
        &self,
        samples: Vec<Sample>,
        now: Timestamp,
    ) -> Result<Recorded, StoreError> {
        let work = move |c: &Connection| telemetry::record(c, &samples, now);
        let change = |&Recorded { new, first }: &Recorded| Some(Change::Samples { new, first });
        self.writer.change(work, change).await
    }

    async fn record_earning(
        &self,
        earning: Earning,
        now: Timestamp,
        asked: Option<Once<Counted>>,
    ) -> Result<Done<Counted>, StoreError> {
        let work = move |c: &Connection| {
            once(c, asked, now, || {
                telemetry::record_earning(c, &earning, now)
            })
        };
        let change = |done: &Done<Counted>| match done {
            Done::New(told) if told.counted => Some(Change::Earned(told.earnings)),
            _ => None,
        };
        self.writer.change(work, change).await
    }

    async fn miner(
        &self,
        wallet: Wallet,
        active_since: Timestamp,
    ) -> Result<Option<MinerStats>, StoreError> {
        self.readers
            .point(|c| telemetry::miner(c, &wallet, active_since))
            .await
    }

    async fn earnings(
        &self,
        wallet: Wallet,
        since: Timestamp,
        offset: usize,
        limit: usize,
    ) -> Result<Option<Vec<EarningsDay>>, StoreError> {
        self.readers
            .scan(move |c| telemetry::earnings(c, &wallet, since, offset, limit))
            .await
    }

    async fn hashrate(
        &self,
        wallet: Wallet,
        since: Timestamp,
        resolution: Resolution,
        limit: usize,
    ) -> Result<Option<Vec<HashratePoint>>, StoreError> {
        let read = move |c: &Connection| history::read(c, &wallet, since, resolution, limit);
        match self.readers.scan(read).await? {
            history::Found::NoAccount => Ok(None),
            history::Found::TooMuch => Err(StoreError::TooMuch),
            history::Found::Points(points) => Ok(Some(points)),
        }
    }

    async fn shares(
        &self,
        wallet: Wallet,
        since: Timestamp,
    ) -> Result<Option<(i64, Timestamp)>, StoreError> {
        self.readers
            .scan(move |c| telemetry::shares(c, &wallet, since))
            .await
    }

    async fn leaderboard(
        &self,
        since: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<LeaderboardRow>, StoreError> {
        self.readers
            .scan(move |c| telemetry::leaderboard(c, since, limit))
            .await
    }

    async fn totals(&self, active_since: Timestamp) -> Result<Totals, StoreError> {
        self.readers
            .scan(move |c| telemetry::totals(c, active_since))
            .await
    }

    fn observe(&self, observer: Weak<dyn StoreObserver>) {
        self.observers.add(observer);
    }

    fn gauges(&self) -> StoreGauges {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        StoreGauges {
            queue_depth: self.writer.depth(),
            queue_capacity: Writer::CAPACITY,
            pool_in_use: self.readers.in_use(),
            pool_size: Readers::SIZE,
            file_bytes: size(&self.path),
            wal_bytes: size(&with_suffix(&self.path, "-wal")),
            disk_free_bytes: disk_free(&self.path),
            file_fault: self.file_fault(),
        }
    }

    fn is_ready(&self) -> bool {
        self.writer.takes_jobs() && self.file_fault().is_none()
    }

    fn close(&self) {
        // The readers first: SQLite removes the -wal and -shm files when its last connection closes cleanly.
        self.readers.close();
        self.writer.close();
        // From now on another process may write the file.
        self.unchanged.forget();
        // A read that is still under way keeps the lock to its end.
        if let Some(lock) = self.lock().take() {
            let _ = lock.announce("");
        }
    }
}

fn changed_key(key: &KeyRecord) -> Option<Change> {
    Some(Change::Key(key.hash))
}

/// What touches files and may take a while, where it blocks nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::Internal(error.to_string())))
}

/// The same on a thread of its own, which steps back where there are fewer processors than work.
async fn in_the_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (done, told) = tokio::sync::oneshot::channel();
    aside(move || drop(done.send(work()))).map_err(unavailable)?;
    told.await
        .unwrap_or_else(|error| Err(StoreError::Internal(error.to_string())))
}

/// Lets other threads go before this one.
fn be_nice(value: i32) {
    // Of the one thread, as Linux has it (setpriority(2), "C library/kernel differences"); elsewhere it would be the process.
    if cfg!(target_os = "linux") {
        let _ = rustix::process::setpriority_process(None, value);
    }
}

/// Begins work on such a thread.
fn aside(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = move || {
        be_nice(10);
        work();
    };
    std::thread::Builder::new()
        .name("r3mes-copy".to_owned())
        .spawn(thread)
        .map(drop)
}

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Bytes that this process may still write on the file system of a database.
fn disk_free(path: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(open::folder_of(path)).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}
