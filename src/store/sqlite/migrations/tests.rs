use super::*;

fn schema(connection: &Connection) -> Vec<String> {
    check::schema(connection).unwrap()
}

fn version_1(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    let schema = include_str!("../../../../tests/it/fixtures/schema_1.sql");
    connection.execute_batch(schema).unwrap();
    connection
        .execute_batch("PRAGMA application_id = 0x52334D45; PRAGMA user_version = 1")
        .unwrap();
    connection
}

#[test]
fn from_every_older_version_there_is_a_way_up_to_the_schema_of_a_fresh_file_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = open::fresh(&folder.path().join("fresh.db"));
    let path = folder.path().join("old.db");
    let first = schema(&version_1(&path));
    // What each version looks like on the way up is what it looks like on the way down.
    let mut seen = vec![first];
    for version in 2..=SCHEMA_VERSION {
        let done = migrate_database(&path, Some(version), false).unwrap();
        assert_eq!((done.from, done.to), (version - 1, version));
        seen.push(schema(&open::connect(&path).unwrap()));
    }
    assert_eq!(seen.last(), Some(&schema(&fresh)));
    for version in (1..SCHEMA_VERSION).rev() {
        migrate_database(&path, Some(version), false).unwrap();
        let now = schema(&open::connect(&path).unwrap());
        assert_eq!(now, seen[version as usize - 1], "down to {version}");
    }
    let all = migrate_database(&path, None, false).unwrap();
    assert_eq!((all.from, all.to), (1, SCHEMA_VERSION));
    assert_eq!(schema(&open::connect(&path).unwrap()), schema(&fresh));
    let pages: i64 = open::connect(&path)
        .unwrap()
        .query_row(sql::AUTO_VACUUM, [], |row| row.get(0))
        .unwrap();
    assert_eq!(pages, 2);
}

#[test]
fn a_step_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let connection = version_1(&path);
    // In the way of what the step makes.
    connection
        .execute_batch("CREATE TABLE late_minutes (theirs)")
        .unwrap();
    let before = schema(&connection);
    assert!(migrate_database(&path, None, false).is_err());
    assert_eq!(schema(&connection), before);
    assert_eq!(open::version(&connection, &path).unwrap(), 1);
    // As nothing has changed, there is no copy of it either.
    let files = std::fs::read_dir(folder.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.contains("version-1")));
}

const HOUR: i64 = 3_600_000;
/// 2026-11-20, noon.
const NOON: i64 = 1_795_176_000_000;

/// A file of version 1 with two days of samples, four an hour, of three wallets' miners; one has been silent for a day.
fn version_1_with_samples(path: &Path) {
    let connection = version_1(path);
    for wallet in ["a", "b", "c"] {
        let account = "INSERT INTO users (wallet, created_at) VALUES (?1, 0)";
        connection.execute(account, [wallet]).unwrap();
        for miner in ["cpu", "rig-1", "rig-2"] {
            let last = NOON
                - if (wallet, miner) == ("b", "cpu") {
                    24 * HOUR
                } else {
                    0
                };
            let samples =
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 191)
                INSERT INTO mining_stats (wallet, recorded_at, worker, hashrate, unit, accepted)
                SELECT ?1, ?3 - i * 900000, ?2, 40 + i % 8, 'gradients/h', i FROM n";
            connection.execute(samples, (wallet, miner, last)).unwrap();
            let worker = "INSERT INTO workers (wallet, worker, recorded_at, hashrate, unit) VALUES (?1, ?2, ?3, 40, 'gradients/h')";
            connection.execute(worker, (wallet, miner, last)).unwrap();
        }
    }
    let hours = "INSERT INTO hashrate_history SELECT wallet, recorded_at - recorded_at % 3600000, worker, unit, sum(hashrate),
        min(hashrate), max(hashrate), count(*) FROM mining_stats GROUP BY 1, 2, 3, 4";
    connection.execute(hours, []).unwrap();
}

/// Every row of what a step makes anew, as text.
fn rows(path: &Path) -> Vec<String> {
    let connection = open::connect(path).unwrap();
    let mut rows = Vec::new();
    for table in ["workers", "mining_stats", "hashrate_history"] {
        let mut select = connection
            .prepare(&format!("SELECT * FROM {table}"))
            .unwrap();
        let columns = select.column_count();
        let text = |row: &rusqlite::Row<'_>| {
            let value = |n| row.get::<_, rusqlite::types::Value>(n);
            let values: rusqlite::Result<Vec<_>> = (0..columns).map(value).collect();
            Ok(format!("{table}: {:?}", values?))
        };
        rows.extend(select.query_map([], text).unwrap().map(Result::unwrap));
    }
    rows
}

/// Migrates as it is done with a large file.
fn leaving_the_rest(path: &Path, to: i64) -> Migrated {
    let lock = InstanceLock::acquire(path).unwrap();
    let mut connection = open::connect(path).unwrap();
    let done = migrate(&mut connection, &lock, path, to, false, 0).unwrap();
    assert!(done.unfinished);
    done
}

fn pieces(path: &Path, most: usize) -> usize {
    let connection = open::connect(path).unwrap();
    (0..most)
        .take_while(|_| go_on(&connection).unwrap())
        .count()
}

#[test]
fn the_rest_makes_of_a_file_what_is_made_at_once_of_a_small_one() {
    let folder = tempfile::tempdir().unwrap();
    let [once, later] = ["once.db", "later.db"].map(|name| folder.path().join(name));
    version_1_with_samples(&once);
    version_1_with_samples(&later);
    let done = migrate_database(&once, None, false).unwrap();
    assert!(!done.unfinished);
    leaving_the_rest(&later, 2);
    // Hours and what each miner told last are there from the beginning, and nothing is said to be wrong.
    assert_ne!(rows(&later), rows(&once));
    let but_samples = |path: &Path| {
        let rows = rows(path).into_iter();
        rows.filter(|row| !row.starts_with("mining_stats"))
            .collect::<Vec<_>>()
    };
    assert_eq!(but_samples(&later), but_samples(&once));
    assert_eq!(check::check_database(&later).unwrap().mistakes, [""; 0]);
    assert!(pieces(&later, 1000) > 1);
    assert_eq!(rows(&later), rows(&once));
    let schema_of = |path: &Path| schema(&open::connect(path).unwrap());
    assert_eq!(schema_of(&later), schema_of(&once));
}

#[test]
fn whenever_it_is_turned_back_in_the_middle_of_the_rest_each_sample_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    version_1_with_samples(&path);
    let before = rows(&path);
    let mut whole = 0;
    // So many pieces, each a hundred samples and more, on each way before it is turned back.
    for (up, down) in [
        (0, 0),
        (2, 0),
        (0, 3),
        (1, 1),
        (1, 40),
        (3, 200),
        (500, 5),
        (2, 700),
        (500, 900),
    ] {
        leaving_the_rest(&path, 2);
        whole += usize::from(pieces(&path, up) < up);
        assert_eq!(check::check_database(&path).unwrap().mistakes, [""; 0]);
        leaving_the_rest(&path, 1);
        whole += usize::from(pieces(&path, down) < down);
    }
    assert!(whole > 1, "no rest came to its end");
    pieces(&path, 10_000);
    assert_eq!(rows(&path), before);
    let left = schema(&open::connect(&path).unwrap());
    let first = folder.path().join("first.db");
    assert_eq!(left, schema(&version_1(&first)));
}

#[test]
fn a_copy_has_its_name_once_it_is_verified_and_another_where_it_is_not_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    version_1_with_samples(&path);
    let before = rows(&path);
    let cut_short = folder
        .path()
        .join("edge.db.20261120T120000.000Z.version-1.part");
    std::fs::write(&cut_short, "half").unwrap();
    let copy = leaving_the_rest(&path, 2).backup.unwrap();
    assert!(!cut_short.exists());
    assert!(copy.extension().is_some_and(|end| end == "unverified"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&copy.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The same step once more verifies it.
    let done = migrate_database(&path, None, false).unwrap();
    assert_eq!((done.from, done.to, done.unfinished), (2, 2, false));
    let name = done.backup.unwrap();
    assert_eq!(name, copy.with_extension(""));
    assert_eq!(rows(&name), before);

    let copy = leaving_the_rest(&path, 1).backup.unwrap();
    let half = std::fs::metadata(&copy).unwrap().len() / 2;
    let file = std::fs::OpenOptions::new().write(true).open(&copy);
    file.unwrap().set_len(half).unwrap();
    let error = migrate_database(&path, Some(1), false).unwrap_err();
    let damaged = copy.with_extension("damaged");
    assert!(
        error.to_string().contains(damaged.to_str().unwrap()),
        "{error}"
    );
    assert!(damaged.exists() && !copy.exists() && !copy.with_extension("").exists());
    // It hinders nobody the next time.
    migrate_database(&path, Some(1), false).unwrap();
    assert_eq!(rows(&path), before);
}

#[test]
fn beside_a_server_of_the_older_version_the_rest_is_done_and_beside_another_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    version_1_with_samples(&path);
    let before = rows(&path);
    migrate_database(&path, None, false).unwrap();
    leaving_the_rest(&path, 1);
    let _server = InstanceLock::acquire(&path).unwrap();
    assert!(matches!(
        migrate_database(&path, None, false),
        Err(OpenError::Locked(_))
    ));
    let done = migrate_database(&path, Some(1), false).unwrap();
    assert!(done.backup.is_some_and(|copy| copy.exists()) && !done.unfinished);
    assert_eq!(rows(&path), before);
}

#[test]
fn a_log_that_another_reader_holds_is_in_the_copy_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    version_1_with_samples(&path);
    let other = open::connect(&path).unwrap();
    other.pragma_update(None, "journal_mode", "wal").unwrap();
    let reading = open::connect(&path).unwrap();
    reading
        .execute_batch("BEGIN; SELECT count(*) FROM users")
        .unwrap();
    other
        .execute("INSERT INTO users (wallet, created_at) VALUES ('d', 0)", [])
        .unwrap();
    let copy = leaving_the_rest(&path, 2).backup.unwrap();
    let copied = before::verify(&copy).unwrap();
    let count: i64 = open::connect(&copied)
        .unwrap()
        .query_row("SELECT count(*) FROM users", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 4);
}
