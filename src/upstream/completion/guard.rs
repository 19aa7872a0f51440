//! What a chat completion may not request of a server: members that multiply the work of one price or reach beyond the request,
//! and media that the server would have to fetch. All others pass.

use serde_json::value::RawValue;

use crate::model::{InputError, InputKind, Member, items, members, pointer};

/// The reason, and the members refused for it; inside `chat_template_kwargs` too, which vLLM and SGLang hand to the
/// template as they come.
const REFUSED: [(&str, &str); 2] = [
    (
        "it can multiply the work that has one price",
        "best_of generation_config ignore_eos min_tokens n_cmpl n_predict num_predict options prompt_logprobs \
         use_beam_search",
    ),
    (
        "it reaches into the inference server or other people's requests",
        "api_base api_key base_url bootstrap_host bootstrap_port bootstrap_room chat_template custom_logit_processor \
         data_parallel_rank draft_model ec_transfer_params fallbacks id_slot keep_alive kv_transfer_params \
         logits_processors lora lora_path max_retries mock_response num_retries priority request_id rid session_id \
         session_params slot_id stream_timeout timeout ttl",
    ),
];

/// Members that are checked or written here. Servers in Go (Ollama, LocalAI) read a name in any case, the last one wins.
const CHECKED: &str = "messages model n stream stream_options";

/// Members of a message or a content part that hold media, besides those that end with `_url`.
const MEDIA: &str = "audio file file_data file_id files image image_file images input_audio input_file input_image \
                     input_video path source url video videos";

/// Texts beside media that are no address of it.
const DESCRIPTIONS: &str = "detail filename format id media_type mime_type name title type";

/// These may hold any address, as no server loads it: calls of functions, and quotations of an earlier answer.
const NOT_LOADED: &str = "annotations arguments function_call input tool_calls";

fn is_in(names: &str, name: &str) -> bool {
    names.split(' ').any(|listed| listed == name)
}

/// # Errors
/// The first member that is refused.
pub(super) fn check(request: &[Member<'_>]) -> Result<(), InputError> {
    check_names(request, "")?;
    for (name, value) in request {
        match name.as_str() {
            "messages" => check_media(value, "/messages", name, false)?,
            "chat_template_kwargs" if value.get().starts_with('{') => {
                let at = pointer("", name);
                check_names(&members(value.get(), &at)?, &at)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_names(members: &[Member<'_>], at: &str) -> Result<(), InputError> {
    let refused = |name: &str, reason: &str| InputError {
        kind: InputKind::Parameter,
        pointer: pointer(at, name),
        detail: format!("{name} is not supported: {reason}"),
    };
    for (name, value) in members {
        let folded = fold(name);
        if at.is_empty() && folded != *name && is_in(CHECKED, &folded) {
            return Err(refused(name, &format!("write it {folded}")));
        }
        let group = REFUSED.iter().find(|(_, names)| is_in(names, &folded));
        // Clients that write every member they know write null for those that are not set.
        if let Some((reason, _)) = group
            && value.get() != "null"
        {
            return Err(refused(name, reason));
        }
    }
    Ok(())
}

/// Refuses media that is not inline. `key` is the nearest member's name; `media` whether `value` is within media already.
fn check_media(value: &RawValue, at: &str, key: &str, media: bool) -> Result<(), InputError> {
    match value.get().as_bytes().first() {
        Some(b'{') => {
            for (name, value) in members(value.get(), at)? {
                let key = fold(&name);
                let skipped = if media { DESCRIPTIONS } else { NOT_LOADED };
                if !is_in(skipped, &key) {
                    let media = media || is_in(MEDIA, &key) || key.ends_with("_url");
                    check_media(value, &pointer(at, &name), &key, media)?;
                }
            }
        }
        Some(b'[') => {
            for (index, item) in items(value)?.into_iter().enumerate() {
                check_media(item, &format!("{at}/{index}"), key, media)?;
            }
        }
        Some(b'"')
            if media
                && !serde_json::from_str::<String>(value.get())
                    .is_ok_and(|text| is_inline(key, &text)) =>
        {
            return Err(InputError {
                kind: InputKind::Media,
                pointer: at.to_owned(),
                detail: format!("{key} must be a data: URL; other addresses are not fetched"),
            });
        }
        _ => {}
    }
    Ok(())
}

/// Whether a text is the media itself: a data URL, or base64 where that is usual.
fn is_inline(key: &str, text: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_\r\n".contains(&byte);
    text.get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
        || matches!(key, "data" | "file_data") && text.bytes().all(is_base64)
}

/// A name as Go's encoding/json compares it: without regard to case, also of the long s and the Kelvin sign.
fn fold(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(body: &str) -> Option<InputError> {
        check(&members(body, "").unwrap()).err()
    }

    fn parts(parts: &str) -> String {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"http://x"}},{parts}]}}]}}"#
        )
    }

    #[test]
    fn a_refused_member_is_named_whatever_its_value_and_spelling() {
        for (_, names) in REFUSED {
            for name in names.split(' ') {
                for value in ["1", "true", "\"x\"", "{}", "[]", "false"] {
                    let error = refusal(&format!("{{\"{name}\":{value}}}")).unwrap();
                    assert_eq!(error.kind, InputKind::Parameter);
                    assert_eq!(error.pointer, format!("/{name}"));
                    assert!(error.detail.starts_with(name), "{}", error.detail);
                }
                assert_eq!(refusal(&format!("{{\"{name}\":null}}")), None);
                let upper = name.to_uppercase();
                assert!(refusal(&format!("{{\"{upper}\":1}}")).is_some(), "{upper}");
            }
        }
        for (body, pointer) in [
            (r#"{"n_cmp\u006c":4}"#, "/n_cmpl"),
            (r#"{"Ignore_EOS":true}"#, "/Ignore_EOS"),
            ("{\"be\u{17f}t_of\":4}", "/be\u{17f}t_of"),
            ("{\"\u{212a}eep_alive\":4}", "/\u{212a}eep_alive"),
            (r#"{"N":4}"#, "/N"),
            (r#"{"Model":"other"}"#, "/Model"),
            (r#"{"STREAM_options":{}}"#, "/STREAM_options"),
            (
                r#"{"chat_template_kwargs":{"a":1,"chat_template":"{{x}}"}}"#,
                "/chat_template_kwargs/chat_template",
            ),
        ] {
            let error = refusal(body).expect(body);
            assert_eq!(
                (error.kind, error.pointer.as_str()),
                (InputKind::Parameter, pointer)
            );
        }
    }

    #[test]
    fn requests_of_the_usual_clients_pass() {
        for body in [
            r#"{"temperature":1,"cache_prompt":true,"chat_template_kwargs":{"enable_thinking":false},"documents":[{"url":"https://a.example"}]}"#,
            r#"{"response_format":{"type":"json_schema","json_schema":{"schema":{"properties":{"image_url":{"type":"string"},"n_predict":{}}}}}}"#,
            r#"{"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"url":{"default":"http://x"}}}}}]}"#,
            r#"{"metadata":{"image_url":"http://x","lora":"x"},"user":"file:///x"}"#,
            r#"{"messages":[{"role":"user","content":"http://169.254.169.254/"}]}"#,
            r#"{"messages":[{"role":"assistant","content":null,"audio":{"id":"audio_1"},"annotations":[{"type":"url_citation","url_citation":{"url":"https://a.example"}}],"tool_calls":[{"function":{"name":"f","arguments":{"url":"https://a.example"}}}]}]}"#,
        ] {
            assert_eq!(refusal(body), None, "{body}");
        }
        for part in [
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}}"#,
            r#"{"type":"image_url","image_url":"DATA:image/png;base64,AAAA"}"#,
            r#"{"type":"input_audio","input_audio":{"data":"//vQ+A==","format":"mp3"}}"#,
            r#"{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,AAAA"}}"#,
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}"#,
            r#"{"type":"image_url","image_url":{"url":null}}"#,
            r#"{"type":"video","video":["data:image/png;base64,AA","data:image/png;base64,BB"],"fps":2}"#,
        ] {
            assert_eq!(refusal(&parts(part)), None, "{part}");
        }
    }

    #[test]
    fn media_that_is_not_inline_is_refused_with_its_pointer() {
        for (part, expected) in [
            (
                r#"{"image_url":{"url":"http://169.254.169.254/"}}"#,
                "image_url/url",
            ),
            (
                r#"{"image_url":{"url":"HtTpS://a.example/"}}"#,
                "image_url/url",
            ),
            (
                r#"{"image_url":{"url":" \n\thttp://a.example/"}}"#,
                "image_url/url",
            ),
            (
                r#"{"image_url":{"url":"\u0068ttp://a.example/"}}"#,
                "image_url/url",
            ),
            (
                r#"{"image_\u0075rl":{"\u0075rl":"http://a"}}"#,
                "image_url/url",
            ),
            (
                r#"{"image_url":{"url":"file:///etc/passwd"}}"#,
                "image_url/url",
            ),
            (r#"{"image_url":{"url":"/etc/passwd"}}"#, "image_url/url"),
            (r#"{"image_url":{"url":"etc/passwd"}}"#, "image_url/url"),
            (r#"{"image_url":{"url":"//a.example/x"}}"#, "image_url/url"),
            (r#"{"image_url":{"url":"data\u200b:x"}}"#, "image_url/url"),
            (r#"{"image_url":{"url":""}}"#, "image_url/url"),
            (r#"{"image_url":{"url":["http://a"]}}"#, "image_url/url/0"),
            (r#"{"image_url":"http://a.example/"}"#, "image_url"),
            (
                r#"{"Image_URL":{"URL":"http://a.example/"}}"#,
                "Image_URL/URL",
            ),
            (
                r#"{"type":"input_image","image_url":"http://a"}"#,
                "image_url",
            ),
            (r#"{"video_url":{"url":"http://a"}}"#, "video_url/url"),
            (r#"{"audio_url":{"url":"ftp://a"}}"#, "audio_url/url"),
            (r#"{"file_url":"http://a"}"#, "file_url"),
            (
                r#"{"input_audio":{"data":"http://a.example/a.wav","format":"wav"}}"#,
                "input_audio/data",
            ),
            (r#"{"input_audio":"http://a"}"#, "input_audio"),
            (r#"{"file":{"file_data":"file:///a"}}"#, "file/file_data"),
            (r#"{"file":{"file_id":"file-1"}}"#, "file/file_id"),
            (r#"{"type":"image","image":"http://a"}"#, "image"),
            (r#"{"type":"image","url":"http://a"}"#, "url"),
            (
                r#"{"type":"image","source":{"type":"url","url":"http://a"}}"#,
                "source/url",
            ),
            (
                r#"{"type":"video","video":["data:,a","http://a"]}"#,
                "video/1",
            ),
            (
                r#"{"type":"tool_result","content":[{"image_url":{"url":"http://a"}}]}"#,
                "content/0/image_url/url",
            ),
        ] {
            let error = refusal(&parts(part)).expect(part);
            assert_eq!(error.kind, InputKind::Media, "{part}");
            assert_eq!(
                error.pointer,
                format!("/messages/0/content/1/{expected}"),
                "{part}"
            );
        }
        let twice = parts(r#"{"image_url":{"url":"data:,a","url":"http://a"}}"#);
        assert_eq!(refusal(&twice).unwrap().kind, InputKind::Field);
        let beside = r#"{"messages":[{"role":"user","content":"x","images":["http://a"]}]}"#;
        assert_eq!(refusal(beside).unwrap().pointer, "/messages/0/images/0");
        let alone = r#"{"messages":[{"role":"user","content":{"image_url":{"url":"http://a"}}}]}"#;
        assert_eq!(
            refusal(alone).unwrap().pointer,
            "/messages/0/content/image_url/url"
        );
    }

    proptest! {
        #[test]
        fn only_a_data_url_passes_as_an_address(scheme in "[ \\t]{0,2}[a-zA-Z+.-]{0,6}", rest in "[ -~]{0,20}", key in "(url|data)", media in "(image_url|input_audio|video_url|file)") {
            let address = format!("{scheme}:{rest}");
            let part = serde_json::json!({ "type": media, &media: { &key: address } });
            let passes = refusal(&parts(&part.to_string())).is_none();
            prop_assert_eq!(passes, scheme.eq_ignore_ascii_case("data"));
        }
    }
}
