//! The admin key file: every fault of its key is reported with the command that repairs it.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use r3mes_edge::auth::PlainKey;
use serde_json::Value;

use crate::support::{Caller, Process, W1, edge, edge_output, eventually};

fn key_file(database: &Path) -> PathBuf {
    database.with_added_extension("admin-key")
}

/// The key in the file, which must be the database's owner's alone.
#[track_caller]
fn file_key(database: &Path) -> String {
    let file = key_file(database);
    let about = std::fs::metadata(&file).unwrap();
    assert_eq!(about.mode() & 0o777, 0o600);
    assert_eq!(about.uid(), std::fs::metadata(database).unwrap().uid());
    assert!(!file.with_added_extension("new").exists());
    std::fs::read_to_string(&file).unwrap().trim().to_owned()
}

fn write_file_key(database: &Path, key: &str) {
    std::fs::write(key_file(database), format!("{key}\n")).unwrap();
}

/// The repair command, as every text names it.
fn remedy(database: &Path) -> String {
    format!(
        "r3mes-edge keys create --admin --database '{}'",
        database.display()
    )
}

/// A folder with a database and its first admin key, and no server.
fn database_with_key() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    (folder, database)
}

async fn id_of(server: &Process, key: &str) -> String {
    let me = Caller::new(&server.address, Some(key))
        .get("/auth/me")
        .await;
    me.expect(200)["key"]["id"].as_str().unwrap().to_owned()
}

async fn opens(server: &Process, key: &str) -> bool {
    let me = Caller::new(&server.address, Some(key))
        .get("/auth/me")
        .await;
    me.status == 200
}

async fn logged(server: &Process, part: &str) -> String {
    let found = async || server.log().into_iter().find(|line| line.contains(part));
    eventually(part, found).await
}

fn admin_check(database: &Path) -> (String, String) {
    let config = database.with_extension("doctor.toml");
    std::fs::write(&config, "discover = false\n").unwrap();
    let config = config.to_str().unwrap();
    let (_, output) = edge(database, &["--config", config, "--json", "doctor"]);
    let report: Value = serde_json::from_str(&output).unwrap();
    let mut checks = report["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == "admin_key").unwrap();
    (
        check["status"].as_str().unwrap().to_owned(),
        check.to_string(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rotating_the_key_of_the_file_rewrites_the_file_beside_a_server_and_without() {
    let (_folder, database) = database_with_key();
    let mut server = Some(Process::serve(&database, ""));
    for grace in ["0s", "1h"] {
        let old = file_key(&database);
        let running = server.as_ref().unwrap();
        let id = id_of(running, &old).await;
        let (code, shown, stderr) =
            edge_output(&database, &["keys", "rotate", &id, "--grace", grace]);
        assert_eq!((code, shown.trim()), (0, &*file_key(&database)), "{stderr}");
        assert!(
            stderr.contains("holds the new key") && !stderr.contains(shown.trim()),
            "{stderr}"
        );
        assert_ne!(shown.trim(), old);
        assert_eq!(opens(running, &old).await, grace == "1h");
        assert_eq!(edge(&database, &["users", "list"]).0, 0);
        assert_eq!(admin_check(&database).0, "ok");
    }
    // Rotating another key does not change the file.
    let (_, other) = edge(&database, &["keys", "create", "--wallet", W1]);
    let id = id_of(server.as_ref().unwrap(), other.trim()).await;
    let before = file_key(&database);
    assert_eq!(edge(&database, &["keys", "rotate", &id]).0, 0);
    assert_eq!(file_key(&database), before);

    let id = id_of(server.as_ref().unwrap(), &before).await;
    assert_eq!(server.take().unwrap().terminate(), Some(0));
    let (code, shown) = edge(&database, &["keys", "rotate", &id]);
    assert_eq!((code, shown.trim()), (0, &*file_key(&database)));
    assert_ne!(file_key(&database), before);
    assert_eq!(admin_check(&database).0, "ok");
    let server = Process::serve(&database, "");
    assert!(opens(&server, shown.trim()).await && !opens(&server, &before).await);
    assert!(!server.log().iter().any(|line| line.contains("admin key")));
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_cannot_write_the_file_leaves_a_key_there_that_works() {
    let (_folder, database) = database_with_key();
    let key = file_key(&database);
    let server = Process::serve(&database, "");
    let id = id_of(&server, &key).await;
    let in_the_way = key_file(&database).with_added_extension("new");
    std::fs::create_dir(&in_the_way).unwrap();
    let rotate = || {
        let (code, shown, stderr) = edge_output(&database, &["keys", "rotate", &id]);
        assert!(code == 1 && shown.is_empty(), "{stderr}");
        assert!(stderr.contains("which holds the old one still"), "{stderr}");
        let held = std::fs::read_to_string(key_file(&database)).unwrap();
        assert_eq!(held.trim(), key);
    };
    rotate();
    assert!(opens(&server, &key).await);
    assert_eq!(edge(&database, &["users", "list"]).0, 0);
    assert_eq!(server.terminate(), Some(0));
    rotate();
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(edge(&database, &["keys", "rotate", &id]).0, 0);
    assert_ne!(file_key(&database), key);
    let server = Process::serve(&database, "");
    assert!(opens(&server, &file_key(&database)).await && !opens(&server, &key).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_file_key_is_revoked_every_error_names_the_command_that_repairs_it() {
    let (_folder, database) = database_with_key();
    let remedy = remedy(&database);
    let server = Process::serve(&database, "");
    let first = file_key(&database);
    let id = id_of(&server, &first).await;
    let (code, _, stderr) = edge_output(&database, &["keys", "revoke", &id]);
    assert!(
        code == 0 && stderr.contains(&remedy) && stderr.contains("SIGHUP"),
        "{stderr}"
    );
    for command in [
        &["users", "list"][..],
        &["credits", "grant", W1, "1", "--reason", "x"],
        &["keys", "list"],
        &["backup", "create"],
        &["breaker", "list"],
    ] {
        let (code, _, stderr) = edge_output(&database, command);
        assert_eq!(code, 1, "{command:?}: {stderr}");
        assert!(
            stderr.contains(&remedy) && stderr.contains("SIGHUP"),
            "{command:?}: {stderr}"
        );
        assert!(!stderr.contains(&first));
    }
    let (status, check) = admin_check(&database);
    assert!(status == "problem" && check.contains(&remedy), "{check}");
    assert_eq!(server.terminate(), Some(0));
    let (status, check) = admin_check(&database);
    assert!(status == "problem" && check.contains(&remedy), "{check}");

    // A key that was revoked is never adopted.
    let server = Process::serve(&database, "");
    let line = logged(&server, "admin key").await;
    assert!(line.contains("revoked") && line.contains(&remedy), "{line}");
    assert!(!opens(&server, &first).await);
    let (code, shown, stderr) = edge_output(&database, &["keys", "create", "--admin"]);
    assert!(code == 0 && stderr.contains("SIGHUP"), "{stderr}");
    assert_eq!(shown.trim(), file_key(&database));
    let (code, _, stderr) = edge_output(&database, &["users", "list"]);
    assert!(code == 1 && stderr.contains("SIGHUP"), "{stderr}");
    server.reload("");
    let line = logged(&server, "adopted the new admin key").await;
    assert!(line.contains(&id_of(&server, shown.trim()).await), "{line}");
    assert_eq!(edge(&database, &["users", "list"]).0, 0);
    assert_eq!(admin_check(&database).0, "ok");
    assert!(!opens(&server, &first).await);
    let log = server.log().join("\n");
    assert!(
        !log.contains(shown.trim()) && !log.contains(&first),
        "{log}"
    );
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_another_machine_gets_the_key_of_this_one() {
    let (elsewhere, other) = database_with_key();
    let copy = elsewhere.path().join("copy.db");
    let copy = copy.to_str().unwrap();
    assert_eq!(edge(&other, &["backup", "create", "--to", copy]).0, 0);
    let (_folder, database) = database_with_key();
    let key = file_key(&database);
    let (code, _, stderr) = edge_output(&database, &["restore", copy]);
    assert_eq!(code, 0);
    assert!(
        stderr.contains("is not known to the database") && stderr.contains(&remedy(&database)),
        "{stderr}"
    );
    let (status, check) = admin_check(&database);
    assert!(status == "warning" && check.contains("adopts"), "{check}");
    let server = Process::serve(&database, "");
    let line = logged(&server, "adopted the new admin key").await;
    assert!(line.contains(&id_of(&server, &key).await), "{line}");
    assert_eq!(edge(&database, &["users", "list"]).0, 0);
    assert_eq!(server.terminate(), Some(0));
    // Restoring a copy of its own needs no repair.
    let own = database.with_file_name("own.db");
    let own = own.to_str().unwrap();
    assert_eq!(edge(&database, &["backup", "create", "--to", own]).0, 0);
    let (_, _, stderr) = edge_output(&database, &["restore", own]);
    assert!(
        stderr.contains("opens the database") && !stderr.contains("create"),
        "{stderr}"
    );
    std::fs::remove_file(key_file(&database)).unwrap();
    let (_, _, stderr) = edge_output(&database, &["restore", own]);
    assert!(stderr.contains(&remedy(&database)), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_adopted_only_from_a_file_private_to_its_owner() {
    let (_folder, database) = database_with_key();
    let root = rustix::process::geteuid().is_root();
    let key = PlainKey::generate().unwrap();
    write_file_key(&database, key.reveal());
    let file = key_file(&database);
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let server = Process::serve(&database, "");
    let line = logged(&server, "is ignored").await;
    assert!(
        line.contains("0644") && line.contains("chmod 600"),
        "{line}"
    );
    assert!(!opens(&server, key.reveal()).await);
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    if root {
        chown(&file, Some(12_345), None).unwrap();
        server.reload("");
        let line = logged(&server, "belongs to user 12345").await;
        assert!(line.contains("is ignored"), "{line}");
        assert!(!opens(&server, key.reveal()).await);
        chown(&file, Some(0), None).unwrap();
    }
    server.reload("");
    logged(&server, "adopted the new admin key").await;
    assert!(opens(&server, key.reveal()).await);
    let log = server.log().join("\n");
    assert!(!log.contains(key.reveal()), "{log}");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_ignores_a_key_file_that_others_can_access() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let key = PlainKey::generate().unwrap();
    write_file_key(&database, key.reveal());
    std::fs::set_permissions(key_file(&database), Permissions::from_mode(0o644)).unwrap();
    let server = Process::serve(&database, "");
    let line = logged(&server, "is ignored").await;
    assert!(line.contains(&remedy(&database)), "{line}");
    assert!(!opens(&server, key.reveal()).await);
    assert_eq!(edge(&database, &["users", "list"]).0, 1);
    let (code, shown) = edge(&database, &["keys", "create", "--admin"]);
    assert_eq!((code, shown.trim()), (0, &*file_key(&database)));
    server.reload("");
    logged(&server, "adopted the new admin key").await;
    assert!(opens(&server, shown.trim()).await && !opens(&server, key.reveal()).await);
    // `init` reports the same.
    let database = folder.path().join("other.db");
    write_file_key(&database, key.reveal());
    let (code, _, stderr) = edge_output(&database, &["init"]);
    assert!(code == 0 && stderr.contains(&remedy(&database)), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_create_admin_fills_the_file_and_leaves_the_key_before_it_valid() {
    let (folder, database) = database_with_key();
    let mut keys = vec![file_key(&database)];
    let create = |keys: &mut Vec<String>, extra: &[&str]| {
        let (code, shown, stderr) =
            edge_output(&database, &[&["keys", "create", "--admin"], extra].concat());
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stderr.contains("stays valid: r3mes-edge keys revoke key_"),
            "{stderr}"
        );
        assert!(
            !stderr.contains(shown.trim()) && !stderr.contains(keys.last().unwrap()),
            "{stderr}"
        );
        keys.push(file_key(&database));
        shown
    };
    let shown = create(&mut keys, &[]);
    assert_eq!(shown.trim(), keys[1]);
    let server = Process::serve(&database, "");
    let shown = create(&mut keys, &["--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["api_key"], *keys[2]);
    assert_eq!(shown["file"], key_file(&database).to_str().unwrap());
    for key in &keys {
        assert!(opens(&server, key).await);
    }
    // A key that expires is not for the key file.
    let (code, ending) = edge(&database, &["keys", "create", "--admin", "--expires", "7d"]);
    assert!(code == 0 && ending.trim() != file_key(&database));
    // In the file it would lock the owner out when it expires, so a new key without an expiry is made all the same.
    write_file_key(&database, ending.trim());
    let (status, check) = admin_check(&database);
    assert!(
        status == "warning" && check.contains("works until"),
        "{check}"
    );
    let (code, shown, stderr) = edge_output(&database, &["keys", "create", "--admin"]);
    assert!(code == 0 && stderr.contains("SIGHUP"), "{stderr}");
    server.reload("");
    logged(&server, "adopted the new admin key").await;
    let me = Caller::new(&server.address, Some(shown.trim()))
        .get("/auth/me")
        .await;
    assert_eq!(me.expect(200)["key"]["expires_at"], Value::Null);
    assert_eq!(server.terminate(), Some(0));

    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
        command
            .args(["keys", "create", "--admin", "--database"])
            .arg(&database);
        command.env_clear().current_dir(folder.path()).uid(12_345);
        let done = command.output().unwrap();
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("only the owner") && done.stdout.is_empty(),
            "{stderr}"
        );
        // Root writes it for the owner.
        chown(&database, Some(12_345), Some(12_346)).unwrap();
        assert_eq!(edge(&database, &["keys", "create", "--admin"]).0, 0);
        file_key(&database);
        assert_eq!(
            std::fs::metadata(key_file(&database)).unwrap().gid(),
            12_346
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_key_file_is_reported_with_the_command_that_repairs_it() {
    let (folder, database) = database_with_key();
    let server = Process::serve(&database, "");
    let good = file_key(&database);
    let (_, wallets) = edge(&database, &["keys", "create", "--wallet", W1]);
    let file = key_file(&database);
    let aside = folder.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    type Make<'a> = &'a dyn Fn();
    let text = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    };
    let cases: [(&str, Make<'_>, &str); 6] = [
        ("nothing", &|| (), "warning"),
        ("half a key", &|| text(&good[..30]), "problem"),
        (
            "no text",
            &|| std::fs::write(&file, b"\xff\xfe").unwrap(),
            "problem",
        ),
        ("a wallet's key", &|| text(&wallets), "problem"),
        (
            "a folder",
            &|| std::fs::create_dir(&file).unwrap(),
            "problem",
        ),
        (
            "a pipe",
            &|| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
            "problem",
        ),
    ];
    for (what, make, severity) in cases {
        make();
        let (code, _, stderr) = edge_output(&database, &["users", "list"]);
        assert!(
            code == 1 && stderr.contains(&remedy(&database)),
            "{what}: {stderr}"
        );
        assert!(
            !stderr.contains(&good[..30]) && !stderr.contains(wallets.trim()),
            "{what}: {stderr}"
        );
        if !matches!(what, "a folder" | "no text") {
            let (status, check) = admin_check(&database);
            assert!(
                status == severity && check.contains(&remedy(&database)),
                "{what}: {check}"
            );
        }
        server.reload("");
        if file.is_dir() {
            std::fs::remove_dir(&file).unwrap();
        } else if what != "nothing" {
            std::fs::remove_file(&file).unwrap();
        }
    }
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(edge(&database, &["users", "list"]).0, 0);
    assert_eq!(server.terminate(), Some(0));
}
