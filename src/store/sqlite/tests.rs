use std::path::{Path, PathBuf};

use super::*;
use crate::model::{Credits, Tokens, Wallet};
use crate::store::{Charge, HoldRequest, OperationId};

/// Another wallet for each number.
pub(super) fn wallet(number: u32) -> Wallet {
    let mut account = [0; 20];
    account[..4].copy_from_slice(&number.to_le_bytes());
    let prefix = bech32::Hrp::parse(Wallet::PREFIX).unwrap();
    let address = bech32::encode::<bech32::Bech32>(prefix, &account).unwrap();
    Wallet::parse(&address).unwrap()
}

/// A hold of so many micro-credits.
pub(super) fn request(wallet: Wallet, amount: i64) -> HoldRequest {
    HoldRequest {
        operation: OperationId::new(),
        wallet,
        amount: Credits::from_micro(amount),
        limit: None,
    }
}

/// A charge of so many micro-credits.
pub(super) fn charge(amount: i64) -> Charge {
    Charge {
        amount: Credits::from_micro(amount),
        key_id: Some("key_01jd3x6c0ve7rv5m9xq2k8h4tz".to_owned()),
        adapter: "general".to_owned(),
        tokens: Some(Tokens {
            prompt: 812,
            cached: 512,
            completion: 167,
        }),
        estimated: None,
        answer: None,
    }
}

/// Opens a file as a server does that has its lock.
pub(super) fn writing(path: &Path) -> Result<Connection, OpenError> {
    let mut connection = connections::connect(path)?;
    connections::init_schema(&mut connection, path)?;
    Ok(connection)
}

/// A new database.
pub(super) fn fresh(path: &Path) -> Connection {
    drop(connections::lock(path, true).unwrap());
    std::fs::remove_file(with_suffix(path, ".lock")).unwrap();
    writing(path).unwrap()
}

/// The statements that made its tables, indexes and triggers.
pub(super) fn schema_of(connection: &Connection) -> Vec<String> {
    check::schema(connection).unwrap()
}

/// How SQLite finds the rows of a statement.
fn plan_of(connection: &Connection, statement: &str) -> Vec<String> {
    let mut plan = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
        .unwrap();
    let parameters = rusqlite::params_from_iter(vec![1i64; plan.parameter_count()]);
    let steps = plan.query_map(parameters, |row| row.get(3)).unwrap();
    steps.collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_statement_is_answered_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let connection = fresh(&folder.path().join("edge.db"));
    for (name, statement) in sql::ALL {
        let steps = plan_of(&connection, statement);
        for step in &steps {
            // A walk over an index in its order is bounded by LIMIT, one over a grouped subquery by what that yields, and one
            // over `latest` by the miners of a wallet.
            let bounded = ["USING", "(subquery", "CONSTANT ROW", " latest"]
                .iter()
                .any(|word| step.contains(word));
            assert!(!step.starts_with("SCAN") || bounded, "{name}: {steps:#?}");
        }
    }
}

#[test]
fn counting_the_active_keys_walks_none_that_ended() {
    let folder = tempfile::tempdir().unwrap();
    let connection = fresh(&folder.path().join("edge.db"));
    let steps = plan_of(&connection, sql::COUNT_ACTIVE_KEYS);
    for range in [
        "revoked_at=? AND expires_at=?",
        "revoked_at=? AND expires_at>?",
        "revoked_at>?",
    ] {
        let range = format!("INDEX idx_api_keys_active (wallet=? AND {range})");
        assert!(
            steps.iter().any(|step| step.contains(&range)),
            "{range}: {steps:#?}"
        );
    }
}

#[test]
fn the_usage_of_a_period_is_searched_by_its_days_of_one_wallet_and_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let connection = fresh(&folder.path().join("edge.db"));
    let name = "SEARCH k USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
    for (statement, search) in [
        (
            sql::SELECT_USED_BY_USER,
            "SEARCH u USING PRIMARY KEY (user=? AND day>? AND day<?)",
        ),
        (
            sql::SELECT_USED,
            "SEARCH u USING INDEX idx_usage_day (day>? AND day<?)",
        ),
    ] {
        assert_eq!(plan_of(&connection, statement), [search, name]);
    }
}

#[test]
fn every_statement_is_in_the_one_list() {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found)
            } else {
                found.push(path)
            }
        }
    }
    let mut files = Vec::new();
    walk(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut files,
    );
    let apart = |file: &&PathBuf| {
        let is_test =
            file.ends_with("tests.rs") || file.parent().is_some_and(|of| of.ends_with("tests"));
        !is_test && !file.ends_with("sqlite/sql.rs")
    };
    for file in files.iter().filter(apart) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for verb in ["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE "] {
            assert!(!code.contains(verb), "{} holds SQL", file.display());
        }
    }
}
