//! What a request costs by its tokens, to the last micro-credit, whatever its server says of them.

use hyper::Method;
use r3mes_edge::model::{Credits, Price};
use serde_json::{Value, json};

use crate::support::{RawAnswer, RawRequest, RawUpstream, TestServer, Then, W1, config_with_nodes};

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";
const WORD: &str = "{\"index\":0,\"delta\":{\"content\":\"part\"}}";
const FINISH: &str = "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}";

/// 1,000 micro-credits for a request, and for a token of its prompt 0.4, of a cached one 0.1, of its answer 1.6.
fn price() -> Price {
    let mut price = Price::per_request(Credits::from_micro(1_000));
    price.prompt = Credits::from_micro(400_000);
    price.cached_prompt = Credits::from_micro(100_000);
    price.completion = Credits::from_micro(1_600_000);
    price
}

/// The prompt has 40 bytes, a quarter of which are 10 tokens, and the text 6, which are 2.
const ESTIMATE: i64 = 1_000 + 8;

/// A stream with a prompt of 10 tokens and an answer of 5.
fn stream(_: &RawRequest) -> RawAnswer {
    let usage = "{\"prompt_tokens\":10,\"completion_tokens\":5}";
    let events = format!(
        "data: {{\"choices\":[{WORD}]}}\n\ndata: {{\"choices\":[{FINISH}]}}\n\ndata: {{\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n"
    );
    RawAnswer::chunked(EVENTS, &[&events], Then::Keep)
}

async fn serve(
    script: impl Fn(&RawRequest) -> RawAnswer + Send + Sync + 'static,
) -> (RawUpstream, TestServer) {
    let node = RawUpstream::start(script).await;
    let mut config = config_with_nodes("openai", &[node.url()]);
    config.inference[0].model = "tiny".to_owned();
    config.chat.price = price();
    config.chat.max_output_tokens = Some(10);
    (node, TestServer::start(config).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_what_it_cost_and_its_limit_is_sent_under_each_name() {
    let (node, server) = serve(stream).await;
    let caller = server.payer(W1, 5).await;
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let body = json!({ "stream": true, "messages": messages, "max_tokens": 99, "stream_options": { "include_usage": true } });
    let path = "/v1/chat/completions";
    let (status, _, answer) = caller.open(Method::POST, path, &[], body.to_string()).await;
    assert_eq!(status, 200);
    let text = crate::chat::whole(answer).await.unwrap();
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let costs = events.filter_map(|event| {
        let event: Value = serde_json::from_str(event).ok()?;
        event["usage"]["cost"].as_f64()
    });
    assert_eq!(costs.collect::<Vec<f64>>(), [0.001_012], "{text}");
    assert_eq!(server.balance(W1).await.micro(), 5_000_000 - 1_012);
    let sent = node.seen(&format!("POST {path}"));
    let sent: Value = serde_json::from_str(&sent[0].body).unwrap();
    assert_eq!(
        [&sent["max_tokens"], &sent["max_completion_tokens"]],
        [10, 10]
    );
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_says_what_it_cost_also_when_it_is_given_again() {
    const USAGES: [(&str, i64, i64); 5] = [
        (
            ",\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}",
            1_012,
            5,
        ),
        (",\"usage\":{}", ESTIMATE, 2),
        (",\"usage\":null", ESTIMATE, 2),
        ("", ESTIMATE, 2),
        (
            ",\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5} ,\"z\":{\"}\":1}",
            1_012,
            5,
        ),
    ];
    let (_node, server) = serve(|request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let at: usize = body["messages"][0]["content"].as_str().unwrap().parse().unwrap();
        let usage = USAGES[at].0;
        let body = format!(
            " {{\"choices\":[{{\"index\":0,\"message\":{{\"content\":\"part\"}},\"finish_reason\":\"stop\"}}]{usage}}}\n"
        );
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        RawAnswer::new(head + &body, Then::Keep)
    })
    .await;
    let caller = server.payer(W1, 5).await;
    let mut balance = server.balance(W1).await.micro();
    for (at, (usage, micro, completion)) in USAGES.iter().enumerate() {
        let messages = json!([{ "role": "user", "content": format!("{at:02}") }]);
        let body = json!({ "messages": messages });
        let key = format!("once-{at}");
        let mut answers = Vec::new();
        for _ in 0..2 {
            let headers = [("idempotency-key", &*key)];
            let path = "/v1/chat/completions";
            answers.push(
                caller
                    .send(Method::POST, path, &headers, body.to_string())
                    .await,
            );
        }
        let cost = Credits::from_micro(*micro).to_string();
        let charged = answers
            .iter()
            .map(|answer| answer.header("x-credits-charged"));
        assert_eq!(charged.collect::<Vec<_>>(), [&cost, &cost], "{usage}");
        assert_eq!(answers[0].body, answers[1].body);
        let whole: Value = serde_json::from_slice(&answers[0].body).unwrap();
        assert_eq!(whole["usage"]["cost"].to_string(), cost, "{usage}");
        if let Some(reported) = whole["usage"]["completion_tokens"].as_i64() {
            assert_eq!(reported, *completion, "{usage}");
        }
        let now = server.balance(W1).await.micro();
        assert_eq!(balance - now, *micro, "{usage}");
        balance = now;
    }
    server.assert_ledger_adds_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_may_cost_is_held_and_402_names_the_limit_that_would_fit() {
    let (_node, server) = serve(stream).await;
    let caller = server.payer(W1, 0).await;
    let grant = json!({ "amount": 0.00123, "reason": "test" });
    server
        .admin()
        .post(&format!("/users/{W1}/credits"), &grant)
        .await
        .expect(200);
    let messages = json!([{ "role": "user", "content": "00" }]);
    let body = json!({ "messages": messages, "max_tokens": 10 });
    let refused = caller.post("/v1/chat/completions", &body).await.expect(402);
    assert_eq!(
        refused["detail"],
        "this request may cost up to 0.001237 credits, 0.00123 are available; max_tokens 5 would fit"
    );
    assert_eq!(server.balance(W1).await.micro(), 1_230);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_have_their_prices_and_limits_and_an_alias_is_charged_as_its_adapter() {
    let node = RawUpstream::start(stream).await;
    let text = format!(
        "[chat]\nprice = 2\n[[inference]]\nname = \"a\"\nurl = \"{}\"\nmodel = \"tiny\"\nadapters = [\"general\", \"coding\"]\n\
         [adapters.coding]\naliases = [\"gpt-4o-mini\"]\nprice = {{ request = 0.001, prompt = 0.4, cached_prompt = 0.1, completion = 1.6 }}\ncontext_length = 8192",
        node.url()
    );
    let mut config = r3mes_edge::Config::read(&text, []).unwrap();
    config.listen = crate::support::config().listen;
    let server = TestServer::start(config).await;
    let caller = server.payer(W1, 5).await;
    let models = caller.get("/v1/models").await.expect(200);
    let shown: Vec<Value> = models["data"].as_array().unwrap().clone();
    let figures = |model: &Value| {
        let price = &model["price"];
        let prices = ["request", "prompt", "cached_prompt", "completion"];
        let prices = prices.map(|part| price[part].to_string()).join(" ");
        let [context, output] = ["context_length", "max_output_tokens"].map(|limit| &model[limit]);
        format!(
            "{} {context} {output}: {prices}",
            model["id"].as_str().unwrap()
        )
    };
    assert_eq!(
        shown.iter().map(figures).collect::<Vec<_>>(),
        [
            "coding 8192 4096: 0.001 0.4 0.1 1.6",
            "general null null: 2 0 0 0",
            "gpt-4o-mini 8192 4096: 0.001 0.4 0.1 1.6",
        ]
    );
    let one = caller.get("/v1/models/gpt-4o-mini").await.expect(200);
    assert_eq!(figures(&one), figures(&shown[2]));
    let unknown = caller
        .get("/v1/models/gpt-5")
        .await
        .refused(404, "model_not_found");
    let known = "known are coding, general, gpt-4o-mini";
    assert!(
        unknown["detail"].as_str().unwrap().contains(known),
        "{unknown}"
    );
    let messages = json!([{ "role": "user", "content": "hi" }]);
    for (model, micro) in [
        ("general", 2_000_000),
        ("coding", 1_012),
        ("gpt-4o-mini", 1_012),
    ] {
        let before = server.balance(W1).await.micro();
        let body = json!({ "model": model, "stream": true, "messages": messages });
        caller.post("/v1/chat/completions", &body).await;
        assert_eq!(before - server.balance(W1).await.micro(), micro, "{model}");
    }
}
