use std::path::Path;
use std::time::Duration;

use r3mes_edge::store::{Check as Found, OpenError, glance};

use super::Check;

const RESTORE: &str =
    "stop the server and put the newest good copy in its place: r3mes-edge restore FILE";

/// Whether the database is one of ours and adds up.
pub(super) async fn contents(database: &Path) -> Vec<Check> {
    const PATIENCE: Duration = Duration::from_secs(60);
    if !database.exists() {
        return Vec::new();
    }
    let (told, answer) = tokio::sync::oneshot::channel();
    let path = database.to_owned();
    // A thread that nobody waits for: of a large database the command need not see the end.
    std::thread::spawn(move || told.send(glance(&path)));
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(Ok(found))) => judged(&found),
        Ok(Ok(Err(error))) => vec![unreadable(&error)],
        Ok(Err(_)) | Err(_) => vec![Check::warning(
            "integrity",
            format!("not known after {PATIENCE:?}"),
            "let it take its time: r3mes-edge db check",
        )],
    }
}

fn judged(found: &Found) -> Vec<Check> {
    let schema = format!("version {}", found.version);
    let integrity = match found.mistakes.first() {
        None => Check::ok("integrity", "every page is in its place"),
        Some(first) => Check::problem("integrity", more(first, found.mistakes.len()), RESTORE),
    };
    let ledger = &found.ledger;
    let added_up = match ledger.mistakes.first() {
        None => Check::ok(
            "ledger",
            format!(
                "{} wallets and {} entries add up",
                ledger.wallets, ledger.entries
            ),
        ),
        Some(first) => Check::problem(
            "ledger",
            more(first, ledger.mistakes.len()),
            "see all of it with r3mes-edge ledger verify; a copy that adds up is found with r3mes-edge backup verify FILE",
        ),
    };
    vec![Check::ok("schema", schema), integrity, added_up]
}

fn more(first: &str, count: usize) -> String {
    match count {
        0 | 1 => first.to_owned(),
        n => format!("{first} (and {} more)", n - 1),
    }
}

fn unreadable(error: &OpenError) -> Check {
    if let OpenError::Changing(_) = error {
        let advice = "a server starts, stops or migrates it: run this again";
        return Check::warning("integrity", error.to_string(), advice);
    }
    let advice = match error {
        OpenError::Newer { .. } => "use the program that wrote it, or a newer one",
        OpenError::Foreign(_) => {
            "name the right file with --database; if it was one, put the newest good copy in its place: r3mes-edge restore FILE"
        }
        OpenError::Io(..) => "look at the folder's and the file's owner and mode",
        _ => RESTORE,
    };
    Check::problem("integrity", error.to_string(), advice)
}
