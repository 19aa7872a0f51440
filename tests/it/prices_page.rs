//! The page about prices is right: its configuration loads, its figures are what they are computed from, and its requests
//! are held for and charged as it says.

use std::collections::HashMap;

use hyper::Method;
use r3mes_edge::Config;
use r3mes_edge::model::Credits;
use serde_json::{Value, json};

use crate::support::{
    Answer, Caller, Scripted, Seen, TestServer, Upstream, W1, W2, W3, config, next_text,
};

const PAGE: &str = include_str!("../../.github/docs/prices.md");

/// The blocks of a language in a part of the page.
fn blocks<'a>(part: &'a str, language: &str) -> Vec<&'a str> {
    let blocks = part.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix(language));
    blocks.map(str::trim).collect()
}

/// An example: its request, and the figures of its tables, each checked against its computation.
struct Example {
    request: &'static str,
    figures: Vec<HashMap<&'static str, f64>>,
}

fn examples() -> Vec<Example> {
    let (_, parts) = PAGE.split_once("\n## Examples\n").unwrap();
    let (parts, _) = parts.split_once("\n## ").unwrap();
    let read = |part: &'static str| {
        let tables = part.split("| figure | computation | value |\n|---|---|---|\n");
        let rows = |table: &'static str| table.lines().map_while(|line| line.strip_prefix("| "));
        let table = |table| rows(table).map(figure).collect();
        Example {
            request: blocks(part, "json")[0],
            figures: tables.skip(1).map(table).collect(),
        }
    };
    parts.split("\n### ").skip(1).map(read).collect()
}

/// A row of a table.
fn figure(row: &'static str) -> (&'static str, f64) {
    let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
    let [name, computation, text] = cells[..] else {
        panic!("{row}");
    };
    let value: f64 = text.parse().unwrap();
    if computation != "reported" {
        let mut rest = computation;
        let exact = sum(&mut rest);
        assert_eq!(rest, "", "{row}");
        let rounded = match name {
            "held" | "charged" => (exact * 1e6 - 1e-6).ceil() / 1e6,
            "fits" | "prompt tokens" => exact.floor(),
            _ => exact.ceil(),
        };
        assert_eq!(rounded, value, "{row}");
    }
    (name, value)
}

/// Takes a word from the front of a computation, if it is there.
fn takes(rest: &mut &str, word: &str) -> bool {
    let after = rest.trim_start().strip_prefix(word);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

fn sum(rest: &mut &str) -> f64 {
    let mut value = product(rest);
    loop {
        if takes(rest, "+") {
            value += product(rest);
        } else if takes(rest, "-") {
            value -= product(rest);
        } else {
            return value;
        }
    }
}

fn product(rest: &mut &str) -> f64 {
    let mut value = term(rest);
    loop {
        if takes(rest, "*") {
            value *= term(rest);
        } else if takes(rest, "/") {
            value /= term(rest);
        } else {
            return value;
        }
    }
}

fn term(rest: &mut &str) -> f64 {
    for (name, choose) in [
        ("min(", f64::min as fn(f64, f64) -> f64),
        ("max(", f64::max),
    ] {
        if takes(rest, name) {
            let first = sum(rest);
            assert!(takes(rest, ","), "{rest}");
            let second = sum(rest);
            assert!(takes(rest, ")"), "{rest}");
            return choose(first, second);
        }
    }
    if takes(rest, "(") {
        let value = sum(rest);
        assert!(takes(rest, ")"), "{rest}");
        return value;
    }
    let text = rest.trim_start();
    // A comma between digits is part of a number, one before a space is not.
    let is_part = |at: usize, byte: u8| {
        byte.is_ascii_digit()
            || byte == b'.'
            || byte == b',' && text.as_bytes().get(at + 1) != Some(&b' ')
    };
    let end = text
        .bytes()
        .enumerate()
        .find(|(at, byte)| !is_part(*at, *byte));
    let (number, after) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    *rest = after;
    number.replace(',', "").parse().unwrap()
}

fn micro(credits: f64) -> i64 {
    (credits * 1e6).round() as i64
}

/// As credits are written.
fn written(credits: f64) -> String {
    Credits::from_micro(micro(credits)).to_string()
}

/// The server of the models: it reports what the tables say.
fn answer(seen: &Seen) -> Scripted {
    if seen.path != "/v1/chat/completions" {
        return Scripted::whole(404, "");
    }
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    let [whole, _, several] = &examples()[..] else {
        panic!("three examples");
    };
    let usage = |figures: &HashMap<_, f64>, completion| {
        let [prompt, cached] = ["prompt tokens", "cached tokens"].map(|name| figures[name] as i64);
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": { "cached_tokens": cached } })
    };
    if body["stream"] != true {
        let figures = &whole.figures[0];
        assert_eq!(body["max_tokens"], figures["output limit"] as i64);
        let choice =
            json!({ "index": 0, "message": { "content": "A book." }, "finish_reason": "stop" });
        let usage = usage(figures, figures["completion tokens"] as i64);
        return Scripted::whole(
            200,
            json!({ "choices": [choice], "usage": usage }).to_string(),
        );
    }
    let (scripted, frames) = Scripted::held();
    if body["model"] == "llama3.2" {
        for piece in ["A ", "ledger ", "lists"] {
            assert!(PAGE.contains(&format!("`\"{piece}\"`")));
            frames.send_word(piece);
        }
        // Dropped, they end the stream.
        return scripted;
    }
    assert_eq!(body["n"], 3);
    for (index, completion) in [40, 40, 56].into_iter().enumerate() {
        let word = json!([{ "index": index, "delta": { "content": "A book." } }]);
        let finish = json!([{ "index": index, "delta": {}, "finish_reason": "stop" }]);
        let usage = usage(&several.figures[1], completion);
        frames.send(format!("data: {}\n\n", json!({ "choices": word })));
        frames.send(format!(
            "data: {}\n\n",
            json!({ "choices": finish, "usage": usage })
        ));
    }
    frames.send("data: [DONE]\n\n");
    scripted
}

/// A page, its server, and the wallet that an example has for itself.
struct Payer<'a> {
    server: &'a TestServer,
    caller: Caller,
    wallet: &'static str,
}

impl Payer<'_> {
    /// The head and the text of an answer that may break off.
    async fn ask(&self, request: &str) -> (Answer, String) {
        let path = "/v1/chat/completions";
        let (status, headers, mut body) = self
            .caller
            .open(Method::POST, path, &[], request.to_owned())
            .await;
        let mut text = String::new();
        while let Some(Ok(piece)) = next_text(&mut body).await {
            text += &piece;
        }
        let body = text.clone().into();
        (
            Answer {
                status,
                headers,
                body,
            },
            text,
        )
    }

    /// What is held is what the page says: a micro-credit less does not suffice. Then the wallet has exactly that.
    async fn fund(&self, request: &str, held: f64) {
        self.server.grant_micro(self.wallet, micro(held) - 1).await;
        let (refused, text) = self.ask(request).await;
        refused.refused(402, "insufficient_credits");
        let expected = format!("may cost up to {} credits", written(held));
        assert!(text.contains(&expected), "{expected}: {text}");
        self.server.grant_micro(self.wallet, 1).await;
    }

    /// The newest entry is what the page says.
    async fn assert_charged(&self, figures: &HashMap<&str, f64>, estimated: Value) {
        let path = format!("/users/{}/ledger?limit=1", self.wallet);
        let ledger = self.caller.get(&path).await.expect(200);
        let entry = &ledger["entries"][0];
        let charged = written(figures["charged"]);
        assert_eq!(entry["amount"].to_string(), format!("-{charged}"));
        for name in ["prompt tokens", "cached tokens", "completion tokens"] {
            let detail = &entry["detail"][name.replace(' ', "_")];
            assert_eq!(detail.as_i64().unwrap(), figures[name] as i64, "{name}");
        }
        assert_eq!(entry["detail"]["estimated"], estimated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_page_about_prices_are_charged_as_it_says() {
    let upstream = Upstream::inference(answer).await;
    let text = blocks(PAGE, "toml").join("\n");
    let text = ["11434", "8080"].iter().fold(text, |text, port| {
        let address = format!("http://127.0.0.1:{port}");
        assert!(text.contains(&address));
        text.replace(&address, &upstream.url())
    });
    let mut read = Config::read(&format!("discover = false\n{text}"), []).unwrap();
    read.listen = config().listen;
    let server = TestServer::start(read).await;
    let mut payers = Vec::new();
    for wallet in [W1, W2, W3] {
        let caller = server.payer(wallet, 0).await;
        payers.push(Payer {
            server: &server,
            caller,
            wallet,
        });
    }
    let examples = examples();

    let (payer, Example { request, figures }) = (&payers[0], &examples[0]);
    let charged = written(figures[0]["charged"]);
    payer.fund(request, figures[0]["held"]).await;
    let (answer, _) = payer.ask(request).await;
    assert_eq!(answer.header("x-credits-charged"), charged);
    assert_eq!(answer.expect(200)["usage"]["cost"].to_string(), charged);
    payer.assert_charged(&figures[0], Value::Null).await;

    let (payer, Example { request, figures }) = (&payers[1], &examples[1]);
    payer.fund(request, figures[0]["held"]).await;
    let (answer, text) = payer.ask(request).await;
    assert_eq!(answer.status, 200);
    assert!(
        text.contains("lists") && text.contains("data: {\"error\":"),
        "{text}"
    );
    payer.assert_charged(&figures[0], json!("cut")).await;

    let (payer, Example { request, figures }) = (&payers[2], &examples[2]);
    assert!(PAGE.contains("A wallet has 0.0015 credits."));
    server.grant_micro(W3, 1_500).await;
    let (refused, _) = payer.ask(request).await;
    let refused = refused.refused(402, "insufficient_credits");
    let (held, fits) = (written(figures[0]["held"]), figures[0]["fits"]);
    let expected = format!(
        "this request may cost up to {held} credits, 0.0015 are available; max_tokens {fits} would fit"
    );
    assert_eq!(refused["detail"], expected);
    let request = request.replace("\"max_tokens\":500", &format!("\"max_tokens\":{fits}"));
    let (answer, text) = payer.ask(&request).await;
    assert_eq!(answer.status, 200, "{text}");
    payer.assert_charged(&figures[1], Value::Null).await;
    server.assert_ledger_adds_up().await;
}
