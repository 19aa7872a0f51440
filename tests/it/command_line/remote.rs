//! `--url`: commands that ask a server elsewhere.

use std::path::Path;

use serde_json::{Value, json};

use crate::https::authority;
use crate::support::{Process, Scripted, Upstream, W1, edge_output};

/// A folder of a person who has no database, but an admin key of a server.
struct Elsewhere {
    folder: tempfile::TempDir,
    url: String,
}

impl Elsewhere {
    fn new(url: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("edge.key"), key).unwrap();
        let url = url.to_owned();
        Self { folder, url }
    }

    fn key(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("edge.key")).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let server = ["--url", &self.url, "--admin-key-file", "edge.key"];
        let database = self.folder.path().join("none.db");
        edge_output(&database, &[&server[..], arguments].concat())
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let (code, out, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        out
    }
}

fn admin_key(server: &Process) -> String {
    std::fs::read_to_string(format!("{}.admin-key", server.database.display())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_is_asked_by_its_address_and_nothing_is_written_here_but_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve(&folder.path().join("edge.db"), "");
    let here = Elsewhere::new(&server.address, &admin_key(&server));
    here.done(&["users", "create", W1]);
    here.done(&["credits", "grant", W1, "2.5", "--reason", "welcome"]);
    assert!(here.done(&["users", "list"]).contains(" 2.5 "));
    let key = here.done(&["keys", "create", "--wallet", W1]);
    assert!(key.starts_with("r3mes_"));
    assert_eq!(here.done(&["keys", "list"]).lines().count(), 3);
    let verdict = here.done(&["ledger", "verify", "--full"]);
    assert_eq!(verdict, "the ledger adds up: 1 wallet, 1 entry\n");
    here.done(&["audit", "list"]);
    here.done(&["usage", "--by", "key"]);
    here.done(&["db", "accept-clock"]);
    here.done(&["breaker", "list"]);
    here.done(&["alerts"]);
    let status = here.done(&["status"]);
    assert!(
        status.starts_with(&format!("Open {}/\n", server.address)),
        "{status}"
    );
    let copy: Value = serde_json::from_str(&here.done(&["backup", "create", "--json"])).unwrap();
    assert!(Path::new(copy["file"].as_str().unwrap()).starts_with(folder.path()));
    assert_eq!(here.run(&["backup", "create", "--keep", "1"]).0, 2);
    assert_eq!(here.run(&["users", "show", "remes1x"]).0, 2);
    assert_eq!(here.run(&["keys", "show", "key_nothing"]).0, 3);

    // The key of the file is replaced in the file.
    let old = here.key();
    let me = server.admin().get("/auth/me").await.expect(200);
    let id = me["key"]["id"].as_str().unwrap();
    let new = here.done(&["keys", "rotate", id]);
    assert!(new == here.key() && new != old);
    let refused = Elsewhere::new(&server.address, &old).run(&["users", "list"]);
    assert!(
        refused.0 == 1 && refused.2.contains("edge.key is refused by the server"),
        "{}",
        refused.2
    );
    let another = here.done(&["keys", "create", "--admin"]);
    assert!(another.starts_with("r3mes_") && new == here.key());
    let me = server
        .admin()
        .with_key(new.trim())
        .get("/auth/me")
        .await
        .expect(200);
    let (code, _, stderr) = here.run(&["keys", "revoke", me["key"]["id"].as_str().unwrap()]);
    assert!(
        code == 0 && stderr.contains("put another one there"),
        "{stderr}"
    );
    assert_eq!(here.run(&["users", "list"]).0, 1);
    let files: Vec<_> = std::fs::read_dir(here.folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let url = server.address.clone();
    assert_eq!(server.terminate(), Some(0));
    let (code, out, _) = Elsewhere::new(&url, &another).run(&["users", "list", "--json"]);
    let error: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &error["error"]["exit_code"]), (5, &json!(5)));
}

#[test]
fn what_works_on_files_or_would_give_the_key_away_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::serve(&folder.path().join("edge.db"), "");
    let key = admin_key(&server);
    let here = Elsewhere::new(&server.address, &key);
    for arguments in [
        &["ledger", "export"][..],
        &["backup", "verify", "x"],
        &["backup", "restore", "x"],
        &["restore", "x"],
        &["db", "check"],
        &["doctor"],
        &["serve"],
        &["version"],
    ] {
        let (code, _, stderr) = here.run(arguments);
        assert!(
            code == 2 && stderr.contains("run it on the server's machine"),
            "{arguments:?}: {stderr}"
        );
    }
    // 192.0.2.0/24 is reserved for documentation.
    for (url, part) in [
        (
            "http://192.0.2.1:8000",
            "to 192.0.2.1 unencrypted: use https",
        ),
        ("http://edge.example", "unencrypted"),
        ("edge.example", "must begin with https://"),
        ("https://user:word@edge.example", "must have no user name"),
    ] {
        let (code, _, stderr) = Elsewhere::new(url, &key).run(&["users", "list"]);
        assert!(code == 2 && stderr.contains(part), "{url}: {stderr}");
        assert!(!stderr.contains(key.trim()));
    }
    let database = here.folder.path().join("none.db");
    for (arguments, part) in [
        (
            &["--url", &here.url, "users", "list"][..],
            "--url needs --admin-key-file",
        ),
        (&["--ca-file", "x", "users", "list"], "which is missing"),
        (
            &["--url", &here.url, "--admin-key-file", "x", "users", "list"],
            "x: No such file",
        ),
    ] {
        let (code, _, stderr) = edge_output(&database, arguments);
        assert!(
            code == 2 && stderr.contains(part),
            "{arguments:?}: {stderr}"
        );
    }
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_spoken_with_the_named_authority_below_the_path_of_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (
        folder.path().join("ca.pem"),
        folder.path().join("other.pem"),
    );
    authority(&other);
    let proxy = Upstream::start_with(Some(authority(&ca)), |seen| match seen.path.as_str() {
        "/edge/admin/ledger/verify?full=true" => {
            Scripted::whole(200, r#"{"wallets":2,"entries":3,"mistakes":[]}"#)
        }
        "/edge/users?sort=address&limit=500" => {
            Scripted::redirect("https://elsewhere.example/".to_owned())
        }
        _ => Scripted::whole(404, "not found"),
    })
    .await;
    let url = format!("https://localhost:{}/edge/", proxy.port());
    let plain = r3mes_edge::auth::PlainKey::generate().unwrap();
    let here = Elsewhere::new(&url, plain.reveal());
    let with = |ca: &Path, arguments: &[&str]| {
        here.run(&[&["--ca-file", ca.to_str().unwrap()], arguments].concat())
    };
    let (code, out, stderr) = with(&ca, &["ledger", "verify", "--full"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "the ledger adds up: 2 wallets, 3 entries\n"),
        "{stderr}"
    );
    let seen = proxy.seen("/edge/admin/ledger/verify?full=true");
    assert_eq!(seen[0].headers["x-api-key"], plain.reveal());
    assert_eq!(
        seen[0].headers["host"],
        format!("localhost:{}", proxy.port())
    );
    // A redirect is not followed: the key is for this server.
    let (code, _, stderr) = with(&ca, &["users", "list"]);
    assert!(
        code == 1 && stderr.contains("it leads to: https://elsewhere.example/"),
        "{stderr}"
    );
    let (code, _, stderr) = with(&ca, &["users", "show", W1]);
    assert!(
        code == 3 && stderr.contains("is it an r3mes-edge?"),
        "{stderr}"
    );
    let before = proxy.seen("/edge/users?sort=address&limit=500").len();
    for arguments in [
        ["--ca-file", other.to_str().unwrap(), "users", "list"],
        ["--ca-file", "/nowhere.pem", "users", "list"],
    ] {
        let (code, _, stderr) = here.run(&arguments);
        assert_eq!(code, 5, "{stderr}");
    }
    // Browsers do not know it either.
    assert_eq!(here.run(&["users", "list"]).0, 5);
    assert_eq!(
        proxy.seen("/edge/users?sort=address&limit=500").len(),
        before
    );
}
