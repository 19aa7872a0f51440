//! Read-only commands on a file without a server.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::support::{Process, TestServer, W1, W2, config, edge, edge_output};

/// Every command that only reads, `KEY` in the place of a key's id.
const READING: [&[&str]; 6] = [
    &["users", "list"],
    &["users", "show", W1],
    &["keys", "list"],
    &["keys", "list", "--wallet", W1],
    &["keys", "show", "KEY"],
    &["ledger", "verify"],
];

/// The output of the commands, each of which must succeed.
fn read(database: &Path, key: &str) -> Vec<String> {
    let filled = |word: &&'static str| if *word == "KEY" { key } else { *word };
    let run = |arguments: &&'static [&'static str]| {
        let arguments: Vec<_> = arguments.iter().map(filled).collect();
        let (code, out, stderr) = edge_output(database, &arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        out
    };
    READING.iter().map(run).collect()
}

/// Every file of a folder, with what is in it and when it was written.
fn files(folder: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let picture = files.map(|file| {
        let name = file.file_name().into_string().unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        (name, (std::fs::read(file.path()).unwrap(), written))
    });
    picture.collect()
}

/// Copies of files in a read-only folder of their own.
struct Sealed(tempfile::TempDir);

impl Sealed {
    fn new(from: &Path, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let copy = folder.path().join(name);
            std::fs::copy(from.join(name), &copy).unwrap();
            std::fs::set_permissions(copy, Permissions::from_mode(0o444)).unwrap();
        }
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).unwrap();
        Self(folder)
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("edge.db")
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // Otherwise the folder could not be deleted.
        let _ = std::fs::set_permissions(self.0.path(), Permissions::from_mode(0o755));
    }
}

#[tokio::test]
async fn a_read_only_file_is_listed_and_no_file_is_left_beside_it() {
    let server = TestServer::start(config()).await;
    let payer = server.payer(W1, 3).await;
    let me = payer.get("/auth/me").await.expect(200);
    let folder = server.shutdown().await;
    let sealed = Sealed::new(folder.path(), &["edge.db"]);
    let before = files(sealed.0.path());
    let key = me["key"]["id"].as_str().unwrap();
    let outputs = read(&sealed.database(), key);
    assert_eq!(files(sealed.0.path()), before);
    let rows: Vec<_> = outputs[0].lines().collect();
    assert!(rows[0].starts_with("WALLET ") && rows[1].starts_with(W1) && rows.len() == 2);
    assert!(outputs[1].starts_with(&format!("wallet_address  {W1}\ncredits         3\n")));
    assert_eq!(
        (outputs[2].lines().count(), outputs[3].lines().count()),
        (3, 2)
    );
    assert!(outputs[4].contains(key));
    assert_eq!(
        outputs[5],
        "the ledger adds up: 1 wallet, 1 entry since the last check; --full checks all of them\n"
    );
    let nothing = ["users", "show", W2];
    assert_eq!(edge(&sealed.database(), &nothing).0, 3);
}

#[tokio::test]
async fn acknowledged_writes_of_a_killed_server_are_read_from_its_wal() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve(&folder.path().join("edge.db"), "");
    server.grant(W1, 3).await;
    let me = server.admin().get("/auth/me").await.expect(200);
    server.kill();
    let sealed = Sealed::new(folder.path(), &["edge.db", "edge.db-wal", "edge.db.lock"]);
    let before = files(sealed.0.path());
    assert!(!before["edge.db.lock"].0.is_empty());
    let key = me["key"]["id"].as_str().unwrap();
    let outputs = read(&sealed.database(), key);
    assert!(outputs[0].contains(" 3 "), "{}", outputs[0]);
    assert_eq!(files(sealed.0.path()), before);
}

#[tokio::test]
async fn read_commands_do_not_wait_for_the_lock_of_another_command() {
    let server = TestServer::start(config()).await;
    let payer = server.payer(W1, 3).await;
    let me = payer.get("/auth/me").await.expect(200);
    // The lock is held and names no address, as by a server that starts or by a long command.
    read(&server.database(), me["key"]["id"].as_str().unwrap());
}

#[tokio::test]
async fn a_file_of_an_older_version_is_refused_and_stays_as_it_is() {
    let folder = TestServer::start(config()).await.shutdown().await;
    let database = folder.path().join("edge.db");
    rusqlite::Connection::open(&database)
        .unwrap()
        .pragma_update(None, "user_version", 2)
        .unwrap();
    let sealed = Sealed::new(folder.path(), &["edge.db"]);
    let before = files(sealed.0.path());
    for arguments in READING {
        let (code, out, error) = edge_output(&sealed.database(), arguments);
        assert_eq!((code, out.as_str()), (4, ""), "{arguments:?}: {error}");
        assert!(error.contains("development version 2"), "{error}");
    }
    assert_eq!(files(sealed.0.path()), before);
}
