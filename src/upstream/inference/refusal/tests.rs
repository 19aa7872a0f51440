use super::*;
use proptest::prelude::*;

fn read(status: u16, retry_after: Option<&str>, body: &[u8]) -> Refusal {
    // Sun, 06 Nov 1994 08:49:37 GMT
    let now = Timestamp::from_millis(784_111_777_000);
    Refusal::read(status, retry_after, now, body)
}

fn meaning_of(status: u16, body: &str) -> Meaning {
    read(status, None, body.as_bytes()).meaning
}

#[test]
fn what_servers_say_is_understood() {
    let length = |tokens| Meaning::ContextLength(Some(tokens));
    let request = |name: &str| Meaning::Request(Some(name.to_owned()));
    let rows = [
        // llama.cpp, now and before.
        (
            400,
            r#"{"error":{"code":400,"message":"request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":9001,"n_ctx":8192}}"#,
            length(8192),
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"the request exceeds the available context size. try increasing the context size or enable context shift","type":"exceed_context_size_error","n_prompt_tokens":1407,"n_ctx":256}}"#,
            length(256),
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"input is too large to process. increase the physical batch size","type":"server_error"}}"#,
            Meaning::ContextLength(None),
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"Failed to initialize samplers: failed to parse grammar","type":"invalid_request_error"}}"#,
            Meaning::Schema,
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}"#,
            Meaning::Media,
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"'messages' is required","type":"invalid_request_error"}}"#,
            Meaning::Request(None),
        ),
        (
            501,
            r#"{"error":{"code":501,"message":"This server does not support embeddings. Start it with `--embeddings`","type":"not_supported_error"}}"#,
            Meaning::NotServed,
        ),
        (
            503,
            r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
            Meaning::Loading(None),
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"Field 'temperature': [json.exception.type_error.302] type must be number, but is string","type":"invalid_request_error"}}"#,
            request("temperature"),
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"Unable to generate parser for this template. Automatic parser generation failed: JSON schema error at #: cannot resolve $ref #/nope, nope not found","type":"invalid_request_error"}}"#,
            Meaning::Schema,
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj","type":"server_error"}}"#,
            Meaning::Media,
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"Failed to parse tools: Unsupported tool type: {}","type":"server_error"}}"#,
            Meaning::Request(None),
        ),
        (
            404,
            r#"{"error":{"message":"File Not Found","type":"not_found_error","code":404}}"#,
            Meaning::NotServed,
        ),
        // vLLM.
        (
            400,
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, you requested 9001 tokens","type":"BadRequestError","param":"input_tokens","code":400}}"#,
            length(8192),
        ),
        (
            400,
            r#"{"object":"error","message":"The decoder prompt (length 10127) is longer than the maximum model length of 8192. Make sure that","type":"BadRequestError","param":null,"code":400}"#,
            length(8192),
        ),
        (
            400,
            r#"{"object":"error","message":"max_tokens must be at least 1, got -186.","type":"BadRequestError","param":null,"code":400}"#,
            Meaning::ContextLength(None),
        ),
        (
            400,
            r#"{"object":"error","message":"tiny is not a multimodal model None","type":"BadRequestError","param":null,"code":400}"#,
            Meaning::Media,
        ),
        (
            404,
            r#"{"object":"error","message":"The model `tiny` does not exist.","type":"NotFoundError","param":null,"code":404}"#,
            Meaning::Model,
        ),
        (
            400,
            r#"{"error":{"message":"temperature must be non-negative, got -1.0.","type":"BadRequestError","param":"temperature","code":400}}"#,
            request("temperature"),
        ),
        (
            422,
            r#"{"detail":[{"type":"float_parsing","loc":["body","top_p"],"msg":"Input should be a valid number","input":"x"}]}"#,
            request("top_p"),
        ),
        // SGLang.
        (
            400,
            r#"{"object":"error","message":"The input (9001 tokens) is longer than the model's context length (8192 tokens).","type":"BadRequestError","param":null,"code":400}"#,
            length(8192),
        ),
        (
            400,
            r#"{"object":"error","message":"Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).","type":"BadRequestError","param":null,"code":400}"#,
            length(59862),
        ),
        // Ollama.
        (
            404,
            r#"{"error":{"message":"model 'nope' not found","type":"not_found_error","param":null,"code":null}}"#,
            Meaning::Model,
        ),
        (404, "404 page not found", Meaning::NotServed),
        (
            500,
            r#"{"error":{"message":"llama runner process has terminated: error loading model","type":"api_error"}}"#,
            Meaning::Server,
        ),
        (
            503,
            r#"{"error":{"message":"error loading model","type":"api_error"}}"#,
            Meaning::Server,
        ),
        (
            400,
            r#"{"error":{"message":"json: cannot unmarshal string into Go struct field ChatCompletionRequest.temperature of type float64","type":"invalid_request_error","param":null,"code":null}}"#,
            request("temperature"),
        ),
        // LM Studio, LocalAI, LiteLLM.
        (
            400,
            r#"{"error":"Trying to keep the first 4210 tokens when context the overflows."}"#,
            Meaning::ContextLength(None),
        ),
        (
            400,
            r#"{"error":{"message":"Model \"nope\" not found.","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#,
            Meaning::Model,
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"could not load model","type":""}}"#,
            Meaning::Server,
        ),
        (
            400,
            r#"{"error":{"message":"Invalid model name passed in model=tiny"}}"#,
            Meaning::Model,
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error at line 1, column 2: syntax error while parsing object key - invalid literal; last read: '{b'; expected string literal","type":"server_error"}}"#,
            Meaning::Request(None),
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"Unknown reasoning format: x","type":"server_error"}}"#,
            Meaning::Request(None),
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"Cannot use both json_schema and grammar","type":"server_error"}}"#,
            Meaning::Schema,
        ),
        // LiteLLM, before llama.cpp.
        (
            400,
            r#"{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - request (6013 tokens) exceeds the available context size (1024 tokens), try increasing it\nmodel=tiny. context_window_fallbacks=None. fallbacks=None.\n\nSet 'context_window_fallback' - https://docs.litellm.ai/docs/routing#fallbacks\n\nLiteLLM: model group 'tiny' failed with the error above. No fallback was attempted.","type":"invalid_request_error","param":null,"code":"400"}}"#,
            length(1024),
        ),
        (
            400,
            r#"{"error":{"message":"litellm.BadRequestError: OpenAIException - Field 'temperature': [json.exception.type_error.302] type must be number, but is string\n\nLiteLLM: model group 'tiny' failed with the error above. No fallback was attempted.","type":"invalid_request_error","param":null,"code":"400"}}"#,
            request("temperature"),
        ),
        (
            500,
            r#"{"error":{"message":"litellm.InternalServerError: InternalServerError: OpenAIException - image input is not supported - hint: if this is unexpected, you may need to provide the mmproj\n\nLiteLLM: model group 'tiny' failed with the error above. No fallback was attempted.","type":"internal_server_error","param":null,"code":"500"}}"#,
            Meaning::Media,
        ),
        (
            500,
            r#"{"error":{"message":"litellm.APIConnectionError: APIConnectionError: OpenAIException - Invalid user message at index 0. Please ensure all user messages are valid OpenAI chat completion messages.\n\nLiteLLM: model group 'tiny' failed with the error above. No fallback was attempted.","type":"internal_server_error","param":null,"code":"500"}}"#,
            Meaning::Request(None),
        ),
        (
            500,
            r#"{"error":{"message":"litellm.InternalServerError: InternalServerError: OpenAIException - Connection error.\n\nLiteLLM: model group 'tiny' failed with the error above. No fallback was attempted.","type":"internal_server_error","param":null,"code":"500"}}"#,
            Meaning::Server,
        ),
        (
            400,
            r#"{"error":{"message":"litellm.BadRequestError: OpenAIException - Tool choice: unknown function x\n\nLiteLLM: model group 'tiny' failed with the error above. No fallback was attempted.","type":"invalid_request_error","param":null,"code":"400"}}"#,
            Meaning::Request(None),
        ),
        (
            400,
            r#"{"error":{"message":"No connected db.","type":"no_db_connection","param":null,"code":"400"}}"#,
            Meaning::Credentials,
        ),
        // OpenAI, Azure, Mistral.
        (
            400,
            r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}"#,
            Meaning::StreamOptions,
        ),
        (
            422,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
            Meaning::StreamOptions,
        ),
        // By the status alone.
        (422, "{}", Meaning::Request(None)),
        (413, "", Meaning::Request(None)),
        (401, "", Meaning::Credentials),
        (403, "", Meaning::Credentials),
        (302, "", Meaning::Redirect),
        (405, "", Meaning::NotServed),
        (404, "", Meaning::NotServed),
        (500, "", Meaning::Server),
        (418, "", Meaning::Server),
        (429, "", Meaning::Unavailable(PAUSE[0])),
        (503, "", Meaning::Server),
    ];
    for (status, body, expected) in rows {
        assert_eq!(meaning_of(status, body), expected, "{status} {body}");
    }
}

#[test]
fn what_the_client_wrote_means_nothing() {
    let echo = r#"{"detail":[{"loc":["body","messages"],"msg":"Field required","input":"unknown model, context length, stream_options, grammar"}]}"#;
    let member = Some("messages".to_owned());
    assert_eq!(meaning_of(422, echo), Meaning::Request(member));
}

#[test]
fn a_retry_after_is_believed_within_bounds() {
    for (status, header, seconds) in [
        (429, "30", 30),
        (503, "30", 30),
        (529, " 7 ", 7),
        (429, "0", 1),
        (429, "86400", 300),
        (503, "Sun, 06 Nov 1994 08:50:07 GMT", 30),
        (429, "Sun, 06 Nov 1994 08:49:00 GMT", 1),
        (429, "soon", 1),
    ] {
        let refusal = read(status, Some(header), b"");
        let wait = Duration::from_secs(seconds);
        assert_eq!(refusal.meaning, Meaning::Unavailable(wait), "{header}");
    }
    for (header, seconds) in [("20", 20), ("0", 1), ("86400", 300)] {
        let body = br#"{"error":{"message":"Loading model"}}"#;
        let wait = Some(Duration::from_secs(seconds));
        let loading = read(503, Some(header), body);
        assert_eq!(loading.meaning, Meaning::Loading(wait), "{header}");
    }
}

#[test]
fn words_are_one_short_line() {
    let body = format!("one\r\ntwo\u{1b}[31m{}", "x".repeat(1_000));
    let refusal = read(500, None, body.as_bytes());
    assert!(refusal.words.starts_with("one  two [31mxx"), "{refusal:?}");
    assert_eq!(refusal.words.chars().count(), MAX_WORDS);
    let nested = br#"{"detail":[{"msg":"too long","input":"the client's text"}]}"#;
    assert_eq!(read(422, None, nested).words, "too long");
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic(status in 300..600u16, retry_after in prop::option::of("[0-9A-Za-z ,:-]{0,30}"), body in prop::collection::vec(any::<u8>(), 0..200), message in ".{0,60}") {
        let json = serde_json::json!({ "error": { "message": message } }).to_string();
        for body in [&body[..], json.as_bytes()] {
            let refusal = read(status, retry_after.as_deref(), body);
            prop_assert!(refusal.words.chars().count() <= MAX_WORDS);
            prop_assert!(!refusal.words.contains(char::is_control));
        }
    }
}
