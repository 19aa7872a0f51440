pub(crate) mod metrics;

use std::time::Duration;

use hyper::Method;
use r3mes_edge::model::Timestamp;
use serde_json::json;
use tokio::net::TcpStream;

use crate::chat::{held_inference, whole};
use crate::support::{
    Process, TestServer, W1, config, config_with_inference, eventually, next_text,
};

#[tokio::test]
async fn a_healthy_node_is_alive_ready_and_ok() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    let alive = caller.get("/livez").await.expect(200);
    assert_eq!(alive, json!({"status": "alive"}));
    let ready = caller.get("/readyz").await.expect(200);
    assert_eq!(ready, json!({"status": "ready"}));
    server.clock.advance(Duration::from_secs(5000));
    let answer = caller.get("/health").await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let mut health = answer.expect(200);
    let uptime = health["uptime_seconds"].take().as_u64().unwrap();
    assert!((5000..5060).contains(&uptime), "{uptime}");
    // The compaction may be running.
    for busy in ["pool_in_use", "write_queue"] {
        health["storage"][busy].take();
    }
    for size in ["file_bytes", "wal_bytes", "pool_size"] {
        assert!(
            health["storage"][size].take().as_u64().unwrap() > 0,
            "{size}"
        );
    }
    assert_eq!(
        health,
        json!({
            "status": "ok", "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": null, "draining": false,
            "storage": {
                "ready": true, "write_queue": null, "pool_in_use": null, "pool_size": null, "file_bytes": null,
                "wal_bytes": null, "holds": 0,
            },
            "inference": false, "nodes": [], "chain": false, "chain_halted": false, "miner": false, "breakers": [],
        })
    );
    // These need no key, also through a proxy.
    let forwarded = [("x-forwarded-for", "203.0.113.7")];
    for path in ["/livez", "/readyz", "/health"] {
        caller
            .send(Method::GET, path, &forwarded, "")
            .await
            .expect(200);
    }
    let text = caller.get("/health").await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let folder = server.database();
    assert!(!text.contains(folder.parent().unwrap().to_str().unwrap()));
    assert!(!text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn the_version_is_answered_with_whether_the_clients_is_too_old() {
    let server = TestServer::start(config()).await;
    let caller = server.anybody();
    let wanted = |update_required| {
        json!({
            "current_version": env!("CARGO_PKG_VERSION"), "min_version": "0.1.0", "update_required": update_required,
        })
    };
    let answer = caller.get("/system/version").await.expect(200);
    assert_eq!(answer, wanted(false));
    for (client, old) in [
        ("0.0.9", true),
        ("0.0.999999999", true),
        ("0.1.0", false),
        ("0.10.0", false),
        ("1.0.0", false),
    ] {
        let path = format!("/system/version?version={client}");
        assert_eq!(caller.get(&path).await.expect(200), wanted(old), "{client}");
    }
    for wrong in [
        "",
        "1",
        "1.0",
        "1.0.0.0",
        "1.0.x",
        "+1.0.0",
        "1..0",
        "1234567890.0.0",
    ] {
        let path = format!("/system/version?version={wrong}");
        let refused = caller.get(&path).await.refused(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], "version", "{wrong}");
    }
}

#[tokio::test]
async fn the_time_is_answered_in_seconds_and_as_a_date() {
    let server = TestServer::start(config()).await;
    server.clock.advance(Duration::from_secs(86_400));
    let before = server.clock.now();
    let answer = server.anybody().get("/system/time").await.expect(200);
    let iso = answer["server_time_iso"].as_str().unwrap();
    let time = Timestamp::parse(iso).unwrap();
    assert!((before..=server.clock.now()).contains(&time), "{iso}");
    assert_eq!(answer["server_time"], time.millis() / 1000);
    assert_eq!(answer["timezone"], "UTC");
}

/// A connection whose request the server has begun to read.
async fn half_asked(server: &TestServer, path: &str) -> TcpStream {
    let address = server.base.trim_start_matches("http://");
    let stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n");
    stream.writable().await.unwrap();
    assert_eq!(stream.try_write(head.as_bytes()).unwrap(), head.len());
    stream
}

/// Ends the request's head and reads the answer to the end of the connection.
async fn ask_the_rest(stream: TcpStream) -> String {
    stream.writable().await.unwrap();
    assert_eq!(stream.try_write(b"\r\n").unwrap(), 2);
    answer_on(stream).await
}

/// What is answered until the end of the connection.
async fn answer_on(stream: TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        stream.readable().await.unwrap();
        let mut piece = [0; 4096];
        match stream.try_read(&mut piece) {
            Ok(0) => return String::from_utf8(answer).unwrap(),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

#[tokio::test]
async fn a_stopping_server_refuses_new_requests_and_finishes_those_in_flight() {
    let (upstream, mut held) = held_inference().await;
    let mut server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 3).await;
    let asking = tokio::spawn(async move { caller.chat("hello").await });
    let frames = held.recv().await.unwrap();
    frames.send_word("one ");
    let (_, _, mut body) = asking.await.unwrap();
    assert_eq!(next_text(&mut body).await.unwrap().unwrap(), "one ");

    let mut late = Vec::new();
    for path in ["/readyz", "/leaderboard", "/livez", "/health"] {
        late.push(half_asked(&server, path).await);
    }
    // Answered after the partial requests above were read: they came first, and one thread reads all.
    server.anybody().get("/livez").await.expect(200);
    let address = server.base.trim_start_matches("http://").to_owned();
    let stopped = server.begin_shutdown();
    eventually("new connections are refused", async || {
        TcpStream::connect(&address).await.is_err().then_some(())
    })
    .await;

    let mut answers = Vec::new();
    for stream in late {
        answers.push(ask_the_rest(stream).await);
    }
    for refused in &answers[..2] {
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
        assert!(refused.contains("\"code\":\"shutting_down\""), "{refused}");
    }
    assert!(answers[2].starts_with("HTTP/1.1 200"), "{}", answers[2]);
    assert!(answers[3].starts_with("HTTP/1.1 200"), "{}", answers[3]);
    assert!(answers[3].contains("\"status\":\"degraded\""));
    assert!(answers[3].contains("\"draining\":true"));

    frames.send_word("two");
    frames.send_done();
    assert_eq!(whole(body).await.unwrap(), "two\n");
    stopped.await.unwrap();
}

#[tokio::test]
async fn half_sent_requests_do_not_block_shutdown() {
    let hour = Duration::from_secs(3600);
    let mut config = config();
    let limits = &mut config.limits;
    (limits.header_timeout, limits.body_timeout) = (hour, hour);
    limits.shutdown_grace = hour;
    let server = TestServer::start(config).await;
    let _half_a_head = half_asked(&server, "/livez").await;
    let half_a_body = half_asked(&server, "/livez").await;
    let rest = format!(
        "\r\nPOST /miner/stats HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {}\r\n\
         content-type: application/json\r\ncontent-length: 99\r\n\r\n{{",
        server.admin().key()
    );
    assert_eq!(half_a_body.try_write(rest.as_bytes()).unwrap(), rest.len());
    // Answered after the partial requests above were read: they came first, and one thread reads all.
    server.anybody().get("/livez").await.expect(200);
    let stopping = tokio::time::timeout(Duration::from_secs(20), server.shutdown());
    let (stopped, answer) = tokio::join!(stopping, answer_on(half_a_body));
    assert!(stopped.is_ok(), "the server did not stop");
    assert!(answer.contains("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\"code\":\"shutting_down\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_does_not_block_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    // A name look-up opens this first, and waits for a writer.
    let hosts = folder.path().join("hosts");
    let pipe = std::process::Command::new("mkfifo").arg(&hosts).status();
    assert!(pipe.unwrap().success());
    let before = format!("mount --bind {} /etc/hosts", hosts.display());
    let miner = format!("[miner]\nurl = \"http://miner.example:8080/stats\"\nwallet = \"{W1}\"");
    let disk = folder.path().join("disk");
    let Some(server) = Process::serve_on_a_small_disk(&disk, 24, &before, &miner) else {
        return;
    };
    // The poll times out; the thread of its name look-up cannot be cancelled.
    eventually("the miner was not read", async || {
        let log = server.log();
        log.iter()
            .any(|line| line.contains("was not read"))
            .then_some(())
    })
    .await;
    server.tell_to_end();
    let ended = tokio::task::spawn_blocking(|| server.wait());
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
    if ended.is_err() {
        // Lets the thread go on, and with it the server.
        drop(std::fs::OpenOptions::new().write(true).open(&hosts));
    }
    assert_eq!(ended.expect("the server did not end").unwrap(), Some(0));
}
