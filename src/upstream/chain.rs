//! The chain, read over CometBFT's RPC: its status and its newest blocks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Endpoint, UpstreamError, json, unreadable};
use crate::model::Timestamp;

#[derive(Debug)]
pub(crate) struct Chain {
    pub(super) at: Endpoint,
    pub(super) timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChainStatus {
    pub(crate) network: String,
    pub(crate) latest_block_height: i64,
    pub(crate) latest_block_time: Timestamp,
    pub(crate) catching_up: bool,
}

/// The newest blocks, newest first, and the height of the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    pub(crate) blocks: Vec<Block>,
    pub(crate) total: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Block {
    height: i64,
    hash: String,
    miner: String,
    timestamp: Timestamp,
    tx_count: i64,
}

impl Chain {
    /// Blocks in one answer of `/blockchain`; CometBFT never gives more.
    const PAGE: usize = 20;

    pub(crate) async fn status(&self) -> Result<ChainStatus, UpstreamError> {
        self.at.guarded(self.fetch_status()).await
    }

    /// The newest `limit` blocks, by one call for every 20.
    pub(crate) async fn blocks(&self, limit: usize) -> Result<Blocks, UpstreamError> {
        self.at.guarded(self.fetch_blocks(limit)).await
    }

    pub(super) async fn probe(self: Arc<Self>) -> Result<(), UpstreamError> {
        self.fetch_status().await.map(drop)
    }

    async fn fetch_status(&self) -> Result<ChainStatus, UpstreamError> {
        let answer = self.ask("/status").await?;
        parse_status(&self.at.success(answer)?)
    }

    async fn fetch_blocks(&self, limit: usize) -> Result<Blocks, UpstreamError> {
        let page = self.fetch_page("").await?;
        let (mut blocks, total, mut is_full) = (page.blocks, page.total, page.is_full);
        while is_full
            && blocks.len() < limit
            && let Some(highest @ 1..) = blocks.last().map(|lowest| lowest.height - 1)
        {
            let count = (limit - blocks.len()).min(Self::PAGE) as i64;
            let lowest = (highest - count + 1).max(1);
            let query = format!("?minHeight={lowest}&maxHeight={highest}");
            let page = self.fetch_page(&query).await?;
            is_full = page.is_full;
            blocks.extend(page.blocks);
        }
        blocks.truncate(limit);
        let is_sorted = blocks.is_sorted_by(|higher, lower| higher.height > lower.height);
        if !is_sorted || blocks.first().is_some_and(|newest| newest.height > total) {
            return Err(unreadable(
                "the blocks do not descend from the chain's height",
            ));
        }
        Ok(Blocks { blocks, total })
    }

    /// A page of `/blockchain`, empty where the node has no such block: none was made yet, or those were pruned. CometBFT answers
    /// that with status 500.
    async fn fetch_page(&self, query: &str) -> Result<Page, UpstreamError> {
        let answer = self.ask(&format!("/blockchain{query}")).await?;
        match names_no_block(answer.body()) {
            true => Ok(Page::default()),
            false => parse_blocks(&self.at.success(answer)?),
        }
    }

    async fn ask(&self, path: &str) -> Result<Response<Bytes>, UpstreamError> {
        let request = self.at.request(path, None)?;
        self.at.client.fetch_any(request, self.timeout).await
    }
}

/// Blocks of one answer to `/blockchain`.
#[derive(Default)]
struct Page {
    blocks: Vec<Block>,
    total: i64,
    /// Whether there may be more below.
    is_full: bool,
}

fn parse_blocks(body: &[u8]) -> Result<Page, UpstreamError> {
    let answer: Blockchain = parse_result(body)?;
    // Go writes an empty list as null, and so a block that was pruned meanwhile.
    let metas = answer.block_metas.unwrap_or_default();
    let is_full = metas.len() >= Chain::PAGE;
    let blocks = metas.into_iter().flatten().map(|meta| Block {
        height: meta.header.height,
        hash: meta.block_id.hash,
        miner: meta.header.proposer_address,
        timestamp: meta.header.time,
        tx_count: meta.num_txs,
    });
    Ok(Page {
        blocks: blocks.collect(),
        total: answer.last_height,
        is_full,
    })
}

fn parse_status(body: &[u8]) -> Result<ChainStatus, UpstreamError> {
    let Status {
        node_info,
        sync_info,
    } = parse_result(body)?;
    Ok(ChainStatus {
        network: node_info.network,
        latest_block_height: sync_info.latest_block_height,
        latest_block_time: sync_info.latest_block_time,
        catching_up: sync_info.catching_up,
    })
}

/// The result in an answer of JSON-RPC, or the answer itself: Tendermint 0.35 and Sei do not wrap it.
fn parse_result<T: DeserializeOwned>(body: &[u8]) -> Result<T, UpstreamError> {
    let answer: Answer = json::read(body)?;
    if answer.jsonrpc.is_some_and(|version| version != "2.0") {
        return Err(unreadable("not JSON-RPC 2.0"));
    }
    if let Some(error) = answer.error {
        return Err(UpstreamError::Reported(error.get().to_owned()));
    }
    match answer.result {
        Some(result) => json::read(result.get().as_bytes()),
        None => json::read(body),
    }
}

/// Whether an answer is the error for a range without a block: CometBFT "min height 1 can't be greater than max height 0", "height
/// 9 is not available, lowest height is 20".
fn names_no_block(body: &[u8]) -> bool {
    const RANGES: [&[&str]; 3] = [
        &["min height", "max height"],
        &["lowest height is"],
        &["no such range"],
    ];
    let error = json::read::<Answer>(body)
        .ok()
        .and_then(|answer| answer.error);
    error.is_some_and(|error| {
        let words = error.get().to_lowercase();
        let mut ranges = RANGES.iter();
        ranges.any(|range| range.iter().all(|part| words.contains(part)))
    })
}

#[derive(Deserialize)]
struct Answer {
    jsonrpc: Option<String>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

/// What is read of `/status`.
#[derive(Deserialize)]
struct Status {
    node_info: NodeInfo,
    sync_info: SyncInfo,
}

#[derive(Deserialize)]
struct NodeInfo {
    network: String,
}

#[derive(Deserialize)]
struct SyncInfo {
    #[serde(deserialize_with = "integer")]
    latest_block_height: i64,
    latest_block_time: Timestamp,
    catching_up: bool,
}

/// What is read of `/blockchain`.
#[derive(Deserialize)]
struct Blockchain {
    #[serde(deserialize_with = "integer")]
    last_height: i64,
    block_metas: Option<Vec<Option<BlockMeta>>>,
}

#[derive(Deserialize)]
struct BlockMeta {
    block_id: BlockId,
    header: Header,
    #[serde(deserialize_with = "integer")]
    num_txs: i64,
}

#[derive(Deserialize)]
struct BlockId {
    hash: String,
}

#[derive(Deserialize)]
struct Header {
    #[serde(deserialize_with = "integer")]
    height: i64,
    time: Timestamp,
    proposer_address: String,
}

/// CometBFT writes 64-bit numbers as texts, some servers as numbers; none here is negative.
fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(from)?;
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let number = number.filter(|number| *number >= 0);
    number.ok_or_else(|| D::Error::custom(format_args!("{value} is no height or count")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUS: &[u8] = include_bytes!("../../tests/it/fixtures/cometbft-status.json");
    const BLOCKCHAIN: &[u8] = include_bytes!("../../tests/it/fixtures/cometbft-blockchain.json");

    /// Reads a page as both answers; no number in what is accepted is negative.
    fn read(page: &[u8]) -> (bool, bool) {
        let (status, blocks) = (parse_status(page), parse_blocks(page));
        if let Ok(status) = &status {
            assert!(status.latest_block_height >= 0);
        }
        if let Ok(page) = &blocks {
            let is_valid = |block: &Block| block.height >= 0 && block.tx_count >= 0;
            assert!(page.total >= 0 && page.blocks.iter().all(is_valid));
        }
        (status.is_ok(), blocks.is_ok())
    }

    #[test]
    fn each_page_is_read_as_what_it_is() {
        assert_eq!(read(STATUS), (true, false));
        assert_eq!(read(BLOCKCHAIN), (false, true));
    }

    #[test]
    fn an_answer_is_read_in_json_rpcs_wrapper_and_without_it() {
        let status: Value = serde_json::from_slice(STATUS).unwrap();
        let bare = status["result"].to_string();
        assert_eq!(parse_status(bare.as_bytes()), parse_status(STATUS));
        let old = serde_json::json!({ "id": -1, "result": status["result"] }).to_string();
        assert_eq!(parse_status(old.as_bytes()), parse_status(STATUS));
        for version in ["1.0", "99999999"] {
            let other = serde_json::json!({ "jsonrpc": version, "result": status["result"] });
            assert!(parse_status(other.to_string().as_bytes()).is_err());
        }
    }

    #[test]
    fn an_error_for_a_range_without_a_block_is_no_failure() {
        for words in [
            "min height 1 can't be greater than max height 0",
            "invalid request: min height 91 can't be greater than max height 90",
            "height 9 is not available, lowest height is 20",
            "no such range",
        ] {
            for error in [
                serde_json::json!({ "code": -32603, "message": "Internal error", "data": words }),
                serde_json::json!({ "code": -32600, "message": words }),
            ] {
                let body = serde_json::json!({ "jsonrpc": "2.0", "id": -1, "error": error });
                assert!(names_no_block(body.to_string().as_bytes()), "{body}");
            }
        }
        for body in [
            r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"Internal error","data":"database is closed"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32603,"data":"height 9 must be less than or equal to the current blockchain height 5"}}"#,
            r#"{"jsonrpc":"2.0","error":null,"result":"min height max height"}"#,
            "<html>min height 1 can't be greater than max height 0</html>",
            "",
        ] {
            assert!(!names_no_block(body.as_bytes()), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_page_makes_the_reader_panic(page in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&page);
        }

        #[test]
        fn a_real_page_with_wrong_bytes_in_it_is_read_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), end in any::<prop::sample::Index>()) {
            for page in [STATUS, BLOCKCHAIN] {
                let mut page = page.to_vec();
                for (at, byte) in &changes {
                    let at = at.index(page.len());
                    page[at] = *byte;
                }
                read(&page);
                read(&page[..end.index(page.len())]);
            }
        }

        #[test]
        fn heights_are_whole_numbers_as_a_text_or_as_a_number(height in any::<i64>()) {
            let page = String::from_utf8(STATUS.to_vec()).unwrap();
            let (before, rest) = page.split_once("\"latest_block_height\": \"").unwrap();
            let (_, after) = rest.split_once('"').unwrap();
            for written in [format!("\"{height}\""), height.to_string()] {
                let page = format!("{before}\"latest_block_height\": {written}{after}");
                let read = parse_status(page.as_bytes()).ok();
                prop_assert_eq!(read.map(|read| read.latest_block_height), (height >= 0).then_some(height));
            }
        }
    }
}
