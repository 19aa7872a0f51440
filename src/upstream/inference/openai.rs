//! Requests to OpenAI's API.

use serde_json::json;

use super::{InferenceRequest, Prompt};

/// `stream_options` are left out for a server that refuses them.
pub(super) fn request_body(
    request: &InferenceRequest,
    model: &str,
    stream_options: bool,
    pass: &[String],
) -> String {
    match &request.prompt {
        Prompt::Request(asked, _) => asked.body(model, request.max_tokens, stream_options, pass),
        Prompt::Message(text) => {
            let messages = json!([{ "role": "user", "content": text }]);
            let mut body = json!({ "model": model, "messages": messages, "stream": true });
            if let Some(most) = request.max_tokens {
                body["max_tokens"] = most.into();
                body["max_completion_tokens"] = most.into();
            }
            if stream_options {
                body["stream_options"] = json!({ "include_usage": true });
            }
            body.to_string()
        }
    }
}
