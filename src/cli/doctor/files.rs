use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use r3mes_edge::store::backups as copies;
use r3mes_edge::{Clock, Config};

use super::{Check, PATIENCE, mebibytes};
use crate::cli::admin_key::{self, Problem, State};
use crate::cli::files::folder_of;
use crate::cli::{Failure, access};

/// The database and what stands beside it.
pub(super) fn all(config: &Config, runs: bool) -> Vec<Check> {
    let database = &config.database;
    let Ok(about) = std::fs::metadata(database) else {
        return vec![Check::problem(
            "database",
            format!("there is none at {}", database.display()),
            "start the server once, which makes it, or name the right one with --database",
        )];
    };
    let mut checks = vec![mine("database", database, &about, &about)];
    if about.nlink() > 1 {
        checks.push(Check::problem(
            "database",
            format!("{} has {} hard links", database.display(), about.nlink()),
            format!(
                "delete the other names, which find / -xdev -samefile '{}' lists: a server that finds one does not start, and one that runs takes no writes",
                database.display()
            ),
        ));
    }
    for suffix in ["-wal", "-shm"] {
        let mut file = OsString::from(database);
        file.push(suffix);
        checks
            .extend(beside("log", Path::new(&file), &about).filter(|check| check.advice.is_some()));
    }
    checks.push(log_size(config));
    checks.push(ballast(database, &about, runs));
    checks.push(file_system(database));
    checks
}

/// Whether the key that commands ask a running server with is there, its owner's only, and works: by asking the server, or
/// by what the database knows of it.
pub(super) async fn admin_key(config: &Config) -> Option<Check> {
    const NAME: &str = "admin_key";
    let database = &config.database;
    let about = std::fs::metadata(database).ok()?;
    let file = admin_key::path(database);
    let address = access::running(database).ok().flatten();
    let found = match beside(NAME, &file, &about) {
        Some(check) if check.advice.is_some() => return Some(check),
        found => found,
    };
    let key = match admin_key::read_beside(database, address.is_some()) {
        Ok(key) => key,
        Err(problem) if found.is_none() => {
            return Some(Check::warning(NAME, problem.what, problem.advice));
        }
        Err(problem) => return Some(Check::problem(NAME, problem.what, problem.advice)),
    };
    let state = match &address {
        Some(address) => {
            let asked = access::key_state(address, database, key);
            let asked = tokio::time::timeout(PATIENCE, asked).await;
            asked.unwrap_or_else(|_| Err(Failure::Unavailable("no answer".to_owned())))
        }
        None => admin_key::state_in_file(database, &key),
    };
    Some(match state {
        Ok(State::Refused(why)) if let Some(address) = &address => {
            let Problem { what, advice } = Problem::refused(database, address, &why);
            Check::problem(NAME, what, advice)
        }
        Ok(state) => match state.problem(database, address.is_some()) {
            None => return found,
            Some(Problem { what, advice }) if matches!(state, State::Refused(_)) => {
                Check::problem(NAME, what, advice)
            }
            Some(Problem { what, advice }) => Check::warning(NAME, what, advice),
        },
        Err(failure) => {
            let why = failure.text().unwrap_or_default();
            let found = format!("{} was not checked: {why}", file.display());
            Check::warning(
                NAME,
                found,
                "mend what the other checks name, then look again",
            )
        }
    })
}

/// Whether a file is only its owner's, who is the database's.
fn mine(name: &'static str, file: &Path, about: &Metadata, database: &Metadata) -> Check {
    let (shown, mode) = (file.display(), about.mode() & 0o777);
    let me = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 {
        return Check::problem(
            name,
            format!("{shown} has mode {mode:04o}: others can use it"),
            format!("chmod 600 '{shown}'"),
        );
    }
    if about.uid() != database.uid() {
        return Check::problem(
            name,
            format!(
                "{shown} belongs to user {}, the database to user {}",
                about.uid(),
                database.uid()
            ),
            format!("chown {} '{shown}'", database.uid()),
        );
    }
    if me != 0 && me != about.uid() {
        return Check::problem(
            name,
            format!("{shown} belongs to user {}, you are user {me}", about.uid()),
            "run this as the user that the server runs as",
        );
    }
    Check::ok(
        name,
        format!("{shown}, mode {mode:04o}, {}", mebibytes(about.len())),
    )
}

fn beside(name: &'static str, file: &Path, database: &Metadata) -> Option<Check> {
    let about = std::fs::metadata(file).ok()?;
    Some(mine(name, file, &about, database))
}

fn log_size(config: &Config) -> Check {
    let mut file = OsString::from(&config.database);
    file.push("-wal");
    let bytes = std::fs::metadata(file).map_or(0, |about| about.len());
    if bytes > config.alerts.wal as u64 {
        return Check::warning(
            "log",
            format!("the write-ahead log has {}", mebibytes(bytes)),
            "another program reads the database all the time and keeps it from being emptied: end that one",
        );
    }
    Check::ok(
        "log",
        format!("the write-ahead log has {}", mebibytes(bytes)),
    )
}

fn ballast(database: &Path, about: &Metadata, runs: bool) -> Check {
    let file = database.with_added_extension("ballast");
    match beside("ballast", &file, about) {
        Some(check) => check,
        None if runs => Check::warning(
            "ballast",
            format!("{} is not there", file.display()),
            "the disk is full, or was when the server started: make room, then it is made again",
        ),
        None => Check::ok("ballast", "made when the server starts"),
    }
}

/// SQLite's log is memory that processes of one machine share, and the instance lock is only as good as the file
/// system's (statfs(2) names the numbers).
fn file_system(database: &Path) -> Check {
    const NAME: &str = "file_system";
    let about = match rustix::fs::statfs(folder_of(database)) {
        Ok(about) => about,
        Err(error) => {
            return Check::warning(NAME, format!("not known: {error}"), "look at it with df -T");
        }
    };
    let remote = match about.f_type as u32 {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 | 0xFF53_4D42 => "SMB",
        0x0102_1997 => "9P",
        0x00C3_6400 => "Ceph",
        0x5346_414F => "AFS",
        0x0BD0_0BD0 => "Lustre",
        0x786F_4256 => "a VirtualBox share",
        0xBACB_ACBC => "a VMware share",
        0x6573_5546 => {
            let found = "FUSE, which may be a network's or a local one";
            let advice = "if it is a network's, move the database to a local disk";
            return Check::warning(NAME, found, advice);
        }
        0x0102_1994 | 0x8584_58F6 => {
            let advice = "move the database to a disk, unless it is to be gone with the next start of the machine";
            return Check::warning(NAME, "memory (tmpfs)", advice);
        }
        other => return Check::ok(NAME, format!("local (type {other:#x})")),
    };
    Check::problem(
        NAME,
        format!("{remote}: locks and the shared log do not hold there"),
        "move the database to a local disk",
    )
}

/// Room for the database and for copies.
pub(super) fn space(config: &Config) -> Vec<Check> {
    let mut folders = vec![folder_of(&config.database)];
    folders.extend(config.backup.folder());
    folders
        .iter()
        .map(|folder| free(folder, config.alerts.disk_free as u64))
        .collect()
}

fn free(folder: &Path, enough: u64) -> Check {
    const NAME: &str = "disk_free";
    /// Less is gone before anybody looks.
    const LITTLE: u64 = 32 << 20;
    let about = match rustix::fs::statvfs(folder) {
        Ok(about) => about,
        Err(error) => {
            return Check::problem(
                NAME,
                format!("{}: {error}", folder.display()),
                "make the folder, or name another one",
            );
        }
    };
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let found = format!("{} at {}", mebibytes(free), folder.display());
    if free < LITTLE {
        Check::problem(NAME, found, "make room: without it no writes are taken")
    } else if free < enough {
        Check::warning(NAME, found, "make room before it is full")
    } else {
        Check::ok(NAME, found)
    }
}

/// The copies: whose they are, and how old the newest is.
pub(super) fn backups(config: &Config) -> Vec<Check> {
    const NAME: &str = "backups";
    let (database, folder) = (&config.database, config.backup.folder());
    let Ok(about) = std::fs::metadata(database) else {
        return Vec::new();
    };
    let made = match copies(database, folder) {
        Ok(made) => made,
        Err(error) => {
            let advice = "set backup.folder to a folder that is there";
            return vec![Check::problem(NAME, error.to_string(), advice)];
        }
    };
    let open = made
        .iter()
        .filter_map(|(_, file): &(_, PathBuf)| beside(NAME, file, &about))
        .filter(|check| check.advice.is_some());
    let mut checks: Vec<_> = open.take(3).collect();
    let by_hand = "make one now: r3mes-edge backup create";
    let now = Clock::default().now();
    let newest = made.iter().rfind(|(made_at, _)| *made_at <= now);
    checks.push(match (newest, config.backup.every) {
        (None, None) => Check::warning(
            NAME,
            "there is no copy, and none is made by schedule",
            "set backup.every, or make one: r3mes-edge backup create",
        ),
        (None, Some(_)) => Check::warning(NAME, "there is no copy yet", by_hand),
        (Some((newest, _)), every) => {
            let found = format!("{} copies, the newest of {newest}", made.len());
            // One may be late by as much as the server was down.
            let late = every.is_some_and(|every| newest.plus(every * 2) < now);
            if late {
                Check::warning(NAME, format!("{found}, older than backup.every"), by_hand)
            } else {
                Check::ok(NAME, found)
            }
        }
    });
    checks
}
