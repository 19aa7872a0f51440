//! The list of the backups, and the check of one of them by its name.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::{copies, json as parsed};
use crate::faults::Faults;
use crate::support::{Answer, Process, TestServer, W1, config, edge, edge_output};

async fn make(server: &TestServer) -> Value {
    let made = server.admin().post("/admin/backup", &json!(null)).await;
    server.clock.advance(Duration::from_secs(60));
    made.expect(201)
}

async fn list(server: &TestServer) -> Value {
    server.admin().get("/admin/backups").await.expect(200)
}

async fn verify(server: &TestServer, name: &str) -> Answer {
    let path = format!("/admin/backups/{name}/verify");
    server.admin().send(Method::POST, &path, &[], "").await
}

#[tokio::test]
async fn backups_are_listed_newest_first_in_the_folder_where_they_are_made() {
    for configured in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::support::config();
        if configured {
            config.backup.folder = folder.path().to_owned();
        }
        let server = TestServer::start(config).await;
        let database = server.database();
        let expected = if configured {
            folder.path()
        } else {
            database.parent().unwrap()
        };
        let expected = expected.to_str().unwrap();
        assert_eq!(
            list(&server).await,
            json!({ "folder": expected, "backups": [] })
        );
        let mut made = Vec::new();
        for _ in 0..3 {
            made.insert(0, make(&server).await);
        }
        // Neither one of another database nor a file of another name.
        let stamp = "20200101T000000.000Z.backup";
        for other in [
            format!("other.db.{stamp}"),
            "edge.db.backup".to_owned(),
            format!("edge.db.{stamp}.part"),
        ] {
            std::fs::write(Path::new(expected).join(other), "x").unwrap();
        }
        let found = list(&server).await;
        let found = found["backups"].as_array().unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|copy| (&copy["name"], &copy["bytes"]))
            .collect();
        let expected: Vec<_> = made
            .iter()
            .map(|copy| (&copy["file"], &copy["bytes"]))
            .collect();
        assert_eq!(names, expected);
        for copy in found {
            let stamp = copy["created_at"].as_str().unwrap().replace(['-', ':'], "");
            assert_eq!(copy["name"], format!("edge.db.{stamp}.backup"));
        }
    }
}

#[tokio::test]
async fn a_check_of_a_backup_says_what_it_found() {
    let server = TestServer::start(config()).await;
    server.payer(W1, 3).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(make(&server).await["file"].as_str().unwrap().to_owned());
    }
    let place = |name: &str| server.database().with_file_name(name);
    for name in &made {
        let found = verify(&server, name).await.expect(200);
        let ledger = json!({ "wallets": 1, "entries": 1, "mistakes": [] });
        assert_eq!(found, json!({ "name": name, "ledger": ledger }));
    }
    let tampered = rusqlite::Connection::open(place(&made[0])).unwrap();
    let update = "UPDATE users SET credits = credits + 1";
    assert_eq!(tampered.execute(update, []), Ok(1));
    drop(tampered);
    let half = std::fs::read(place(&made[1])).unwrap();
    std::fs::write(place(&made[1]), &half[..half.len() / 2]).unwrap();
    std::fs::write(
        place(&made[2]),
        "not a database, but longer than the head of one would be ".repeat(9),
    )
    .unwrap();
    for (name, part) in made
        .iter()
        .zip(["the balance is 3.000001", "", "is not a database"])
    {
        let found = verify(&server, name).await.expect(200);
        let errors = found["ledger"]["mistakes"].as_array().unwrap();
        assert!(!errors.is_empty(), "{name}");
        let text = found.to_string();
        assert!(text.contains(part), "{text}");
        // The command finds the same.
        let file = place(name);
        let (code, _) = edge(&file, &["backup", "verify", file.to_str().unwrap()]);
        assert_ne!(code, 0);
    }
    // They are in the list all the same.
    assert_eq!(list(&server).await["backups"].as_array().unwrap().len(), 3);
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn only_a_name_of_the_list_is_checked_and_only_by_an_admin() {
    let server = TestServer::start(config()).await;
    let name = make(&server).await["file"].as_str().unwrap().to_owned();
    let file = server.database();
    let outside = file.parent().unwrap().join("sub");
    std::fs::create_dir(&outside).unwrap();
    std::fs::copy(file.with_file_name(&name), outside.join(&name)).unwrap();
    for other in [
        "edge.db".to_owned(),
        "edge.db-wal".to_owned(),
        "nothing".to_owned(),
        "..".to_owned(),
        ".".to_owned(),
        "%2e%2e%2f".to_owned() + &name,
        "sub%2f".to_owned() + &name,
        "..%5c".to_owned() + &name,
        format!("{name}%00"),
        format!("{name}%20"),
        "%ff".to_owned(),
        name.replace("edge", "other"),
    ] {
        verify(&server, &other).await.refused(404, "not_found");
    }
    for path in [format!("sub/{name}"), format!("../{name}"), String::new()] {
        let path = format!("/admin/backups/{path}/verify");
        let refused = server.admin().send(Method::POST, &path, &[], "").await;
        refused.refused(404, "not_found");
    }
    let encoded = name.replace('.', "%2e");
    let found = verify(&server, &encoded).await.expect(200);
    assert_eq!(found["name"], name);
    let unknown = format!("/admin/backups/{name}/verify?full=true");
    let refused = server.admin().send(Method::POST, &unknown, &[], "").await;
    refused.refused(400, "invalid_request");

    let own = server.caller(W1, &["read", "keys", "metrics"]).await;
    let path = format!("/admin/backups/{name}/verify");
    for (caller, status, code) in [
        (own, 403, "forbidden"),
        (server.anybody(), 401, "missing_credentials"),
    ] {
        caller.get("/admin/backups").await.refused(status, code);
        let refused = caller.send(Method::POST, &path, &[], "").await;
        refused.refused(status, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_checks_at_once_each_is_done_or_refused_and_none_keeps_a_backup_from_being_made() {
    let server = TestServer::start(config()).await;
    let name = make(&server).await["file"].as_str().unwrap().to_owned();
    let path = format!("/admin/backups/{name}/verify");
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (admin, path) = (server.admin(), path.clone());
        asked.spawn(async move { admin.send(Method::POST, &path, &[], "").await });
    }
    let (mut done, mut refused) = (0, 0);
    for answer in asked.join_all().await {
        match answer.status {
            200 => done += 1,
            _ => {
                let why = answer.refused(409, "conflict");
                assert_eq!(why["detail"], "a backup is being verified already");
                refused += 1;
            }
        }
    }
    assert!(done >= 1 && done + refused == 20, "{done} {refused}");
    make(&server).await;
    verify(&server, &name).await.expect(200);
}

#[tokio::test]
async fn a_store_that_makes_no_backups_has_none_to_list_and_a_folder_that_is_gone_is_a_fault() {
    let faults = Faults::default();
    faults.make_no_backups();
    let server = faults.serve(config()).await;
    let refused = server.admin().get("/admin/backups").await;
    refused.refused(501, "not_supported");
    verify(&server, "a").await.refused(501, "not_supported");
    let mut config = crate::support::config();
    config.backup.folder = "/nothing/there".into();
    let server = TestServer::start(config).await;
    let refused = server.admin().get("/admin/backups").await;
    let refused = refused.refused(503, "storage_unavailable").to_string();
    assert!(!refused.contains("nothing/there"), "{refused}");
}

#[test]
fn the_command_lists_backups_beside_a_server_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let server = Process::serve(&database, "");
    let (code, out) = edge(&database, &["backup", "list"]);
    let none = format!(
        "no backup in {}; make one with r3mes-edge backup create\n",
        folder.path().display()
    );
    assert_eq!((code, out), (0, none));
    for _ in 0..2 {
        assert_eq!(edge(&database, &["backup", "create"]).0, 0);
    }
    let made = copies(&database);
    let check = || {
        let (code, out, stderr) = edge_output(&database, &["backup", "list"]);
        assert_eq!(code, 0, "{stderr}");
        let lines: Vec<Vec<_>> = out
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["NAME", "SIZE", "AGE"]);
        assert_eq!(lines.len(), 3);
        for (line, file) in lines[1..].iter().zip(made.iter().rev()) {
            assert_eq!(Some(line[0]), file.file_name().unwrap().to_str());
            assert!(line[1].parse::<f64>().is_ok() && line[2] == "MiB", "{out}");
            assert!(
                line[3].parse::<u32>().is_ok() && ["s", "min"].contains(&line[4]),
                "{out}"
            );
        }
        let (code, out) = edge(&database, &["backup", "list", "--json"]);
        let listed = parsed(&out);
        assert_eq!((code, &listed["folder"]), (0, &json!(folder.path())));
        let names = listed["backups"].as_array().unwrap().iter();
        let names: Vec<_> = names
            .map(|copy| database.with_file_name(copy["name"].as_str().unwrap()))
            .collect();
        assert!(names.iter().eq(made.iter().rev()));
    };
    check();
    assert_eq!(server.terminate(), Some(0));
    check();
}
