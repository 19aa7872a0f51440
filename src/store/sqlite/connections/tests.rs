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
    for (suffix, beside_an_empty_file) in
        [("-wal", true), ("-journal", false), (".restoring", false)]
    {
        let left = with_suffix(&path, suffix);
        std::fs::write(&left, "something").unwrap();
        assert!(matches!(lock(&path, true), Err(OpenError::Leftover(file)) if file == left));
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert_eq!(lock(&path, true).is_err(), beside_an_empty_file, "{suffix}");
        std::fs::remove_file(&path).unwrap();
        // An empty one is all that a process leaves that was killed at once.
        std::fs::write(&left, "").unwrap();
        assert!(lock(&path, true).is_ok());
        std::fs::remove_file(&path).unwrap();
    }
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
