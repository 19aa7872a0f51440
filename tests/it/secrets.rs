//! Where a key must not appear.

use std::sync::Arc;

use r3mes_edge::store::Actor;
use r3mes_edge::{Repository, SqliteStore};
use serde_json::json;

use crate::import::{NEWER, OLDER, backend, old_key, sha256};
use crate::support::{
    Scripted, TestServer, Upstream, W1, config, config_with_inference, next_text,
};

#[tokio::test]
async fn a_key_is_never_in_the_database_the_log_or_the_metrics() {
    let log = captured_log();
    let upstream = Upstream::inference(|_| Scripted::words(&["x"])).await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    let admin = server.admin();
    let me = caller.get("/auth/me").await.expect(200);
    let rotate = format!("/api/keys/{}/rotate", me["key"]["id"].as_str().unwrap());
    let grace = json!({ "grace_seconds": 3600 });
    let rotated = admin.post(&rotate, &grace).await.expect(201);
    let backup = admin.post("/admin/backup", &json!(null)).await;
    backup.expect(201);
    let audit = admin.get("/admin/audit").await;
    let key = caller.key().to_owned();
    let keys = [&key, admin.key(), rotated["api_key"].as_str().unwrap()];
    let (_, _, mut body) = caller.chat("hello").await;
    while next_text(&mut body).await.is_some() {}
    caller
        .get(&format!("/{key}"))
        .await
        .refused(404, "not_found");
    caller
        .get(&format!("/users/{key}"))
        .await
        .refused(400, "invalid_wallet_address");
    caller
        .get(&format!("/auth/me?key={key}"))
        .await
        .refused(400, "key_in_query");
    caller
        .delete(&format!("/api/keys/{key}"))
        .await
        .refused(403, "forbidden");
    server
        .admin()
        .delete(&format!("/api/keys/{key}"))
        .await
        .refused(404, "not_found");
    let wrong = format!(
        "{}{}",
        &key[..54],
        if key.ends_with('x') { 'y' } else { 'x' }
    );
    server
        .with_key(&wrong)
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    let metrics = server.anybody().get("/metrics").await;
    let database = server.database();
    let holds = |bytes: &[u8]| {
        let holds_one = |window: &[u8]| keys.iter().any(|key| window == &key.as_bytes()[20..40]);
        bytes.windows(20).any(holds_one)
    };
    for key in keys {
        assert!(holds(format!("so it is looked for: {key}").as_bytes()));
    }
    assert!(!holds(&metrics.body), "the metrics hold the key");
    let trail = String::from_utf8_lossy(&audit.body);
    assert!(
        trail.contains("keys.rotate") && trail.contains("backup.create"),
        "{trail}"
    );
    assert!(!holds(&audit.body), "the audit trail holds the key");
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let file = format!("{}{suffix}", database.display());
        assert!(
            !holds(&std::fs::read(&file).unwrap()),
            "{file} holds the key"
        );
    }
    let folder = server.shutdown().await;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            !holds(&std::fs::read(&path).unwrap()),
            "{} holds the key",
            path.display()
        );
    }
    let log = log.lock().unwrap();
    assert!(
        log.contains("POST /chat 200"),
        "nothing was logged, so nothing was tested"
    );
    assert!(!holds(log.as_bytes()), "the log holds the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_key_is_never_in_the_database_or_the_log() {
    let log = captured_log();
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let keys = [old_key(71), old_key(72)];
    let hashed = sha256(&keys[1]);
    let now = r3mes_edge::Clock::default().now();
    // One of each generation.
    let mut backends = Vec::new();
    for (folder, (schema, key)) in folders.iter().zip([(OLDER, &keys[0]), (NEWER, &hashed)]) {
        let row = (key.as_str(), W1, None, true, "2026-01-02 03:04:05", None);
        backends.push(backend(folder.path(), schema, &[row]));
    }
    let import = |store: SqliteStore| -> Arc<dyn Repository> {
        let runtime = tokio::runtime::Handle::current();
        for backend in backends {
            let import = || {
                runtime
                    .block_on(store.import_r3mes(&backend, Actor::local(now)))
                    .unwrap()
            };
            assert!(tokio::task::block_in_place(import).notes.is_empty());
        }
        Arc::new(store)
    };
    let server = TestServer::start_with(config(), import).await;
    for key in &keys {
        server.with_key(key).get("/auth/me").await.expect(200);
    }
    let wrong = old_key(73);
    server
        .with_key(&wrong)
        .get("/auth/me")
        .await
        .refused(401, "invalid_api_key");
    let folder = server.shutdown().await;
    for key in [&keys[0], &keys[1], &wrong] {
        let holds = |bytes: &[u8]| {
            bytes
                .windows(30)
                .any(|window| window == &key.as_bytes()[19..])
        };
        assert!(holds(format!("so it is looked for: {key}").as_bytes()));
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            assert!(!holds(&std::fs::read(&path).unwrap()), "{}", path.display());
        }
        assert!(
            !holds(log.lock().unwrap().as_bytes()),
            "the log holds the key"
        );
    }
}

/// Everything that is logged in this process, at every level.
pub(crate) fn captured_log() -> std::sync::Arc<std::sync::Mutex<String>> {
    use std::sync::{Arc, Mutex, OnceLock};
    struct Capture(Arc<Mutex<String>>);
    impl log::Log for Capture {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            *self.0.lock().unwrap() += &format!("{} {}\n", record.level(), record.args());
        }
        fn flush(&self) {}
    }
    static LOG: OnceLock<Arc<Mutex<String>>> = OnceLock::new();
    let install = || {
        let text = Arc::new(Mutex::new(String::new()));
        log::set_boxed_logger(Box::new(Capture(Arc::clone(&text)))).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        text
    };
    Arc::clone(LOG.get_or_init(install))
}
