//! What is read of the answers of real servers.

use super::*;
use crate::upstream::inference::wire::tests::{Fixture, check_fixtures, fixtures};

pub(in crate::upstream) const FIXTURES: &[Fixture] = fixtures! {
    "embeddings/answer.openai.json", (true, true, [Some(6), Some(0), Some(0)]);
    "embeddings/answer.llamacpp.json", (true, true, [Some(8), Some(0), Some(0)]);
    "embeddings/answer-base64.llamacpp.json", (true, true, [Some(4), Some(0), Some(0)]);
    "embeddings/answer-native.llamacpp.json", (true, true, [None, None, Some(0)]);
    "embeddings/answer.vllm.json", (true, true, [Some(6), Some(0), Some(0)]);
    "embeddings/answer.sglang.json", (true, true, [Some(6), Some(0), Some(0)]);
    "embeddings/answer.ollama.json", (true, true, [Some(6), Some(0), Some(0)]);
    "embeddings/answer.lmstudio.json", (true, true, [None, None, Some(0)]);
    "embeddings/answer.localai.json", (true, true, [None, None, Some(0)]);
    "rerank/answer.jina.json", (true, true, [Some(33), Some(0), Some(0)]);
    "rerank/answer.cohere.json", (true, true, [None, None, Some(0)]);
    "rerank/answer.llamacpp.json", (true, true, [Some(33), Some(0), Some(0)]);
    "rerank/answer-tei.llamacpp.json", (true, true, [None, None, Some(0)]);
    "rerank/answer.vllm.json", (true, true, [Some(33), Some(0), Some(0)]);
    "rerank/answer.sglang.json", (true, true, [None, None, Some(0)]);
    "rerank/answer-decoder.sglang.json", (true, true, [None, None, Some(0)]);
    "rerank/answer.localai.json", (true, true, [Some(33), Some(0), Some(0)]);
};

#[test]
fn the_meter_finds_in_each_servers_answers_what_is_in_them() {
    check_fixtures(&Lists, FIXTURES);
}
