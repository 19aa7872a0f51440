//! The lists of each endpoint, and what is passed on by no setting. What each server reads, and why a member is dangerous, is
//! known from the sources of llama.cpp, vLLM, SGLang, Ollama and LocalAI.

use super::inputs::{count, documents, embedded, encoding, inputs, up_to_5};
use super::messages::messages;
use super::response_items::{include, input, reasoning, text_format};
use super::values::{
    budget, choices, flag, function_choice, functions, kwargs, logit_bias, number, positive,
    response_format, seed, structured_outputs, text, texts, token_ids, tools, up_to_20, window,
};
use super::{Guard, blocks, response_items};

/// `POST /v1/chat/completions`.
pub(crate) const CHAT_COMPLETIONS: Guard = Guard {
    own: "model stream stream_options n max_tokens max_completion_tokens wallet_address",
    limit: Some("max_tokens"),
    forwarded: &[
        ("messages", messages),
        (
            "temperature top_p frequency_penalty presence_penalty top_k min_p typical_p mirostat mirostat_tau mirostat_eta dry_multiplier dry_base dry_allowed_length \
             xtc_probability xtc_threshold dynatemp_range dynatemp_exponent",
            number,
        ),
        ("repetition_penalty repeat_penalty", positive),
        ("seed", seed),
        ("repeat_last_n dry_penalty_last_n", window),
        ("stop", texts::<4>),
        ("dry_sequence_breakers", texts::<64>),
        ("stop_token_ids", token_ids),
        ("logit_bias", logit_bias),
        (
            "logprobs parallel_tool_calls skip_special_tokens include_stop_str_in_output enable_thinking",
            flag,
        ),
        ("top_logprobs", up_to_20),
        ("response_format", response_format),
        ("tools", tools),
        ("functions", functions),
        ("tool_choice function_call", function_choice),
        ("reasoning_effort verbosity reasoning_format", text),
        ("guided_choice", choices),
        ("structured_outputs", structured_outputs),
        ("chat_template_kwargs", kwargs),
        // A part of the answer, so within its limit of tokens.
        ("thinking_budget_tokens", budget),
    ],
    dropped: &[
        (
            "user metadata safety_identifier prompt_cache_key prompt_cache_retention cache_prompt",
            &[],
        ),
        ("store", &["false"]),
        ("service_tier", &["\"auto\"", "\"default\""]),
    ],
};

/// `POST /v1/completions`.
pub(crate) const COMPLETIONS: Guard = Guard {
    own: "model stream stream_options n max_tokens wallet_address",
    limit: Some("max_tokens"),
    forwarded: &[
        ("prompt", inputs::<{ MOST_ANSWERS as usize }>),
        ("suffix", text),
        (
            "temperature top_p frequency_penalty presence_penalty top_k min_p",
            number,
        ),
        ("repetition_penalty repeat_penalty", positive),
        ("seed", seed),
        ("stop", texts::<4>),
        ("logit_bias", logit_bias),
        ("logprobs", up_to_5),
    ],
    dropped: &[("user", &[]), ("echo", &["false"])],
};

/// `POST /v1/embeddings`.
pub(crate) const EMBEDDINGS: Guard = Guard {
    own: "model wallet_address",
    limit: None,
    forwarded: &[
        ("input", embedded),
        ("encoding_format", encoding),
        ("dimensions", count),
    ],
    dropped: &[("user", &[])],
};

/// `POST /v1/rerank`.
pub(crate) const RERANK: Guard = Guard {
    own: "model wallet_address",
    limit: None,
    forwarded: &[
        ("query instruction instruct", text),
        ("documents", documents),
        ("top_n max_tokens_per_doc", count),
        ("return_documents", flag),
    ],
    dropped: &[("user max_chunks_per_doc rank_fields", &[])],
};

/// `POST /v1/responses`.
pub(crate) const RESPONSES: Guard = Guard {
    own: "model stream stream_options max_output_tokens wallet_address",
    limit: Some("max_output_tokens"),
    forwarded: &[
        ("input", input),
        ("instructions", text),
        ("temperature top_p", number),
        ("tools", response_items::tools),
        ("tool_choice", response_items::tool_choice),
        ("parallel_tool_calls", flag),
        ("reasoning", reasoning),
        ("text", text_format),
        ("include", include),
        ("top_logprobs", up_to_20),
    ],
    dropped: &[
        (
            "user metadata safety_identifier prompt_cache_key prompt_cache_retention client_metadata",
            &[],
        ),
        ("store background", &["false"]),
        ("truncation", &["\"disabled\""]),
        ("service_tier", &["\"auto\"", "\"default\""]),
    ],
};

/// `POST /v1/messages`.
pub(crate) const MESSAGES: Guard = Guard {
    own: "model stream max_tokens wallet_address",
    limit: Some("max_tokens"),
    forwarded: &[
        ("messages", blocks::messages),
        ("system", blocks::system),
        ("temperature top_p", number),
        ("top_k", seed),
        ("stop_sequences", texts::<16>),
        ("tools", blocks::tools),
        ("tool_choice", blocks::tool_choice),
        ("thinking", blocks::thinking),
        ("output_config", blocks::output_config),
    ],
    dropped: &[
        // Nothing here has a cache to be steered, a context to be edited or calls of tools to be classified.
        ("metadata cache_control context_management safeguards", &[]),
        ("service_tier", &["\"auto\"", "\"standard_only\""]),
    ],
};

/// Answers to one request at most, to all of its prompts: a slot of an inference server and the bytes of an answer are for one
/// request, so a request may not be any number of them.
pub(crate) const MOST_ANSWERS: u32 = 8;

pub(super) const LIMIT: &str = "it limits the answer";

/// Reasons, and the members that nothing passes on for them. Besides, each name such as `maxOutputTokens` is a limit.
pub(super) const NEVER: &[(&str, &str)] = &[
    (
        LIMIT,
        "n_predict num_predict t_max_predict_ms n_tokens num_tokens token_limit tokens_to_generate",
    ),
    (
        "it can hold settings that have a price or a limit here",
        "options generation_config sampling_params parameters extra_body response_fields",
    ),
    (
        "it can multiply the work that has one price",
        "best_of n_cmpl num_return_sequences num_beams beam_width use_beam_search candidate_count chat_template \
         prompt_embeds multimodal_data embed_overrides",
    ),
    (
        "a server would read it as a prompt that is neither checked nor counted here",
        "prompt prompts messages input inputs input_ids input_embeds content contents texts",
    ),
    ("it would give the prompt as an answer", "echo"),
    (
        "the answer would be made later, so that nothing could be charged for it; send the request without it and wait",
        "background",
    ),
    (
        "nothing is stored; send store false, and the whole conversation with each request",
        "store previous_response_id conversation",
    ),
    (
        "the inference server would run tools itself; tools that the client runs are passed on",
        "mcp_servers container",
    ),
    (
        "it reaches into the inference server or other people's requests",
        "id_slot slot_id session_id session_params rid request_id \
         cache_salt extra_key priority data_parallel_rank kv_transfer_params ec_transfer_params bootstrap_host \
         bootstrap_port bootstrap_room lora lora_path lora_request custom_logit_processor logits_processors draft_model \
         keep_alive ttl",
    ),
    (
        "it decides where and how a proxy sends the request",
        "models fallbacks context_window_fallbacks api_base api_key api_version base_url organization headers \
         extra_headers extra_query custom_llm_provider model_list litellm_params litellm_credential_name mock_response \
         mock_tool_calls mock_timeout max_retries num_retries timeout stream_timeout request_timeout aws_access_key_id \
         aws_secret_access_key aws_session_token aws_region_name aws_role_name aws_web_identity_token \
         aws_bedrock_runtime_endpoint vertex_credentials vertex_project vertex_location azure_ad_token",
    ),
];
