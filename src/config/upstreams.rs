//! The sections of the upstreams: inference servers and their adapters, the chain, the miner.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Config;
use super::sections::{COUNT, TIMEOUT};
use super::validate::{
    LABEL, is_label, is_name, wrong_address, wrong_base, wrong_inference_base, wrong_price,
};
use crate::model::guard::wrong_pass;
use crate::model::section::section;
use crate::model::{Credits, Price, Wallet, units};

/// What an inference server speaks, in its [`InferenceConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InferenceKind {
    /// `POST /v1/chat/completions`: llama.cpp, Ollama, vLLM and others.
    OpenAi,
    /// `POST /chat` of an R3MES serving node.
    R3mes,
}

section! {
    /// One inference server.
    InferenceConfig {
        /// Its name in health, metrics and log.
        name: String = String::new(), where |name| is_name(name) => "must be letters, digits, dots, dashes or underscores";
        /// What it speaks.
        kind: InferenceKind = InferenceKind::OpenAi;
        /// `http://host:port` or `https://host:port`, without the `/v1` of OpenAI's API.
        url: String = String::new(), check |url| wrong_inference_base(url);
        /// The model to ask for; where empty, the first that `/v1/models` names of those for the endpoint.
        model: String = String::new(), where |name| name.is_empty() || is_label(name) => LABEL;
        /// Chats in flight at it; where not set, as many as llama.cpp says it has slots, else `chat.in_flight`.
        in_flight: Option<usize> = None, where |slots| slots.is_none_or(|slots| COUNT.contains(&slots)) => "must be from 1 to 1000000";
        /// The adapters it serves; where empty, the default adapter, and its models by their own names.
        adapters: Vec<String> = Vec::new(), each is_label => LABEL;
        /// Members of requests that it gets besides those that every server gets; `*`: all that are not refused in any case.
        pass: Vec<String> = Vec::new(), check |names| wrong_pass(names);
        /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
        ca_file: Option<PathBuf> = None;
        /// A file whose first line is its Bearer token; read at start.
        api_key_file: Option<PathBuf> = None;
    }
}

impl InferenceConfig {
    /// A server of a kind at `url`, with the default of all else.
    #[must_use]
    pub fn new(name: &str, kind: InferenceKind, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            url: url.to_owned(),
            ..Self::default()
        }
    }
}

section! {
    /// An adapter: what a client asks for as a model. What is not set is as in `[chat]`.
    AdapterConfig {
        /// A message without an adapter that holds one of these words goes to this one.
        keywords: Vec<String> = Vec::new();
        /// Other names of it in requests, `gpt-4o-mini`.
        aliases: Vec<String> = Vec::new();
        /// What a request costs: a number of credits, or a table of credits for a million tokens.
        price: Option<Price> = None, check |price| price.as_ref().and_then(wrong_price);
        /// Tokens of an answer at most, unless the client asks for less.
        max_output_tokens: Option<u32> = None, where |most| most != &Some(0) => "must be from 1 to 4294967295";
        /// Tokens of a request and its answer at most.
        context_length: Option<u32> = None, where |most| most != &Some(0) => "must be from 1 to 4294967295";
        /// Tokens of a picture at most.
        media_tokens: Option<u32> = None, where |most| most != &Some(0) => "must be from 1 to 4294967295";
    }
}

/// What a request to an adapter costs at most, and is charged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The price.
    pub price: Price,
    /// Tokens of an answer at most; `None` where they have no price and no limit is set.
    pub max_output_tokens: Option<u32>,
    /// Tokens of a request and its answer at most, where that is set.
    pub context_length: Option<u32>,
    /// Tokens of a picture at most.
    pub media_tokens: u32,
    /// Tokens that a model's template adds to a prompt at most.
    pub prompt_overhead: u32,
}

impl Terms {
    /// Tokens of prompts at most, which have so many bytes of text and pictures together: no tokenizer makes more of a text than
    /// it has bytes, and each of them fits into the context.
    #[must_use]
    pub fn prompt_bound(&self, prompts: u32, bytes: usize, pictures: usize) -> i64 {
        let tokens = pictures
            .saturating_mul(self.media_tokens as usize)
            .saturating_add(bytes)
            .saturating_add(self.prompt_overhead as usize);
        let most = self.context_length.map_or(usize::MAX, |most| {
            (most as usize).saturating_mul(prompts as usize)
        });
        i64::try_from(tokens.min(most)).unwrap_or(i64::MAX)
    }
}

impl Config {
    /// The terms of an adapter.
    #[must_use]
    pub fn terms(&self, adapter: &str) -> Terms {
        const MAX_OUTPUT_TOKENS: u32 = 4096;
        let (chat, own) = (&self.chat, self.adapters.get(adapter));
        let price = own.and_then(|own| own.price).unwrap_or(chat.price);
        let own_limit = own.and_then(|own| own.max_output_tokens);
        let is_priced = price.completion > Credits::ZERO;
        let limit = own_limit.or(chat.max_output_tokens);
        Terms {
            price,
            max_output_tokens: limit.or(is_priced.then_some(MAX_OUTPUT_TOKENS)),
            context_length: own
                .and_then(|own| own.context_length)
                .or(chat.context_length),
            media_tokens: own
                .and_then(|own| own.media_tokens)
                .unwrap_or(chat.media_tokens),
            prompt_overhead: chat.prompt_overhead,
        }
    }
}

section! {
    /// The chain.
    ChainConfig {
        /// The CometBFT RPC, `http://host:port`; where not set, discovery tries the conventional one.
        rpc: Option<String> = None, check |url| url.as_deref().and_then(wrong_base);
        /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
        ca_file: Option<PathBuf> = None;
        /// For one answer of the chain.
        timeout: Duration as "units::duration" = Duration::from_secs(2), in TIMEOUT;
        /// How old an answer may be that is served while the chain is down.
        stale_if_error: Duration as "units::duration" = Duration::from_secs(3600);
        /// How old the newest block may be before the chain counts as halted.
        max_block_age: Duration as "units::duration" = Duration::from_secs(60), in TIMEOUT;
    }
}

/// What a miner's statistics page looks like, in its [`MinerConfig`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MinerKind {
    /// `/stats` of the R3MES miner engine.
    R3mes,
    /// `/2/summary` of XMRig and of miners with the same summary, in hashes a second, or of xmrig-proxy, in kilohashes.
    Xmrig,
}

section! {
    /// The miner on this machine.
    MinerConfig {
        /// Its statistics page, without a path the usual one of its kind; where not set, discovery tries the conventional one.
        url: Option<String> = None, check |url| url.as_deref().and_then(wrong_address);
        /// For https (feature `tls`): a PEM file of the only authorities to trust; where not set, those that browsers trust.
        ca_file: Option<PathBuf> = None;
        /// What the page looks like.
        kind: MinerKind = MinerKind::R3mes;
        /// Whose miner it is; without a wallet nothing can be recorded.
        wallet: Option<Wallet> = None;
        /// Its name among the wallet's miners.
        worker: String = "local".to_owned(),
            where |name| is_name(name) && name.len() <= 64 => "must be 1 to 64 letters, digits, dots, dashes or underscores";
        /// How often the page is polled.
        every: Duration as "units::duration" = Duration::from_secs(10), in Duration::from_secs(1)..;
        /// A file whose first line is the page's Bearer token.
        token_file: Option<PathBuf> = None;
    }
}
