//! Checks of the database and the files beside it: who can use them, and the space left on their disks.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use r3mes_edge::{Config, store};

use super::{Finding, TIMEOUT, good, problem, warning};
use crate::cli::admin_key;
use crate::cli::files::folder_of;

/// Whether only their owner, the user of the server, can use the database and its copies.
pub(super) fn modes(config: &Config) -> Vec<Finding> {
    let database = &config.database;
    let Ok(about) = std::fs::metadata(database) else {
        let found = format!("there is no database at {}", database.display());
        let advice = "start the server, which creates it, or name the right one with --database";
        return vec![problem(found, advice)];
    };
    let mut findings = Vec::new();
    if about.nlink() > 1 {
        let shown = database.display();
        findings.push(problem(
            format!("{shown} has {} hard links", about.nlink()),
            format!("delete the other names: find / -xdev -samefile '{shown}'"),
        ));
    }
    let mut files = vec![
        database.clone(),
        admin_key::path(database),
        database.with_added_extension("ballast"),
    ];
    let copies = store::backups(database, config.backup.folder());
    files.extend(copies.unwrap_or_default().into_iter().map(|(_, copy)| copy));
    let me = rustix::process::geteuid().as_raw();
    for file in files {
        let Ok(file_about) = std::fs::metadata(&file) else {
            continue;
        };
        let (shown, mode) = (file.display(), file_about.mode() & 0o777);
        let (owner, right_owner) = (file_about.uid(), about.uid());
        findings.push(if mode & 0o077 != 0 {
            let found = format!("{shown} has mode {mode:04o}: others can use it");
            problem(found, format!("chmod 600 '{shown}'"))
        } else if owner != right_owner {
            let found = format!("{shown} belongs to user {owner}, the database to {right_owner}");
            problem(found, format!("chown {right_owner} '{shown}'"))
        } else if me != 0 && me != owner {
            let found = format!("{shown} belongs to user {owner}, you are user {me}");
            problem(found, "run this as the user of the server")
        } else {
            let size = mebibytes(file_about.len());
            good(format!("{shown}, mode {mode:04o}, {size}"))
        });
    }
    findings
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Whether the key in the admin key file works.
pub(super) async fn admin_key(config: &Config) -> Vec<Finding> {
    if !config.database.exists() {
        return Vec::new();
    }
    let checked = tokio::time::timeout(TIMEOUT, admin_key::check(&config.database)).await;
    vec![match checked {
        Ok(Ok(())) => good("the key in the file works"),
        Ok(Err(wrong)) if wrong.is_refused => problem(wrong.what, wrong.advice),
        Ok(Err(wrong)) => warning(wrong.what, wrong.advice),
        Err(_) => warning("not checked: no answer", "solve the other problems first"),
    }]
}

/// Space for the database and for copies.
pub(super) fn disk_free(config: &Config) -> Vec<Finding> {
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
            _ => good(found),
        }
    };
    folders.into_iter().flatten().map(free).collect()
}

/// The newest copy.
pub(super) fn backups(config: &Config) -> Finding {
    let advice = "set backup.every and backup.folder, or run r3mes-edge backup create";
    match store::backups(&config.database, config.backup.folder()) {
        Ok(copies) => match copies.last() {
            Some((newest, _)) => good(format!("{} copies, the newest of {newest}", copies.len())),
            None => warning("there is no copy", advice),
        },
        Err(error) => problem(error.to_string(), advice),
    }
}
