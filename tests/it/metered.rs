//! Chats with random limits, whose server reports a random usage or none, and what each of them must be charged.

use std::sync::Arc;

use hyper::Method;
use r3mes_edge::config::ChatConfig;
use r3mes_edge::model::{Credits, Price, Tokens};
use r3mes_edge::store::{Estimated, LedgerEntry};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::simulation::Random;
use crate::support::{Scripted, Seen, TestServer, Upstream, W1, config_with_inference, wallet};

/// The bounds of every request. Half of the prompts are larger, as no server may be trusted to keep them.
const MAX_OUTPUT_TOKENS: u32 = 60;
const CONTEXT_LENGTH: u32 = 100;

/// A price in micro-credits: for a request, and for a million tokens of a prompt, of a cached one, of an answer.
pub(crate) fn price([request, prompt, cached_prompt, completion]: [i64; 4]) -> Price {
    let mut price = Price::per_request(Credits::from_micro(request));
    price.prompt = Credits::from_micro(prompt);
    price.cached_prompt = Credits::from_micro(cached_prompt);
    price.completion = Credits::from_micro(completion);
    price
}

/// Sets the price of a request and the bounds.
pub(crate) fn configure(chat: &mut ChatConfig, price: Price) {
    chat.price = price;
    chat.max_output_tokens = Some(MAX_OUTPUT_TOKENS);
    chat.context_length = Some(CONTEXT_LENGTH);
}

/// The same as lines of `[chat]`.
pub(crate) fn settings(price: &Price) -> String {
    let Price {
        request,
        prompt,
        cached_prompt,
        completion,
        ..
    } = price;
    format!(
        "price = {{ request = {request}, prompt = {prompt}, cached_prompt = {cached_prompt}, completion = {completion} }}\n\
         max_output_tokens = {MAX_OUTPUT_TOKENS}\ncontext_length = {CONTEXT_LENGTH}"
    )
}

/// A chat; its usage is drawn from its number, which its message ends with, so that its server knows it too.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Metered {
    number: u64,
    pub(crate) streams: bool,
    pub(crate) choices: u64,
    max_tokens: u64,
}

impl Metered {
    /// One that leaves its limits to the server.
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            streams: true,
            choices: 1,
            max_tokens: MAX_OUTPUT_TOKENS.into(),
        }
    }

    /// One with limits of its own, a few above the server's. Several choices have a price only by their tokens.
    pub(crate) fn with_limits(number: u64, streams: bool, price: &Price) -> Self {
        let mut random = Random(!number);
        let choices = if price.is_by_tokens() { 3 } else { 1 };
        Self {
            number,
            streams,
            choices: 1 + random.below(choices),
            max_tokens: 1 + random.below(80),
        }
    }

    pub(crate) fn message(&self, text: &str) -> String {
        format!("{text} {}", self.number)
    }

    /// The request.
    pub(crate) fn body(&self, text: &str) -> String {
        let messages = json!([{ "role": "user", "content": self.message(text) }]);
        json!({ "stream": self.streams, "messages": messages, "max_tokens": self.max_tokens, "n": self.choices })
            .to_string()
    }

    /// The request that a server got, and the text of its message.
    fn read(seen: &Seen) -> (Self, String) {
        let body: Value = serde_json::from_str(&seen.body).unwrap();
        let (text, number) = body["messages"][0]["content"]
            .as_str()
            .and_then(|content| content.rsplit_once(' '))
            .unwrap();
        let read = Self {
            number: number.parse().unwrap(),
            streams: body["stream"] == true,
            choices: body["n"].as_u64().unwrap_or(1),
            max_tokens: body["max_tokens"].as_u64().unwrap(),
        };
        (read, text.to_owned())
    }

    /// The tokens of an answer at most.
    fn most(&self) -> u64 {
        self.choices * self.max_tokens.min(MAX_OUTPUT_TOKENS.into())
    }

    /// The tokens that its server reports, if any, and how that is written.
    fn usage(&self) -> (Option<Tokens>, Option<Value>) {
        let mut random = Random(self.number);
        let prompt = 1 + random.below(2 * u64::from(CONTEXT_LENGTH));
        let cached = random.below(prompt + 1);
        let completion = 1 + random.below(self.most());
        let completion = match random.below(10) {
            0 => return (None, None),
            1 => return (None, Some(Value::Null)),
            2 => {
                return (
                    None,
                    Some(json!({ "prompt_tokens": 0, "completion_tokens": 0 })),
                );
            }
            3 => {
                return (
                    None,
                    Some(json!({ "prompt_tokens": -7, "completion_tokens": -7 })),
                );
            }
            4 | 5 => self.most() + random.below(1_000_000),
            _ => completion,
        };
        let tokens = Tokens {
            prompt: prompt as i64,
            cached: cached as i64,
            completion: completion as i64,
        };
        let details = json!({ "cached_tokens": cached });
        let usage = json!({ "prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details });
        (Some(tokens), Some(usage))
    }

    /// Its answer. The usage of a stream comes beside the content, beside the finish or after it.
    fn answer(&self) -> Scripted {
        let (_, usage) = self.usage();
        let with_usage = |mut event: Value, is_here: bool| {
            if let (Some(usage), true) = (&usage, is_here) {
                event["usage"] = usage.clone();
            }
            event
        };
        if !self.streams {
            let choice = |index| json!({ "index": index, "message": { "content": "some words" }, "finish_reason": "stop" });
            let choices: Vec<_> = (0..self.choices).map(choice).collect();
            let body = with_usage(json!({ "choices": choices }), true);
            return Scripted::whole(200, body.to_string());
        }
        let (scripted, frames) = Scripted::held();
        let mut events = Vec::new();
        // Beside a choice it would be that of the choice alone.
        let place = if self.choices > 1 { 2 } else { self.number % 3 };
        for index in 0..self.choices {
            let is_last = index + 1 == self.choices;
            let word = json!({ "index": index, "delta": { "content": "some " } });
            let finish = json!({ "index": index, "delta": {}, "finish_reason": "stop" });
            events.push(with_usage(
                json!({ "choices": [word] }),
                is_last && place == 0,
            ));
            events.push(with_usage(
                json!({ "choices": [finish] }),
                is_last && place == 1,
            ));
        }
        events.push(with_usage(json!({ "choices": [] }), place == 2));
        for event in events {
            frames.send(format!("data: {event}\n\n"));
        }
        frames.send("data: [DONE]\n\n");
        scripted
    }

    /// An answer that ends with its first word, without a finish: cleanly, with its connection, or when its reader leaves.
    fn broken(&self, waits: bool) -> Scripted {
        let (scripted, frames) = Scripted::held();
        let word = json!([{ "index": 0, "delta": { "content": "some " } }]);
        let event = match self.usage() {
            (_, Some(usage)) if self.number.is_multiple_of(3) => {
                json!({ "choices": word, "usage": usage })
            }
            _ => json!({ "choices": word }),
        };
        frames.send(format!("data: {event}\n\n"));
        if waits {
            tokio::spawn(async move { frames.reader_left().await });
        } else if self.number.is_multiple_of(2) {
            tokio::spawn(async move {
                // What is not sent by then is lost with the connection.
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                frames.cut();
            });
        }
        scripted
    }

    /// The charge of it must be that of its tokens, as they were reported where it `ended` well, and at most what was held.
    pub(crate) fn check(&self, price: &Price, entry: &LedgerEntry, ended: bool) {
        let charged = -entry.amount.micro();
        if !price.is_by_tokens() {
            assert_eq!(charged, price.request.micro(), "{self:?} {entry:?}");
            return;
        }
        let detail = entry.detail.as_ref().unwrap();
        let tokens = Tokens {
            prompt: detail.prompt_tokens.unwrap(),
            cached: detail.cached_tokens.unwrap(),
            completion: detail.completion_tokens.unwrap(),
        };
        let expected = cost(price, tokens).min(self.held(price));
        assert_eq!(charged, expected, "{self:?} {entry:?}");
        if ended && (self.streams || self.choices == 1) {
            let (reported, _) = self.usage();
            assert_eq!(detail.estimated.is_none(), reported.is_some(), "{entry:?}");
            assert!(
                reported.is_none_or(|reported| reported == tokens),
                "{entry:?}"
            );
            let cause = detail.estimated.unwrap_or(Estimated::NoUsage);
            assert_eq!(cause, Estimated::NoUsage, "{entry:?}");
        }
    }

    /// What is held for it, in micro-credits.
    pub(crate) fn held(&self, price: &Price) -> i64 {
        let dearer = price.prompt.max(price.cached_prompt).micro();
        let tokens =
            i64::from(CONTEXT_LENGTH) * dearer + self.most() as i64 * price.completion.micro();
        price.request.micro() + rounded_up(tokens)
    }
}

fn rounded_up(tokens: i64) -> i64 {
    (tokens + 999_999) / 1_000_000
}

/// What these tokens cost, in micro-credits.
fn cost(price: &Price, used: Tokens) -> i64 {
    let tokens = (used.prompt - used.cached) * price.prompt.micro()
        + used.cached * price.cached_prompt.micro()
        + used.completion * price.completion.micro();
    price.request.micro() + rounded_up(tokens)
}

/// A server of it: the message says what it does, its number what it reports.
pub(crate) fn answer(seen: &Seen) -> Scripted {
    if seen.path != "/v1/chat/completions" {
        return Scripted::whole(404, "");
    }
    let (chat, text) = Metered::read(seen);
    match text.as_str() {
        "refuse it" => Scripted::whole(500, "no"),
        "break off" | "never end" if chat.streams => chat.broken(text == "never end"),
        "say nothing" | "never end" => Scripted::silent(),
        _ => chat.answer(),
    }
}

/// The charges of a wallet's newest entries, down to that with the id `after`.
pub(crate) async fn charges(
    store: &dyn r3mes_edge::Repository,
    of: &str,
    after: i64,
) -> Vec<LedgerEntry> {
    let (mut charges, mut before) = (Vec::new(), None);
    loop {
        let (_, page) = store.ledger(wallet(of), before, 500).await.unwrap();
        before = page.last().map(|last| last.id);
        charges.extend(
            page.into_iter()
                .filter(|entry| entry.id > after && entry.reason == "chat"),
        );
        if before.is_none_or(|before| before <= after) {
            return charges;
        }
    }
}

/// Each task gives back what it was charged, so that the wallet always has what its tasks may hold together, and no micro-credit
/// more: each 402 is a false one. A round has a price; METERED_ROUNDS sets more chats of each task.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_that_its_wallet_can_pay_is_refused_while_charges_by_tokens_race() {
    let rounds = std::env::var("METERED_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
    for (at, price) in [
        [7, 400_000, 100_000, 1_600_000],
        [0, 2_500_000_001, 3, 10_000_000_007],
    ]
    .map(price)
    .into_iter()
    .enumerate()
    {
        let upstream = Upstream::inference(answer).await;
        let mut config = config_with_inference("openai", &upstream);
        config.inference[0].model = "tiny".to_owned();
        config.chat.in_flight = 16;
        configure(&mut config.chat, price);
        let server = Arc::new(TestServer::start(config).await);
        let caller = server.payer(W1, 0).await;
        let chats = |task: u64| {
            (0..rounds).map(move |round| {
                let number = at as u64 * 1_000_000 + task * 10_000 + round;
                Metered::with_limits(number, round % 2 == 0, &price)
            })
        };
        // What each task may have held at one time.
        let most = |task| chats(task).map(|chat| chat.held(&price)).max().unwrap();
        let all = (0..16).map(most).sum();
        server.grant_micro(W1, all).await;
        let mut tasks = JoinSet::new();
        for task in 0..16 {
            let (server, caller) = (Arc::clone(&server), caller.clone());
            let chats: Vec<_> = chats(task).collect();
            tasks.spawn(async move {
                let (mut ended, mut last) = (Vec::new(), 0);
                for chat in chats {
                    let path = "/v1/chat/completions";
                    let answer = caller
                        .send(Method::POST, path, &[], chat.body("hello"))
                        .await;
                    assert_eq!(answer.status, 200, "{chat:?}: {answer:?}");
                    let id = answer.header("x-request-id").to_owned();
                    let entries = charges(&*server.store, W1, last).await;
                    let entry = entries.into_iter().find(|entry| {
                        let detail = entry.detail.as_ref().unwrap();
                        detail.request_id == id
                    });
                    // It is there when the client has read the end.
                    let entry = entry.unwrap();
                    last = entry.id;
                    chat.check(&price, &entry, true);
                    server.grant_micro(W1, -entry.amount.micro()).await;
                    ended.push(-entry.amount.micro());
                }
                ended
            });
        }
        let charged: Vec<i64> = tasks.join_all().await.concat();
        assert_eq!(charged.len() as u64, 16 * rounds);
        assert_eq!(server.balance(W1).await.micro(), all);
        assert_eq!(server.store.gauges().holds, 0);
        server.assert_ledger_adds_up().await;
    }
}
