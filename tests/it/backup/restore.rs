//! Restoring a copy: leftover files of another database, paths, interruptions.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{credits, json as parsed};
use crate::support::{Process, W1, edge, edge_output};

/// A server's database that was killed with three credits in a copy and four more in its log, and the copy.
async fn killed(folder: &Path) -> (PathBuf, PathBuf) {
    let database = folder.join("edge.db");
    let copy = folder.join("then.db");
    let server = Process::serve(&database, "");
    let path = format!("/users/{W1}/credits");
    let grant = |amount: i64| json!({ "amount": amount, "reason": "test" });
    server.admin().post(&path, &grant(3)).await.expect(200);
    let made = server.admin().post("/admin/backup", &json!(null)).await;
    let made = made.expect(201)["path"].as_str().unwrap().to_owned();
    std::fs::rename(made, &copy).unwrap();
    server.admin().post(&path, &grant(4)).await.expect(200);
    server.kill();
    (database, copy)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", database.display()))
}

#[tokio::test]
async fn a_wal_without_its_database_is_moved_away_and_not_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = killed(folder.path()).await;
    let log = std::fs::read(with_suffix(&database, "-wal")).unwrap();
    std::fs::rename(&database, folder.path().join("moved.db")).unwrap();
    std::fs::write(with_suffix(&database, "-journal"), "of another time").unwrap();
    // The server creates no new database beside it either.
    let (code, _, stderr) = edge_output(&database, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        code == 1 && stderr.contains("edge.db-wal belongs"),
        "{stderr}"
    );
    assert!(!database.exists());

    let (code, output) = edge(&database, &["--json", "restore", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{output}");
    let moved = parsed(&output)["replaced"].as_str().unwrap().to_owned();
    assert!(moved.ends_with(".replaced-wal"), "{moved}");
    assert_eq!(std::fs::read(&moved).unwrap(), log);
    let journal = moved.replace("-wal", "-journal");
    assert_eq!(std::fs::read(journal).unwrap(), b"of another time");
    for suffix in ["-wal", "-shm", "-journal", ".restoring"] {
        assert!(!with_suffix(&database, suffix).exists(), "{suffix}");
    }
    assert_eq!(edge(&database, &["db", "check"]).0, 0);
    assert_eq!(credits(&database).await, "3");
}

#[tokio::test]
async fn a_restore_moves_the_wal_of_a_damaged_file_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = killed(folder.path()).await;
    let bad = vec![0xA5; std::fs::read(&database).unwrap().len()];
    std::fs::write(&database, &bad).unwrap();
    for suffix in ["-wal", "-shm", "-journal"] {
        std::fs::write(with_suffix(&database, suffix), suffix).unwrap();
    }
    let (code, output) = edge(&database, &["--json", "restore", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{output}");
    let old = PathBuf::from(parsed(&output)["replaced"].as_str().unwrap());
    assert_eq!(std::fs::read(&old).unwrap(), bad);
    for suffix in ["-wal", "-shm", "-journal"] {
        let moved_files = std::fs::read(with_suffix(&old, suffix)).unwrap();
        assert_eq!(moved_files, suffix.as_bytes());
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        assert!(!with_suffix(&database, suffix).exists(), "{suffix}");
    }
    assert_eq!(credits(&database).await, "3");
}

#[tokio::test]
async fn a_restore_leaves_nothing_beside_the_copy_and_removes_what_an_interrupted_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = killed(folder.path()).await;
    for suffix in [".restoring", ".restoring-wal", ".restoring-journal"] {
        std::fs::write(with_suffix(&database, suffix), "half").unwrap();
    }
    let before = std::fs::read(&copy).unwrap();
    let (code, output) = edge(&database, &["--json", "restore", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{output}");
    let old = PathBuf::from(parsed(&output)["replaced"].as_str().unwrap());
    let old = old.file_name().unwrap().to_str().unwrap();
    let left = names(folder.path());
    let moved_files = ["", "-wal", "-shm"].map(|suffix| format!("{old}{suffix}"));
    let expected = [
        "edge.db",
        "edge.db.admin-key",
        "edge.db.lock",
        "edge.toml",
        "then.db",
    ];
    let expected = expected.map(str::to_owned).into_iter().chain(moved_files);
    assert_eq!(left, expected.collect());
    assert_eq!(std::fs::read(&copy).unwrap(), before);

    // Interrupted where the old file is away and the new one not yet in its place.
    std::fs::rename(&database, with_suffix(&database, ".restoring")).unwrap();
    let (code, _, stderr) = edge_output(&database, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        code == 1 && stderr.contains(".restoring belongs"),
        "{stderr}"
    );
    assert_eq!(edge(&database, &["restore", copy.to_str().unwrap()]).0, 0);
    assert!(!with_suffix(&database, ".restoring").exists());
    assert_eq!(credits(&database).await, "3");
}

#[tokio::test]
async fn a_restore_by_a_symbolic_link_replaces_the_file_and_leaves_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let (database, copy) = killed(folder.path()).await;
    let links = folder.path().join("links");
    std::fs::create_dir(&links).unwrap();
    let link = links.join("link.db");
    symlink(&database, &link).unwrap();
    let copy_link = links.join("copy.db");
    symlink(&copy, &copy_link).unwrap();
    let (code, output) = edge(&link, &["--json", "restore", copy_link.to_str().unwrap()]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(
        names(&links),
        ["copy.db", "link.db"].map(str::to_owned).into()
    );
    assert!(link.is_symlink());
    assert_eq!(credits(&database).await, "3");
    let old = parsed(&output)["replaced"].as_str().unwrap().to_owned();
    assert_eq!(credits(Path::new(&old)).await, "7");
}

#[tokio::test]
async fn a_copy_dated_in_the_future_is_deleted_first_and_the_path_of_a_new_one_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let copies = folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let config = format!("[backup]\nfolder = '{}'", copies.display());
    let server = Process::serve(&database, &config);
    let future = ["20990101T000000.000Z", "20990102T000000.000Z"]
        .map(|stamp| copies.join(format!("edge.db.{stamp}.backup")));
    for copy in &future {
        std::fs::write(copy, "of a clock that was ahead").unwrap();
    }
    // The command has no configuration; the server's applies.
    let mut made = Vec::new();
    for _ in 0..2 {
        let (code, output) = edge(&database, &["--json", "backup", "create", "--keep", "2"]);
        assert_eq!(code, 0, "{output}");
        let copy = PathBuf::from(parsed(&output)["file"].as_str().unwrap());
        assert!(copy.starts_with(copies.canonicalize().unwrap()) || copy.starts_with(&copies));
        assert_eq!(
            edge(&database, &["backup", "verify", copy.to_str().unwrap()]).0,
            0
        );
        made.push(copy);
    }
    assert!(made.iter().all(|copy| copy.exists()));
    assert!(!future.iter().any(|copy| copy.exists()));
    assert_eq!(server.terminate(), Some(0));
}
