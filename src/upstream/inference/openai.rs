//! Requests to OpenAI's API, and its list of models.

use serde_json::{Value, json};

use super::{InferenceRequest, Prompt};
use crate::upstream::{UpstreamError, unreadable};

/// `stream_options` are left out for a server that refuses them.
pub(super) fn request_body(
    request: &InferenceRequest,
    model: &str,
    stream_options: bool,
) -> String {
    match &request.prompt {
        Prompt::Completion(completion, _) => completion.body(model, stream_options),
        Prompt::Message(text) => {
            let messages = json!([{ "role": "user", "content": text }]);
            let mut body = json!({ "model": model, "messages": messages, "stream": true });
            if stream_options {
                body["stream_options"] = json!({ "include_usage": true });
            }
            body.to_string()
        }
    }
}

/// The first model in an answer to `GET /v1/models`.
pub(super) fn first_model(body: &[u8]) -> Result<String, UpstreamError> {
    let models: Value = serde_json::from_slice(body).map_err(unreadable)?;
    let first = models.pointer("/data/0/id").and_then(Value::as_str);
    let first = first.ok_or_else(|| unreadable("/v1/models names no model"))?;
    Ok(first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_page_makes_the_reader_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = first_model(&page);
        }

        #[test]
        fn the_first_model_is_the_first_and_a_changed_page_names_one_or_none(ids in prop::collection::vec(any::<String>(), 0..4), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let data: Vec<_> = ids.iter().map(|id| json!({ "id": id, "object": "model" })).collect();
            let mut page = json!({ "object": "list", "data": data }).to_string().into_bytes();
            prop_assert_eq!(first_model(&page).ok(), ids.first().cloned());
            let at = at.index(page.len());
            page[at] = byte;
            let _ = first_model(&page);
        }
    }
}
