use super::*;
use proptest::prelude::*;
use serde_json::json;

fn names(page: &Value) -> Vec<String> {
    let models = parse(page.to_string().as_bytes()).unwrap_or_default();
    models.into_iter().map(|model| model.name).collect()
}

#[test]
fn an_entry_without_a_usable_name_does_not_void_the_list_and_a_cloud_model_is_not_in_it() {
    let long = "x".repeat(MAX_NAME + 1);
    let page = json!({ "data": [
        {}, null, 7, { "id": null }, { "id": 5 }, { "id": "" }, { "id": long }, { "id": "a\nb" },
        { "id": "gpt-oss:120b-cloud" }, { "id": "glm-4.6:cloud" },
        { "id": "qwen3:8b" }, { "id": "qwen3:8b" }, { "id": "org/cloudy" },
    ] });
    assert_eq!(names(&page), ["qwen3:8b", "org/cloudy"]);
    for none in [
        json!({}),
        json!([]),
        json!({ "data": {} }),
        json!({ "data": [{ "id": "x:cloud" }] }),
    ] {
        assert!(parse(none.to_string().as_bytes()).is_err(), "{none}");
    }
    let many: Vec<_> = (0..MAX_MODELS + 9)
        .map(|at| json!({ "id": at.to_string() }))
        .collect();
    assert_eq!(names(&json!({ "data": many })).len(), MAX_MODELS);
}

#[test]
fn a_model_is_for_embeddings_or_ranks_by_what_its_entry_says_or_by_the_family_in_its_name() {
    for (name, kind) in [
        ("nomic-embed-text:latest", Kind::Embeddings),
        ("text-embedding-qwen3-embedding-0.6b", Kind::Embeddings),
        ("BAAI/bge-m3", Kind::Embeddings),
        ("intfloat/multilingual-e5-large", Kind::Embeddings),
        ("all-minilm:33m", Kind::Embeddings),
        ("embeddinggemma", Kind::Embeddings),
        ("bge-reranker-v2-m3", Kind::Rerank),
        ("Qwen/Qwen3-Reranker-4B", Kind::Rerank),
        ("qwen3:8b", Kind::Chat),
        ("nomic-ai/gpt4all-falcon", Kind::Chat),
        ("embedded-coder", Kind::Chat),
        ("gemma3:4b", Kind::Chat),
    ] {
        assert_eq!(Model::named(name).kind, kind, "{name}");
    }
    let of = |entry: Value| Kind::of_entry("plain", &entry);
    assert_eq!(of(json!({ "type": "embeddings" })), Kind::Embeddings);
    assert_eq!(
        of(json!({ "capabilities": ["embedding"] })),
        Kind::Embeddings
    );
    assert_eq!(
        of(json!({ "capabilities": ["completion", "embedding"] })),
        Kind::Chat
    );
    assert_eq!(
        Kind::of_entry("bge-chat", &json!({ "type": "llm" })),
        Kind::Chat
    );
}

#[test]
fn the_first_model_for_an_endpoint_is_one_made_for_it_and_a_chat_never_goes_to_another() {
    let models = Models::default();
    let first = |api| models.first_for(api).map(|model| model.name);
    let list = |names: &[&str]| {
        models.set(names.iter().map(|name| Model::named(name)).collect());
    };
    list(&["bge-reranker", "nomic-embed-text", "qwen3", "llama3"]);
    for api in Api::ALL {
        let expected = match api {
            Api::Embeddings => "nomic-embed-text",
            Api::Rerank => "bge-reranker",
            _ => "qwen3",
        };
        assert_eq!(first(api).as_deref(), Some(expected), "{api:?}");
    }
    list(&["nomic-embed-text"]);
    assert_eq!(first(Api::Messages), None);
    list(&["qwen3"]);
    assert_eq!(first(Api::Embeddings).as_deref(), Some("qwen3"));
}

#[test]
fn an_endpoint_that_was_refused_is_asked_again_after_a_while_or_when_the_server_was_away() {
    let (models, start) = (Models::default(), Instant::now());
    assert!(models.may_serve("tiny", Api::Rerank, start));
    models.set_endpoint(Api::Rerank, false, start);
    models.set_endpoint(Api::ChatCompletions, false, start);
    let last = start + Models::NOT_SERVED;
    assert!(!models.may_serve("tiny", Api::Rerank, last - Duration::from_secs(1)));
    assert!(models.may_serve("tiny", Api::Rerank, last));
    // Alone it may be a wrong address; beside an endpoint that works it is not served.
    assert!(models.may_serve("tiny", Api::ChatCompletions, start));
    models.set_endpoint(Api::Embeddings, true, start);
    assert!(!models.may_serve("tiny", Api::ChatCompletions, start));
    assert_eq!(models.endpoints(), [Api::Embeddings]);
    models.forget_endpoints();
    assert!(models.may_serve("tiny", Api::ChatCompletions, start));
    assert_eq!(models.endpoints(), []);
}

proptest! {
    #[test]
    fn no_page_makes_the_reader_panic_and_each_usable_name_is_found_whatever_stands_beside_it(
        names in prop::collection::vec("[a-z0-9:/. -]{1,12}", 1..6), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let data: Vec<_> = names.iter().flat_map(|id| [json!({ "object": "model" }), json!({ "id": id })]).collect();
        let mut page = json!({ "object": "list", "data": data }).to_string().into_bytes();
        let found = parse(&page).unwrap_or_default();
        for name in names.iter().filter(|name| !name.ends_with("cloud")) {
            prop_assert!(found.iter().any(|model| model.name == *name));
        }
        let at = at.index(page.len());
        page[at] = byte;
        let _ = parse(&page);
    }
}
