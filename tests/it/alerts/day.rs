//! A day of nodes that are well raises no alert, in the node and, by what is recorded here, by the rules for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::MINUTE;
use super::node::{Miner, Node};
use crate::ops::metrics::{Series, read_metrics};

/// The series that the rules compare.
const RECORDED: [&str; 3] = [
    "r3mes_alerts_firing",
    "r3mes_alert_evaluations_total",
    "r3mes_charges_retried_total",
];

/// Values of a node's page, one a step.
#[derive(Default)]
struct Recording(BTreeMap<Series, Vec<f64>>);

impl Recording {
    async fn add(&mut self, node: &Node) {
        for (series, value) in read_metrics(&node.server.admin()).await {
            if RECORDED.contains(&series.name.as_str()) {
                self.0.entry(series).or_default().push(value);
            }
        }
    }

    /// Where `RECORD_SERIES` names a folder, writes a test for promtool: of these series no alert fires.
    fn write(&self, node: &str) {
        let Some(folder) = std::env::var_os("RECORD_SERIES") else {
            return;
        };
        let mut text = format!(
            "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n  - name: {node}\n    interval: 3m\n    input_series:\n"
        );
        let target = r#"job="r3mes-edge", instance="n""#;
        let _ = writeln!(
            text,
            "      - {{ series: 'up{{{target}}}', values: '1x{STEPS}' }}"
        );
        for (series, values) in &self.0 {
            let mut labels = target.to_owned();
            for (name, value) in &series.labels {
                let _ = write!(labels, ", {name}=\"{value}\"");
            }
            let values: Vec<_> = values.iter().map(f64::to_string).collect();
            let (name, values) = (&series.name, values.join(" "));
            let _ = writeln!(
                text,
                "      - {{ series: '{name}{{{labels}}}', values: '{values}' }}"
            );
        }
        text += "    promql_expr_test:\n      - { expr: 'count_over_time(ALERTS[1d])', eval_time: 24h, exp_samples: [] }\n";
        let path = std::path::Path::new(&folder).join(format!("{node}.yml"));
        std::fs::write(path, text).unwrap();
    }
}

/// Less than a miner may be silent, and more than what is confirmed over time.
const STEP: Duration = Duration::from_secs(180);
const STEPS: usize = 480;

async fn a_day(name: &str, miner: Miner, has_chain: bool, has_model: bool) {
    let mut node = Node::start(miner, has_chain, has_model).await;
    let mut recording = Recording::default();
    recording.add(&node).await;
    for step in 0..STEPS {
        // The miner and the use of the node vary.
        let wave = (step as f64 / 9.0).sin();
        node.play(|script| {
            script.hashrate = 100.0 + 12.0 * wave;
            script.temperature = 66.0 + 9.0 * wave;
            script.shares = 1 + step as i64 % 3;
            (script.chats, script.reads) = (usize::from(step % 5 == 0), step % 3);
            script.checks = usize::from(step % 180 == 7);
        });
        let firing = node.pass(STEP).await;
        assert_eq!(firing, Vec::<String>::new(), "{name}: step {step}");
        recording.add(&node).await;
    }
    assert_eq!(node.recent().await, Vec::<String>::new(), "{name}");
    recording.write(name);
    let health = node.server.anybody().get("/health").await.expect(200);
    let uptime = health["uptime_seconds"].as_u64().unwrap();
    assert!(uptime >= (24 * 60 * MINUTE).as_secs(), "{name}: {uptime}");
}

#[tokio::test]
async fn a_day_of_a_node_with_everything_raises_no_alert() {
    a_day("with-everything", Miner::R3mes, true, true).await;
}

#[tokio::test]
async fn a_day_of_a_node_without_miner_raises_no_alert() {
    a_day("without-miner", Miner::None, true, true).await;
}

#[tokio::test]
async fn a_day_of_a_node_without_chain_raises_no_alert() {
    a_day("without-chain", Miner::Xmrig, false, true).await;
}

#[tokio::test]
async fn a_day_of_a_node_without_model_raises_no_alert() {
    a_day("without-model", Miner::Sends, true, false).await;
}
