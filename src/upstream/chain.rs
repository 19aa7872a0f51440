//! The chain, read over CometBFT's RPC: its status and its newest blocks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::{Endpoint, UpstreamError, unreadable};
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
        parse_status(&self.call("/status").await?)
    }

    async fn fetch_blocks(&self, limit: usize) -> Result<Blocks, UpstreamError> {
        let Blocks { mut blocks, total } = parse_blocks(&self.call("/blockchain").await?)?;
        let mut is_full = blocks.len() >= Self::PAGE;
        while is_full
            && blocks.len() < limit
            && let Some(highest @ 1..) = blocks.last().map(|lowest| lowest.height - 1)
        {
            let count = (limit - blocks.len()).min(Self::PAGE) as i64;
            let lowest = (highest - count + 1).max(1);
            let path = format!("/blockchain?minHeight={lowest}&maxHeight={highest}");
            let page = parse_blocks(&self.call(&path).await?)?.blocks;
            is_full = page.len() >= Self::PAGE;
            blocks.extend(page);
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

    async fn call(&self, path: &str) -> Result<Bytes, UpstreamError> {
        self.at.get(path, self.timeout).await
    }
}

/// Blocks and total of one answer to `/blockchain`.
fn parse_blocks(body: &[u8]) -> Result<Blocks, UpstreamError> {
    let page = parse_result(body)?;
    let metas = member(&page, "/block_metas", |metas| metas.as_array().cloned())?;
    let blocks = metas.iter().map(|meta| {
        Ok(Block {
            height: member(meta, "/header/height", integer)?,
            hash: member(meta, "/block_id/hash", text)?,
            miner: member(meta, "/header/proposer_address", text)?,
            timestamp: member(meta, "/header/time", time)?,
            tx_count: member(meta, "/num_txs", integer)?,
        })
    });
    Ok(Blocks {
        blocks: blocks.collect::<Result<_, _>>()?,
        total: member(&page, "/last_height", integer)?,
    })
}

fn parse_status(body: &[u8]) -> Result<ChainStatus, UpstreamError> {
    let status = parse_result(body)?;
    Ok(ChainStatus {
        network: member(&status, "/node_info/network", text)?,
        latest_block_height: member(&status, "/sync_info/latest_block_height", integer)?,
        latest_block_time: member(&status, "/sync_info/latest_block_time", time)?,
        catching_up: member(&status, "/sync_info/catching_up", Value::as_bool)?,
    })
}

/// The result in an answer of JSON-RPC.
fn parse_result(body: &[u8]) -> Result<Value, UpstreamError> {
    let mut answer: Value = serde_json::from_slice(body).map_err(unreadable)?;
    if answer["jsonrpc"] != "2.0" {
        return Err(unreadable("not JSON-RPC 2.0"));
    }
    Ok(answer["result"].take())
}

fn member<T>(
    page: &Value,
    pointer: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<T, UpstreamError> {
    let value = page.pointer(pointer).and_then(read);
    value.ok_or_else(|| unreadable(format_args!("{pointer} is missing or invalid")))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// CometBFT writes 64-bit numbers as texts, some servers as numbers; none here is negative.
fn integer(value: &Value) -> Option<i64> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    number.filter(|number| *number >= 0)
}

fn time(value: &Value) -> Option<Timestamp> {
    Timestamp::parse(value.as_str()?).ok()
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
