//! What a request for a response may contain: its items, tools and formats.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::media::{check_message, within_most};
use super::object::{Inner, Object};
use super::values::{
    AGENT_TOOLS_BYTES, Checked, check_function, flag, function_choice, functions_of, is_object,
    is_one_of, list, must, schema, schema_size, text, turns,
};
use super::{is_in, refused};
use crate::model::{InputError, items};

const ITEMS: &[&str] = &[
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
];
/// Those of reasoning are as the client got them.
const PARTS: &[&str] = &[
    "input_text",
    "output_text",
    "input_image",
    "refusal",
    "summary_text",
    "reasoning_text",
];
/// Of the name that a server writes before the name of each tool in it.
pub(crate) const NAMESPACE_BYTES: usize = 128;
const ROLES: &[&str] = &["user", "assistant", "system", "developer"];

/// A text, or items of a conversation.
pub(super) fn input(at: &str, value: &RawValue) -> Checked {
    if value.get().starts_with('"') {
        return Ok(0);
    }
    const DETAIL: &str = "must be a text, or an array of at least one item, each an object";
    let mut media = 0;
    for (at, item) in turns(at, value, DETAIL)? {
        media += check_message(&at, item)?;
        let item = Object::read(&at, item)?;
        let kind = item.get("type");
        if let Some(kind) = kind {
            is_one_of(&kind.at, kind.value, ITEMS)?;
        }
        if kind.is_none_or(|kind| kind.text() == "message") {
            item.required("role")?;
            item.required("content")?;
        }
        for member in &item.members {
            let (at, value) = (&member.at, member.value);
            match member.name.as_str() {
                "role" => is_one_of(at, value, ROLES)?,
                "content" | "summary" | "output" => parts(at, value)?,
                "call_id" | "name" | "namespace" | "arguments" | "input" | "encrypted_content" => {
                    text(at, value)?
                }
                _ => 0,
            };
        }
    }
    within_most(at, media)
}

fn parts(at: &str, value: &RawValue) -> Checked {
    const DETAIL: &str = "must be a text, or an array of parts, each an object";
    if value.get().starts_with('"') {
        return text(at, value);
    }
    for (at, part) in list(at, value, DETAIL)? {
        let part = Object::read(&at, part)?;
        let kind = part.required("type")?;
        is_one_of(&kind.at, kind.value, PARTS)?;
        let required = match kind.text().as_str() {
            "input_image" => "image_url",
            "refusal" => "refusal",
            _ => "text",
        };
        part.required(required)?;
        for member in &part.members {
            if member.name == required || member.name == "detail" {
                text(&member.at, member.value)?;
            }
        }
    }
    Ok(0)
}

/// Functions that a model may call, or texts that it writes for the client: no tool that a server runs.
pub(super) fn tools(at: &str, value: &RawValue) -> Checked {
    for (at, item) in functions_of(at, value, AGENT_TOOLS_BYTES)? {
        let tool = Object::read(&at, item)?;
        let kind = tool.required("type")?;
        match kind.text().as_str() {
            "namespace" => {
                let name = tool.required("name")?;
                let detail = format!("must be a text of at most {NAMESPACE_BYTES} bytes");
                must(
                    &name.at,
                    name.value.get().len() <= NAMESPACE_BYTES + 2,
                    &detail,
                )?;
                text(&name.at, name.value)?;
                description(&tool)?;
                let inner = tool.required("tools")?;
                for (at, item) in functions_of(&inner.at, inner.value, AGENT_TOOLS_BYTES)? {
                    own_tool(&at, item)?
                }
            }
            _ if is_search_of_codex(&tool) => {}
            _ => own_tool(&at, item)?,
        }
    }
    Ok(0)
}

fn own_tool(at: &str, item: &RawValue) -> Result<(), InputError> {
    let tool = Object::read(at, item)?;
    let kind = tool.required("type")?;
    match kind.text().as_str() {
        "function" => check_function(at, item)?,
        "custom" => custom(&tool)?,
        _ => {
            let name = kind.value.get().trim_matches('"');
            let detail = "the inference server would run this tool itself; tools of type function, custom and namespace are run by the \
                          client";
            return Err(refused(&kind.at, name, detail));
        }
    };
    Ok(())
}

/// A tool whose input is a text, of any form or of a grammar. A regular expression alone can be of any cost.
fn custom(tool: &Object<'_>) -> Checked {
    let name = tool.required("name")?;
    text(&name.at, name.value)?;
    description(tool)?;
    let Some(format) = tool.get("format") else {
        return Ok(0);
    };
    let format = Object::read(&format.at, format.value)?;
    format.required("type")?;
    for member in &format.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "type" => is_one_of(at, value, &["text", "grammar"])?,
            "syntax" => is_one_of(at, value, &["lark"])?,
            "definition" => text(at, value).and_then(|_| schema_size(at, value))?,
            name => return Err(refused(at, name, "type, syntax and definition are")),
        };
    }
    Ok(0)
}

fn description(tool: &Object<'_>) -> Checked {
    match tool.get("description") {
        Some(description) => text(&description.at, description.value),
        None => Ok(0),
    }
}

/// The search that Codex adds to each request unless it is configured otherwise: of an index ("cached"), or where it runs without
/// a sandbox, of the web ("live"). Servers of OpenAI alone have it, so the request is sent without it. A client that asks for a
/// search itself leaves `external_web_access` out, and is refused.
fn is_search_of_codex(tool: &Object<'_>) -> bool {
    let is_bool = |member: &Inner<'_>| matches!(member.value.get(), "false" | "true");
    tool.get("type")
        .is_some_and(|kind| kind.text() == "web_search")
        && tool.get("external_web_access").is_some_and(is_bool)
}

/// The tools for an inference server, where they are not those of the request.
pub(crate) fn tools_sent(value: &RawValue) -> Option<Box<RawValue>> {
    let is_sent =
        |tool: &&RawValue| !Object::read("", tool).is_ok_and(|tool| is_search_of_codex(&tool));
    let tools = items(value).ok()?;
    let sent: Vec<_> = tools
        .iter()
        .copied()
        .filter(is_sent)
        .map(RawValue::get)
        .collect();
    if sent.len() == tools.len() {
        return None;
    }
    RawValue::from_string(format!("[{}]", sent.join(","))).ok()
}

/// Bytes by which tools are longer in the shape of a chat's: `"type": "function", "function": {}`, an empty description and
/// `"strict": null` around each, and the name of its namespace before its own.
pub(crate) fn tools_added(tools: &RawValue) -> usize {
    const WRAPPED: usize = 96;
    #[derive(Deserialize)]
    struct Namespace<'a> {
        name: String,
        #[serde(borrow)]
        tools: Vec<&'a RawValue>,
    }
    let tools = items(tools).unwrap_or_default();
    let added =
        tools.into_iter().map(
            |tool| match serde_json::from_str::<Namespace<'_>>(tool.get()) {
                Ok(space) => space.tools.len() * (WRAPPED + space.name.len()),
                Err(_) => WRAPPED,
            },
        );
    added.sum()
}

/// A mode, or the tool to call, or some of the tools.
pub(super) fn tool_choice(at: &str, value: &RawValue) -> Checked {
    if !is_object(value) {
        return function_choice(at, value);
    }
    let choice = Object::read(at, value)?;
    choice.required("type")?;
    for member in &choice.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "type" => is_one_of(at, value, &["function", "custom", "allowed_tools"])?,
            "name" => text(at, value)?,
            "mode" => is_one_of(at, value, &["auto", "required"])?,
            "tools" => chosen(at, value)?,
            _ => 0,
        };
    }
    Ok(0)
}

/// Some of the tools.
fn chosen(at: &str, value: &RawValue) -> Checked {
    for (at, tool) in functions_of(at, value, AGENT_TOOLS_BYTES)? {
        let tool = Object::read(&at, tool)?;
        let kind = tool.required("type")?;
        is_one_of(&kind.at, kind.value, &["function", "custom", "namespace"])?;
        if let Some(name) = tool.get("name") {
            text(&name.at, name.value)?;
        }
    }
    Ok(0)
}

/// How a model thinks before it answers.
pub(super) fn reasoning(at: &str, value: &RawValue) -> Checked {
    const NAMES: &str = "effort summary generate_summary context";
    for member in &Object::read(at, value)?.members {
        if !is_in(NAMES, &member.name) {
            let detail = format!("of reasoning, {NAMES} are");
            return Err(refused(&member.at, &member.name, &detail));
        }
        text(&member.at, member.value)?;
    }
    Ok(0)
}

/// What kind of text an answer is.
pub(super) fn text_format(at: &str, value: &RawValue) -> Checked {
    for member in &Object::read(at, value)?.members {
        match member.name.as_str() {
            "verbosity" => text(&member.at, member.value)?,
            "format" => format(&member.at, member.value)?,
            name => {
                return Err(refused(
                    &member.at,
                    name,
                    "of text, format and verbosity are",
                ));
            }
        };
    }
    Ok(0)
}

/// A format whose schema is beside its type.
pub(super) fn format(at: &str, value: &RawValue) -> Checked {
    let format = Object::read(at, value)?;
    format.required("type")?;
    for member in &format.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "type" => is_one_of(at, value, &["text", "json_object", "json_schema"])?,
            "schema" => schema(at, value)?,
            "name" | "description" => text(at, value)?,
            "strict" => flag(at, value)?,
            name => {
                let detail = "of a format, type, name, description, schema and strict are";
                return Err(refused(at, name, detail));
            }
        };
    }
    Ok(0)
}

/// What else an answer is to have.
pub(super) fn include(at: &str, value: &RawValue) -> Checked {
    const MORE: [&str; 2] = [
        "reasoning.encrypted_content",
        "message.output_text.logprobs",
    ];
    let list: Vec<String> =
        serde_json::from_str(value.get()).unwrap_or_else(|_| vec![String::new()]);
    let holds = list.iter().all(|name| MORE.contains(&name.as_str()));
    must(
        at,
        holds,
        &format!("must be an array of {}", MORE.join(" or ")),
    )
}
