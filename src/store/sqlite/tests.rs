use std::path::{Path, PathBuf};

use super::*;

/// Opens a file as a server does that has its lock.
pub(super) fn writing(path: &Path) -> Result<Connection, OpenError> {
    let mut connection = connections::connect(path)?;
    connections::init_schema(&mut connection, path)?;
    Ok(connection)
}

/// A new database.
pub(super) fn fresh(path: &Path) -> Connection {
    drop(connections::create_empty(path).unwrap());
    writing(path).unwrap()
}

/// The statements that made its tables, indexes and triggers.
pub(super) fn schema_of(connection: &Connection) -> Vec<String> {
    check::schema(connection).unwrap()
}

#[test]
fn every_statement_is_answered_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let connection = fresh(&folder.path().join("edge.db"));
    for (name, statement) in sql::ALL {
        let mut plan = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
            .unwrap();
        let parameters = plan.parameter_count();
        let steps = plan
            .query_map(rusqlite::params_from_iter(vec![1i64; parameters]), |row| {
                row.get::<_, String>(3)
            })
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        for step in &steps {
            // A walk over an index in its order is bounded by LIMIT, one over a grouped subquery by what that yields.
            let bounded = ["USING", "(subquery", "CONSTANT ROW"]
                .iter()
                .any(|word| step.contains(word));
            assert!(!step.starts_with("SCAN") || bounded, "{name}: {steps:#?}");
        }
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
    let apart = |file: &&PathBuf| !file.ends_with("sqlite/sql.rs") && !file.ends_with("tests.rs");
    for file in files.iter().filter(apart) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for verb in ["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE "] {
            assert!(!code.contains(verb), "{} holds SQL", file.display());
        }
    }
}
