use std::collections::BTreeMap;

use super::super::tests::{fresh, writing};
use super::*;
use crate::store::{SqliteStore, check_database};

#[test]
fn a_missing_and_a_foreign_file_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    assert!(matches!(lock(&path, false), Err(OpenError::Missing(_))));
    assert!(folder.path().read_dir().unwrap().next().is_none());

    std::fs::write(
        &path,
        "this is a letter to my mother, and it is longer than a header",
    )
    .unwrap();
    assert!(matches!(writing(&path), Err(OpenError::Foreign(_))));
    std::fs::remove_file(&path).unwrap();

    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (n)")
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(writing(&path), Err(OpenError::Foreign(_))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::remove_file(&path).unwrap();
}

/// The files of a folder with their content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = folder.read_dir().unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| (file.clone(), std::fs::read(file).unwrap()))
        .collect()
}

#[test]
fn a_file_of_another_version_is_refused_before_a_byte_is_written() {
    for found in [1, 2, SCHEMA_VERSION + 1, 99] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.db");
        let connection = fresh(&path);
        connection
            .pragma_update(None, "user_version", found)
            .unwrap();
        // As a clean end leaves it, and as a crash does, with pages in the log.
        let crashed = folder.path().join("crashed");
        std::fs::create_dir(&crashed).unwrap();
        for suffix in ["", "-wal"] {
            let (from, to) = (with_suffix(&path, suffix), crashed.join("edge.db"));
            std::fs::copy(from, with_suffix(&to, suffix)).unwrap();
        }
        drop(connection);
        let ended = folder.path().join("ended");
        std::fs::create_dir(&ended).unwrap();
        std::fs::rename(&path, ended.join("edge.db")).unwrap();
        for (folder, files) in [(ended, 1), (crashed, 2)] {
            let before = content(&folder);
            assert_eq!(before.len(), files);
            let path = folder.join("edge.db");
            for create in [false, true] {
                let error = SqliteStore::open(&path, create).err().unwrap();
                let text = error.to_string();
                if found < SCHEMA_VERSION {
                    assert!(matches!(error, OpenError::Older(_, version) if version == found));
                    let expected = format!(
                        "was made by development version {found}; nothing was changed; start with an empty database"
                    );
                    assert!(text.ends_with(&expected), "{text}");
                } else {
                    assert!(matches!(error, OpenError::Newer(_, version) if version == found));
                    assert!(text.contains("newer than this program"), "{text}");
                }
            }
            assert!(SqliteStore::open_read_only(&path).is_err() && check_database(&path).is_err());
            assert_eq!(content(&folder), before, "version {found}");
        }
    }
}

#[test]
fn no_database_is_made_beside_the_leftovers_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    for suffix in ["-wal", "-shm", "-journal", ".restoring"] {
        let left = with_suffix(&path, suffix);
        std::fs::write(&left, "something").unwrap();
        for empty in [false, true] {
            if empty {
                std::fs::write(&path, "").unwrap();
            }
            let refused = lock(&path, true);
            assert!(matches!(refused, Err(OpenError::Leftover(file)) if file == left));
        }
        std::fs::remove_file(&path).unwrap();
        // An empty one holds nothing.
        std::fs::write(&left, "").unwrap();
        assert!(lock(&path, true).is_ok());
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&left).unwrap();
    }
}

#[test]
fn a_journal_beside_a_database_with_a_wal_is_not_played_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    drop(fresh(&path));
    let before = std::fs::read(&path).unwrap();
    let journal = with_suffix(&path, "-journal");
    std::fs::write(&journal, "of another time").unwrap();
    let refused = lock(&path, true);
    assert!(matches!(refused, Err(OpenError::OtherLog(_, file)) if file == journal));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read(&journal).unwrap(), b"of another time");
}

#[test]
fn what_is_no_file_beside_a_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    drop(fresh(&path));
    for suffix in ["-wal", "-shm", "-journal"] {
        let other = with_suffix(&path, suffix);
        std::fs::create_dir(&other).unwrap();
        let refused = lock(&path, true).unwrap_err().to_string();
        let expected = format!("{}: it is not a regular file", other.display());
        assert!(refused.contains(&expected), "{refused}");
        std::fs::remove_dir(&other).unwrap();
    }
}

#[test]
fn a_new_database_gets_its_name_when_it_is_complete_and_needs_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    // Half of one, of a process that was killed.
    std::fs::write(with_suffix(&path, CREATING), "half").unwrap();
    drop(SqliteStore::open(&path, true).unwrap());
    assert!(!with_suffix(&path, CREATING).exists());
    let store = SqliteStore::open(&path, false).unwrap();
    let crashed = folder.path().join("crashed.db");
    // While it is open, without anything else of it.
    std::fs::copy(&path, &crashed).unwrap();
    assert_eq!(check_database(&crashed).unwrap().errors().count(), 0);
    drop(store);
}

#[cfg(unix)]
#[test]
fn only_its_owner_can_read_a_new_database() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let _connection = fresh(&path);
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", path.display());
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{file}"
        );
    }
}
