use std::time::Duration;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};

use super::{Endpoint, UpstreamError, get, guarded, join};
use crate::model::Timestamp;

/// The chain, read over CometBFT's RPC.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) at: Endpoint,
    timeout: Duration,
}

/// What the chain says of itself.
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
    /// Bytes of an answer: 20 block metas are about 30 KB.
    const MOST: usize = 1 << 20;

    pub(crate) fn new(at: Endpoint, timeout: Duration) -> Self {
        Self { at, timeout }
    }

    /// Looks whether a chain answers at this address, and remembers it if so.
    pub(crate) async fn look(&self) -> bool {
        self.at.mark_present(self.ask_status().await.is_ok())
    }

    pub(crate) async fn status(&self) -> Result<ChainStatus, UpstreamError> {
        guarded(&self.at.breaker, self.ask_status()).await
    }

    /// The newest `limit` blocks, by one call for every 20.
    pub(crate) async fn blocks(&self, limit: usize) -> Result<Blocks, UpstreamError> {
        guarded(&self.at.breaker, self.ask_blocks(limit)).await
    }

    async fn ask_status(&self) -> Result<ChainStatus, UpstreamError> {
        let status: wire::Status = self.call("/status").await?;
        Ok(ChainStatus {
            network: status.node_info.network,
            latest_block_height: status.sync_info.latest_block_height,
            latest_block_time: status.sync_info.latest_block_time,
            catching_up: status.sync_info.catching_up,
        })
    }

    async fn ask_blocks(&self, limit: usize) -> Result<Blocks, UpstreamError> {
        let mut page: wire::Blockchain = self.call("/blockchain").await?;
        let total = page.last_height;
        let mut blocks = Vec::with_capacity(limit);
        loop {
            let full = page.block_metas.len() >= Self::PAGE;
            for meta in page.block_metas {
                let height = meta.header.height;
                let above = blocks.last().map(|last: &Block| last.height);
                if height > total || above.is_some_and(|above| above <= height) {
                    return Err(UpstreamError::Unreadable(
                        "the blocks do not go down from the chain's height".to_owned(),
                    ));
                }
                blocks.push(Block {
                    height,
                    hash: meta.block_id.hash,
                    miner: meta.header.proposer_address,
                    timestamp: meta.header.time,
                    tx_count: meta.num_txs,
                });
            }
            blocks.truncate(limit);
            let lowest = blocks.last().map_or(0, |block| block.height);
            if blocks.len() == limit || !full || lowest <= 1 {
                return Ok(Blocks { blocks, total });
            }
            let (highest, count) = (lowest - 1, (limit - blocks.len()).min(Self::PAGE) as i64);
            let path = format!(
                "/blockchain?minHeight={}&maxHeight={highest}",
                (highest - count + 1).max(1)
            );
            page = self.call(&path).await?;
        }
    }

    async fn call<T: DeserializeOwned>(&self, path: &str) -> Result<T, UpstreamError> {
        let body = self
            .at
            .client
            .fetch(
                get(&join(&self.at.url, path)?, None)?,
                self.timeout,
                Self::MOST,
            )
            .await?;
        let answer: wire::Answer<T> = serde_json::from_slice(&body)
            .map_err(|error| UpstreamError::Unreadable(error.to_string()))?;
        if answer.version != "2.0" {
            return Err(UpstreamError::Unreadable("not JSON-RPC 2.0".to_owned()));
        }
        Ok(answer.result)
    }
}

/// CometBFT's own shapes (its RPC specification); 64-bit numbers come as texts, from some servers as numbers.
mod wire {
    use super::*;

    #[derive(serde::Deserialize)]
    pub(super) struct Answer<T> {
        #[serde(rename = "jsonrpc")]
        pub(super) version: String,
        pub(super) result: T,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct Status {
        pub(super) node_info: NodeInfo,
        pub(super) sync_info: SyncInfo,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct NodeInfo {
        pub(super) network: String,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct SyncInfo {
        #[serde(deserialize_with = "integer")]
        pub(super) latest_block_height: i64,
        #[serde(deserialize_with = "time")]
        pub(super) latest_block_time: Timestamp,
        pub(super) catching_up: bool,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct Blockchain {
        #[serde(deserialize_with = "integer")]
        pub(super) last_height: i64,
        pub(super) block_metas: Vec<Meta>,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct Meta {
        pub(super) block_id: BlockId,
        pub(super) header: Header,
        #[serde(deserialize_with = "integer")]
        pub(super) num_txs: i64,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct BlockId {
        pub(super) hash: String,
    }

    #[derive(serde::Deserialize)]
    pub(super) struct Header {
        #[serde(deserialize_with = "integer")]
        pub(super) height: i64,
        #[serde(deserialize_with = "time")]
        pub(super) time: Timestamp,
        pub(super) proposer_address: String,
    }

    fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let number = match Written::deserialize(deserializer)? {
            Written::Number(number) => number,
            Written::Text(text) => text.parse().map_err(D::Error::custom)?,
        };
        if number < 0 {
            Err(D::Error::custom("a negative number"))
        } else {
            Ok(number)
        }
    }

    fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUS: &[u8] = include_bytes!("../../tests/it/fixtures/cometbft-status.json");
    const BLOCKCHAIN: &[u8] = include_bytes!("../../tests/it/fixtures/cometbft-blockchain.json");

    /// Reads a page as both answers; whatever it says, no number in it is negative.
    fn read(page: &[u8]) -> (bool, bool) {
        let status = serde_json::from_slice::<wire::Answer<wire::Status>>(page);
        let blocks = serde_json::from_slice::<wire::Answer<wire::Blockchain>>(page);
        if let Ok(status) = &status {
            assert!(status.result.sync_info.latest_block_height >= 0);
        }
        if let Ok(blocks) = &blocks {
            assert!(blocks.result.last_height >= 0);
            let metas = blocks.result.block_metas.iter();
            assert!(
                metas
                    .clone()
                    .all(|meta| meta.header.height >= 0 && meta.num_txs >= 0)
            );
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
                let read = serde_json::from_str::<wire::Answer<wire::Status>>(&page);
                prop_assert_eq!(read.ok().map(|read| read.result.sync_info.latest_block_height), (height >= 0).then_some(height));
            }
        }
    }
}
