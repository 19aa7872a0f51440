//! Upstreams whose answers have wrong bytes in them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Dice, number, rounds};
use crate::chain::config_with_chain;
use crate::chat::whole;
use crate::support::{Scripted, TestServer, Upstream, W1, config_with_inference, fixture};

#[tokio::test]
async fn corrupted_answers_of_a_chain_are_at_most_a_bad_gateway() {
    let dice = Arc::new(Mutex::new(Dice::new(2000)));
    let chain = Upstream::start(move |seen| {
        let name = if seen.path == "/status" {
            "cometbft-status.json"
        } else {
            "cometbft-blockchain.json"
        };
        Scripted::whole(200, dice.lock().unwrap().mutated(&fixture(name)))
    });
    let chain = chain.await;
    let mut config = config_with_chain(&chain);
    config.chain.stale_if_error = Duration::ZERO;
    config.breaker.consecutive_failures = u32::MAX;
    config.breaker.last_calls = 1_000_000;
    let server = TestServer::start(config).await;
    for round in 0..rounds() {
        for path in ["/chain/status", "/blocks?limit=20"] {
            // Past the cached answer.
            server.clock.advance(Duration::from_secs(3));
            let answer = server.anybody().get(path).await;
            assert!(
                [200, 502].contains(&answer.status),
                "MUTATION_SEED={}, round {round}: {answer:?}",
                number("MUTATION_SEED", 1)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_model_stream_is_charged_exactly_if_text_was_relayed() {
    let names = [
        "openai-stream.sse",
        "openai-stream-crlf-comments.sse",
        "openai-stream-error-inside.sse",
    ];
    let streams = names.map(fixture);
    let dice = Mutex::new(Dice::new(3000));
    let upstream = Upstream::inference(move |_| {
        let mut dice = dice.lock().unwrap();
        let stream = dice.below(streams.len());
        Scripted::whole(200, dice.mutated(&streams[stream]))
    });
    let upstream = upstream.await;
    let mut config = config_with_inference("openai", &upstream);
    config.chat.in_flight = 64;
    config.breaker.consecutive_failures = u32::MAX;
    config.breaker.last_calls = 1_000_000;
    let server = Arc::new(TestServer::start(config).await);
    let payer = server.payer(W1, 1_000_000).await;
    let paid = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..16 {
        let (payer, paid) = (payer.clone(), Arc::clone(&paid));
        running.spawn(async move {
            for _ in 0..rounds().div_ceil(16) {
                let (status, _, body) = payer.chat("hello").await;
                assert!(
                    [200, 502].contains(&status),
                    "{status} with MUTATION_SEED={}",
                    number("MUTATION_SEED", 1)
                );
                if status == 200 {
                    paid.fetch_add(1, Ordering::Relaxed);
                }
                // Whole or cut: both are answers to such a stream.
                let _ = whole(body).await;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let spent = 1_000_000_000_000 - server.balance(W1).await.micro();
    assert_eq!(
        spent.unsigned_abs(),
        paid.load(Ordering::Relaxed) * 1_000_000
    );
    server.assert_ledger_adds_up().await;
}
