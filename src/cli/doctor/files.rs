//! Checks of the database and the files beside it: who can use them, whether they are intact, and the space left on their
//! disks.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use r3mes_edge::{Clock, Config, store};

use super::{Finding, TIMEOUT, mebibytes, ok, problem, warning};
use crate::cli::admin_key::{self, Problem, State};
use crate::cli::files::folder_of;
use crate::cli::{Failure, access};

/// Modes and owners of the database, the ballast and the copies.
pub(super) fn modes(config: &Config) -> Vec<(&'static str, Finding)> {
    let database = &config.database;
    let shown = database.display();
    let Ok(about) = std::fs::metadata(database) else {
        let advice = "start the server, which creates it, or name the right one with --database";
        return vec![(
            "database",
            problem(format!("there is none at {shown}"), advice),
        )];
    };
    let mut findings = vec![("database", mode(database, &about, &about))];
    if about.nlink() > 1 {
        let found = format!("{shown} has {} hard links", about.nlink());
        let advice = format!("delete the other names: find / -xdev -samefile '{shown}'");
        findings.push(("database", problem(found, advice)));
    }
    let ballast = database.with_added_extension("ballast");
    if let Ok(ballast_about) = std::fs::metadata(&ballast) {
        findings.push(("ballast", mode(&ballast, &ballast_about, &about)));
    }
    let copies = store::backups(database, config.backup.folder()).unwrap_or_default();
    findings.extend(copies.iter().filter_map(|(_, copy)| {
        let finding = mode(copy, &std::fs::metadata(copy).ok()?, &about);
        finding.advice.is_some().then_some(("backups", finding))
    }));
    findings
}

/// Whether only its owner, who owns the database too, can use a file.
fn mode(file: &Path, about: &Metadata, database: &Metadata) -> Finding {
    let (shown, mode, owner) = (file.display(), about.mode() & 0o777, about.uid());
    let me = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 {
        let found = format!("{shown} has mode {mode:04o}: others can use it");
        problem(found, format!("chmod 600 '{shown}'"))
    } else if owner != database.uid() {
        let found = format!("{shown} belongs to user {owner}, not to the database's owner");
        problem(found, format!("chown {} '{shown}'", database.uid()))
    } else if me != 0 && me != owner {
        let found = format!("{shown} belongs to user {owner}, you are user {me}");
        problem(found, "run this as the user of the server")
    } else {
        let size = mebibytes(about.len());
        ok(format!("{shown}, mode {mode:04o}, {size}"))
    }
}

/// The mode of the admin key file, and whether its key works: for the running server, else for the database.
pub(super) async fn admin_key(database: &Path) -> Option<Finding> {
    let about = std::fs::metadata(database).ok()?;
    let file = admin_key::path(database);
    let found = std::fs::metadata(&file).ok();
    let found = found.map(|key_file| mode(&file, &key_file, &about));
    if found.as_ref().is_some_and(|found| found.advice.is_some()) {
        return found;
    }
    let address = access::running(database).ok().flatten();
    let key = match admin_key::read_beside(database, address.is_some()) {
        Ok(key) => key,
        Err(Problem { what, advice }) if found.is_some() => return Some(problem(what, advice)),
        Err(Problem { what, advice }) => return Some(warning(what, advice)),
    };
    let state = match &address {
        Some(address) => {
            let state = access::key_state(address, database, key);
            let state = tokio::time::timeout(TIMEOUT, state).await;
            state.unwrap_or_else(|_| Err(Failure::Unavailable("no answer".to_owned())))
        }
        None => admin_key::state_in_file(database, &key),
    };
    Some(match (state, &address) {
        (Ok(State::Refused(why)), Some(address)) => {
            let Problem { what, advice } = Problem::refused(database, address, &why);
            problem(what, advice)
        }
        (Ok(state), _) => match state.problem(database, address.is_some()) {
            None => return found,
            Some(Problem { what, advice }) if matches!(state, State::Refused(_)) => {
                problem(what, advice)
            }
            Some(Problem { what, advice }) => warning(what, advice),
        },
        (Err(failure), _) => {
            let why = failure.text().unwrap_or_default();
            let found = format!("{} was not checked: {why}", file.display());
            warning(found, "solve the other problems first")
        }
    })
}

/// Pages, schema and ledger of the database.
pub(super) async fn integrity(database: &Path) -> Option<Finding> {
    if !database.exists() {
        return None;
    }
    let path = database.to_owned();
    let check = tokio::task::spawn_blocking(move || store::glance(&path));
    let restore = "stop the server and restore the newest good copy: r3mes-edge restore FILE";
    Some(match tokio::time::timeout(12 * TIMEOUT, check).await {
        Ok(Ok(Ok(check))) => match check.mistakes().collect::<Vec<_>>().as_slice() {
            [] => ok(format!(
                "version {}: {} wallets and {} entries add up",
                check.version, check.ledger.wallets, check.ledger.entries
            )),
            [first, ..] => problem(*first, format!("r3mes-edge db check lists all; {restore}")),
        },
        Ok(Ok(Err(error @ store::OpenError::Changing(_)))) => {
            warning(error.to_string(), "run this again")
        }
        Ok(Ok(Err(error))) => problem(
            error.to_string(),
            format!("name the right file with --database, or {restore}"),
        ),
        _ => warning("not checked within a minute", "run r3mes-edge db check"),
    })
}

/// Network file systems support neither SQLite's shared memory nor its locks (magic numbers: statfs(2)).
pub(super) fn file_system(database: &Path) -> Finding {
    let magic = rustix::fs::statfs(folder_of(database)).map_or(0, |about| about.f_type as u32);
    match magic {
        // NFS, SMB (three), 9P, Ceph, AFS, Lustre, VirtualBox, VMware
        0x6969 | 0x517B | 0xFE53_4D42 | 0xFF53_4D42 | 0x0102_1997 | 0x00C3_6400 | 0x5346_414F
        | 0x0BD0_0BD0 | 0x786F_4256 | 0xBACB_ACBC => problem(
            format!("a network file system (type {magic:#x}): locks do not work there"),
            "move the database to a local disk",
        ),
        _ => ok(format!("local (type {magic:#x})")),
    }
}

/// Space for the database and for copies.
pub(super) fn disk_free(config: &Config) -> Vec<(&'static str, Finding)> {
    /// Full before anybody reacts.
    const LOW: u64 = 32 << 20;
    let folders = [Some(folder_of(&config.database)), config.backup.folder()];
    let free = |folder: &Path| {
        let shown = folder.display();
        let about = match rustix::fs::statvfs(folder) {
            Ok(about) => about,
            Err(error) => return problem(format!("{shown}: {error}"), "create the folder"),
        };
        let free = about.f_bavail.saturating_mul(about.f_frsize);
        let found = format!("{} at {shown}", mebibytes(free));
        match free {
            ..LOW => problem(found, "free disk space: without it writes are rejected"),
            _ if free < config.alerts.disk_free as u64 => warning(found, "free disk space"),
            _ => ok(found),
        }
    };
    let folders = folders.into_iter().flatten();
    folders.map(|folder| ("disk_free", free(folder))).collect()
}

/// The age of the newest copy.
pub(super) fn backups(config: &Config) -> Finding {
    let copies = match store::backups(&config.database, config.backup.folder()) {
        Ok(copies) => copies,
        Err(error) => return problem(error.to_string(), "set backup.folder to a folder"),
    };
    let now = Clock::default().now();
    let advice = "set backup.every, or run r3mes-edge backup create";
    let Some((newest, _)) = copies.iter().rfind(|(made_at, _)| *made_at <= now) else {
        return warning("there is no copy", advice);
    };
    let found = format!("{} copies, the newest of {newest}", copies.len());
    // One may be late by as long as the server was down.
    match config.backup.every {
        Some(every) if newest.plus(every * 2) < now => {
            warning(format!("{found}, older than backup.every"), advice)
        }
        _ => ok(found),
    }
}
