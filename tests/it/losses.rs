//! What is lost in the client's favour is counted for the key.

use hyper::Method;
use r3mes_edge::model::Credits;
use rusqlite::Connection;
use serde_json::json;

use crate::faults::Faults;
use crate::support::{
    Caller, Scripted, Seen, TestServer, Upstream, W1, W2, config_with_inference, eventually,
};

const FORMS: [(&str, Option<bool>); 3] = [
    ("/chat", None),
    ("/v1/chat/completions", Some(true)),
    ("/v1/chat/completions", Some(false)),
];

const COMPLETION: &str =
    "{\"choices\":[{\"message\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}";

async fn held_inference() -> (
    Upstream,
    tokio::sync::mpsc::UnboundedReceiver<crate::support::Frames>,
) {
    let (sender, held) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::inference(move |_: &Seen| {
        let (scripted, frames) = Scripted::held();
        sender.send(frames).unwrap();
        scripted
    })
    .await;
    (upstream, held)
}

fn ask(
    caller: &Caller,
    (path, stream): (&'static str, Option<bool>),
) -> tokio::task::JoinHandle<u16> {
    let body = match stream {
        None => json!({ "message": "hi" }),
        Some(stream) => {
            json!({ "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
        }
    };
    let caller = caller.clone();
    tokio::spawn(async move {
        caller
            .open(Method::POST, path, &[], body.to_string())
            .await
            .0
    })
}

/// The key, the adapter, the requests, what was charged for them and how many were lost, of each row of the usage.
fn usage(server: &TestServer) -> Vec<(Option<String>, String, i64, i64, i64)> {
    let file = Connection::open(server.database()).unwrap();
    file.busy_timeout(std::time::Duration::from_secs(5))
        .unwrap();
    let select = "SELECT k.key, u.adapter, u.requests, u.charged, u.lost FROM usage u LEFT JOIN key_ids k ON k.id = u.key ORDER BY 1";
    let mut select = file.prepare(select).unwrap();
    let rows = select.query_map([], |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
        ))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

async fn lost(server: &TestServer) -> String {
    let page = server.admin().get("/metrics").await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    // Its series come in no fixed order.
    let lost: std::collections::BTreeSet<_> = page
        .lines()
        .filter(|line| line.starts_with("r3mes_requests_lost_total"))
        .collect();
    lost.into_iter().collect::<Vec<_>>().join("\n")
}

fn counted(client_left: u32) -> String {
    format!(
        "r3mes_requests_lost_total{{cause=\"client_left\"}} {client_left}\n\
         r3mes_requests_lost_total{{cause=\"not_written\"}} 0"
    )
}

#[tokio::test]
async fn a_request_whose_client_left_while_a_model_worked_is_counted_as_lost_for_its_key() {
    let (upstream, mut held) = held_inference().await;
    let server = TestServer::start(config_with_inference("openai", &upstream)).await;
    let caller = server.payer(W1, 5).await;
    let me = caller.get("/auth/me").await.expect(200);
    let key = me["key"]["id"].as_str().map(str::to_owned);
    assert_eq!(lost(&server).await, counted(0));
    for (count, form) in (1..).zip(FORMS) {
        let asking = ask(&caller, form);
        let frames = held.recv().await.unwrap();
        asking.abort();
        frames.reader_left().await;
        let row = (key.clone(), "general".to_owned(), 0, 0, count);
        eventually("it is counted", async || {
            (usage(&server) == [row.clone()]).then_some(())
        })
        .await;
        assert_eq!(lost(&server).await, counted(count as u32));
    }
    // A request that is paid belongs to the same row.
    let asking = ask(&caller, FORMS[0]);
    let frames = held.recv().await.unwrap();
    frames.send_word("word");
    frames.send_done();
    assert_eq!(asking.await.unwrap(), 200);
    let row = (key, "general".to_owned(), 1, 1_000_000, 3);
    eventually("it is charged", async || {
        (usage(&server) == [row.clone()]).then_some(())
    })
    .await;
    assert_eq!(server.balance(W1).await, Credits::parse("4").unwrap());
    server.assert_ledger_adds_up().await;
}

#[tokio::test]
async fn a_request_whose_client_left_before_any_model_was_asked_is_not_lost() {
    let (upstream, mut held) = held_inference().await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.in_flight = 1;
    let server = TestServer::start(config).await;
    let (first, second) = (server.payer(W1, 5).await, server.payer(W2, 5).await);
    let answered = ask(&first, FORMS[0]);
    let frames = held.recv().await.unwrap();
    for form in FORMS {
        let waiting = ask(&second, form);
        let holds = async |count| (server.store.gauges().holds == count).then_some(());
        eventually("it waits", async || holds(2).await).await;
        waiting.abort();
        eventually("it left", async || holds(1).await).await;
    }
    frames.send_word("word");
    frames.send_done();
    assert_eq!(answered.await.unwrap(), 200);
    eventually("it is charged", async || {
        (usage(&server).len() == 1).then_some(())
    })
    .await;
    assert_eq!(usage(&server)[0].4, 0);
    assert_eq!(lost(&server).await, counted(0));
}

#[tokio::test]
async fn a_loss_that_cannot_be_written_is_counted_in_the_metric_alone() {
    let (upstream, mut held) = held_inference().await;
    let faults = Faults::default();
    let server = faults
        .serve(config_with_inference("openai", &upstream))
        .await;
    let caller = server.payer(W1, 5).await;
    faults.fail("count_lost");
    let asking = ask(&caller, FORMS[0]);
    let frames = held.recv().await.unwrap();
    asking.abort();
    frames.reader_left().await;
    eventually("it is counted", async || {
        (lost(&server).await == counted(1)).then_some(())
    })
    .await;
    // A charge that is not written is lost too.
    faults.fail("charge for good");
    let asking = ask(&caller, FORMS[2]);
    held.recv().await.unwrap().send(COMPLETION);
    assert_eq!(asking.await.unwrap(), 503);
    let both = counted(1).replace("not_written\"} 0", "not_written\"} 1");
    assert_eq!(lost(&server).await, both);
    assert_eq!(usage(&server), []);
    assert_eq!(server.balance(W1).await, Credits::parse("5").unwrap());
}
