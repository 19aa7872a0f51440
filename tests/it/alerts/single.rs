//! One cause, one alert: each fault raises exactly its own, which lasts as long as the fault and ends with it.

use std::time::Duration;

use r3mes_edge::store::StoreGauges;
use serde_json::json;

use super::MINUTE;
use super::node::{Miner, Node, Page, Script};
use crate::support::W1;

/// Runs a node that is well, then with a fault, then without it.
async fn check(alert: &str, miner: Miner, fault: fn(&mut Script)) {
    let none = Vec::<String>::new();
    let mut node = Node::start(miner, true, true).await;
    for minute in 0..22 {
        assert_eq!(
            node.pass(MINUTE).await,
            none,
            "minute {minute} without a fault"
        );
    }
    node.play(fault);
    let mut minute = 0;
    loop {
        minute += 1;
        let firing = node.pass(MINUTE).await;
        if !firing.is_empty() {
            assert_eq!(firing, [alert], "minute {minute} of the fault");
            break;
        }
        assert!(minute < 200, "it does not fire");
    }
    for more in 1..8 {
        assert_eq!(
            node.pass(MINUTE).await,
            [alert],
            "minute {minute} + {more} of the fault"
        );
    }
    node.play(|script| *script = Script::default());
    let mut minute = 0;
    loop {
        minute += 1;
        let firing = node.pass(MINUTE).await;
        if firing.is_empty() {
            break;
        }
        assert_eq!(firing, [alert], "minute {minute} after the fault");
        assert!(minute < 130, "it does not end");
    }
    for minute in 0..8 {
        assert_eq!(
            node.pass(MINUTE).await,
            none,
            "minute {minute} after its end"
        );
    }
    assert_eq!(node.recent().await, [alert]);
}

/// The faults: the name of each test says what happens, then its alert, the miner of the node, and what changes.
macro_rules! faults {
    ($($fault:ident: $alert:literal, $miner:ident, |$script:ident| $change:expr;)*) => {
        $(
            #[tokio::test]
            async fn $fault() {
                fn change($script: &mut Script) {
                    $change;
                }
                check($alert, Miner::$miner, change).await;
            }
        )*

        #[test]
        fn there_are_thirty_faults() {
            assert!([$(stringify!($fault)),*].len() >= 30);
        }
    };
}

fn gauges(change: impl FnOnce(&mut StoreGauges)) -> StoreGauges {
    let mut gauges = Script::default().gauges;
    change(&mut gauges);
    gauges
}

const SECOND: Duration = Duration::from_secs(1);

faults! {
    reads_of_the_storage_take_seconds: "response_time", None, |script| (script.slow, script.reads, script.chats) = (3 * SECOND, 4, 0);
    chats_wait_for_the_storage: "gateway_overhead", None, |script| (script.slow, script.chats) = (SECOND / 5, 4);
    reads_fail: "error_rate", None, |script| (script.failing, script.reads) = (&["user"], 60);
    the_model_fails_now_and_then: "error_rate", None, |script| (script.model, script.chats) = (Page::Often(500), 15);
    read_connections_run_out: "pool_use", None, |script| script.gauges = gauges(|gauges| gauges.pool_in_use = 4);
    all_reads_wait_for_a_connection: "pool_use", None, |script| {
        script.gauges = gauges(|gauges| gauges.pool_in_use = 4);
        (script.slow, script.reads, script.chats) = (3 * SECOND, 4, 4);
    };
    the_disk_fills_up: "disk_free", None, |script| script.gauges = gauges(|gauges| gauges.disk_free_bytes = Some(400 << 20));
    the_disk_is_full_and_writes_fail: "disk_free", None, |script| {
        script.gauges = gauges(|gauges| gauges.disk_free_bytes = Some(1 << 20));
        (script.failing, script.reads) = (&["is_ready", "user", "grant"], 60);
    };
    the_log_grows: "wal_size", None, |script| script.gauges = gauges(|gauges| gauges.wal_bytes = Some(300 << 20));
    writes_fail: "storage_unavailable", None, |script| script.failing = &["is_ready"];
    writes_fail_under_load: "storage_unavailable", None, |script| (script.failing, script.reads) = (&["is_ready", "user"], 60);
    the_database_file_is_deleted_under_load: "database_file", None, |script| {
        script.gauges = gauges(|gauges| gauges.file_fault = Some("the database file was deleted"));
        (script.failing, script.reads) = (&["is_ready", "user"], 60);
    };
    a_balance_is_not_its_ledger: "ledger_mismatch", None, |script| (script.tampered, script.chats) = (1, 0);
    backups_fail: "backup_age", None, |script| script.failing = &["back_up"];
    the_chain_stands_still: "chain_halted", None, |script| script.makes_blocks = false;
    the_chain_is_gone: "breaker_open", None, |script| script.chain = Page::Dead;
    the_chain_fails: "breaker_open", None, |script| script.chain = Page::Status(500);
    a_proxy_answers_for_the_chain: "breaker_open", None, |script| script.chain = Page::Html;
    the_chain_is_gone_under_load: "breaker_open", None, |script| (script.chain, script.reads) = (Page::Dead, 60);
    the_model_is_gone: "breaker_open", None, |script| (script.model, script.chats) = (Page::Dead, 3);
    the_model_is_gone_under_load: "breaker_open", None, |script| (script.model, script.chats) = (Page::Dead, 60);
    the_chain_needs_a_token: "upstream_failing", None, |script| (script.chain, script.reads) = (Page::Status(401), 60);
    the_chain_has_another_path_and_is_asked_often: "upstream_failing", None, |script| (script.chain, script.reads) = (Page::Status(404), 20);
    an_operator_takes_the_chain_out_of_use: "breaker_open", None, |script| script.forced = Some("chain");
    an_operator_takes_the_miner_out_of_use: "breaker_open", Xmrig, |script| script.forced = Some("miner");
    the_model_refuses_its_key: "inference_refused", None, |script| (script.model, script.chats) = (Page::Status(401), 2);
    the_model_is_at_another_address: "inference_refused", None, |script| (script.model, script.chats) = (Page::Status(302), 60);
    the_model_reports_no_usage: "no_usage", None, |script| script.model = Page::NoUsage;
    a_miner_sends_no_samples: "miner_silent", Sends, |script| script.miner = Page::Dead;
    the_page_of_a_miner_is_gone: "miner_silent", Xmrig, |script| script.miner = Page::Dead;
    the_page_of_a_miner_fails: "miner_silent", R3mes, |script| script.miner = Page::Status(500);
    the_page_of_a_miner_needs_a_token: "miner_silent", Xmrig, |script| script.miner = Page::Status(401);
    a_proxy_answers_for_the_miner: "miner_silent", R3mes, |script| script.miner = Page::Html;
    the_pool_accepts_no_share_of_a_miner_that_is_read: "shares_flat", Xmrig, |script| script.shares = 0;
    the_pool_accepts_no_share_of_a_miner_that_sends: "shares_flat", Sends, |script| script.shares = 0;
    the_hashrate_falls: "hashrate_low", Sends, |script| script.hashrate = 10.0;
    the_miner_pauses: "hashrate_low", Xmrig, |script| (script.hashrate, script.shares) = (0.0, 0);
    the_card_is_hot: "temperature", R3mes, |script| script.temperature = 95.0;
    one_of_two_cards_is_hot: "temperature", Sends, |script| script.other_temperature = 95.0;
    nothing_is_earned: "earnings_stopped", Sends, |script| script.earns = false;
}

#[tokio::test]
async fn backups_and_full_checks_are_no_slow_answers() {
    let mut node = Node::start(Miner::None, true, true).await;
    node.play(|script| (script.slow, script.checks, script.reads) = (SECOND / 3, 4, 1));
    node.play(|script| script.chats = 0);
    for _ in 0..8 {
        node.play(|script| script.slow = SECOND / 3);
        assert_eq!(node.pass(MINUTE).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_miner_whose_page_is_gone_is_not_hidden_by_another_that_sends() {
    let mut node = Node::start(Miner::Xmrig, true, true).await;
    let sample =
        json!({ "hashrate": 10, "hashrate_unit": "H/s", "worker": "other", "wallet_address": W1 });
    for minute in 0..30 {
        if minute == 5 {
            node.play(|script| script.miner = Page::Dead);
        }
        let firing = node.pass(MINUTE).await;
        let admin = node.server.admin();
        admin.post("/miner/stats", &sample).await.expect(201);
        // Its breaker opens after some failures.
        let may_be_none = minute < 12 && firing.is_empty();
        let has_opened = minute > 5 && firing == ["breaker_open"];
        assert!(may_be_none || has_opened, "minute {minute}: {firing:?}");
    }
}
