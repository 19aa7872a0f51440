//! What a request of Anthropic's API may contain: the blocks of its messages, its tools, how it thinks.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::media::{check_member, is_base64, is_picture, unsupported, within_most};
use super::object::{Inner, Object};
use super::refused;
use super::response_items::format;
use super::values::{
    AGENT_TOOLS_BYTES, Checked, budget, check_schema_of, flag, functions_of, is_object, is_one_of,
    list, must, text, turns,
};

const ROLES: &[&str] = &["user", "assistant", "system"];
const BLOCKS: &[&str] = &[
    "text",
    "image",
    "tool_use",
    "tool_result",
    "thinking",
    "redacted_thinking",
    "document",
];
const TEXT_OR_BLOCKS: &str = "must be a text, or an array of blocks, each an object";

/// An array of objects, each with a role and a content.
pub(super) fn messages(at: &str, value: &RawValue) -> Checked {
    const OBJECTS: &str = "must be an array of at least one message, each an object";
    let mut media = 0;
    for (at, message) in turns(at, value, OBJECTS)? {
        let message = Object::read(&at, message)?;
        let role = message.required("role")?;
        is_one_of(&role.at, role.value, ROLES)?;
        message.required("content")?;
        for member in &message.members {
            media += match member.name.as_str() {
                "role" => 0,
                "content" => blocks(&member.at, member.value, BLOCKS)?,
                _ => check_member(member)?,
            };
        }
    }
    within_most(at, media)
}

/// A text, or blocks of text.
pub(super) fn system(at: &str, value: &RawValue) -> Checked {
    blocks(at, value, &["text"])
}

fn blocks(at: &str, value: &RawValue, kinds: &[&str]) -> Checked {
    if value.get().starts_with('"') {
        return text(at, value);
    }
    let mut media = 0;
    for (at, block) in list(at, value, TEXT_OR_BLOCKS)? {
        let block = Object::read(&at, block)?;
        let kind = block.required("type")?;
        is_one_of(&kind.at, kind.value, kinds)?;
        let kind = kind.text();
        match kind.as_str() {
            "text" | "thinking" => block.required(&kind)?,
            "image" | "document" => block.required("source")?,
            "tool_result" => block.required("tool_use_id")?,
            "tool_use" => {
                block.required("id")?;
                block.required("name")?;
                block.required("input")?
            }
            _ => block.required("data")?,
        };
        for member in &block.members {
            media += match (kind.as_str(), member.name.as_str()) {
                (_, "type" | "cache_control") => 0,
                (_, "text" | "thinking" | "signature" | "id" | "tool_use_id" | "name") => {
                    text(&member.at, member.value)?
                }
                ("image", "source") => picture(member)?,
                ("document", "source") => document(member)?,
                // Nothing in it runs tools or has thoughts: what a client's tool gave.
                ("tool_result", "content") => {
                    blocks(&member.at, member.value, &["text", "image", "document"])?
                }
                ("tool_result", "is_error") => flag(&member.at, member.value)?,
                ("redacted_thinking", "data") => text(&member.at, member.value)?,
                // What a model wrote itself, and quotations.
                ("tool_use", "input") => {
                    must(&member.at, is_object(member.value), "must be an object")?
                }
                (_, "citations") => 0,
                _ => check_member(member)?,
            };
        }
    }
    Ok(media)
}

/// A picture in the request itself.
fn picture(source: &Inner<'_>) -> Checked {
    const DETAIL: &str = "must be base64, with the media_type image/png, image/jpeg, image/webp or image/gif and its data: \
                          addresses and files are not fetched";
    let source = Object::read(&source.at, source.value)?;
    let refused = |member: &Inner<'_>| {
        let detail = format!("{} {DETAIL}", &member.at[1..]);
        Err(unsupported(&member.at, detail))
    };
    let kind = source.required("type")?;
    if kind.text() != "base64" {
        return refused(kind);
    }
    source.required("media_type")?;
    source.required("data")?;
    for member in &source.members {
        let text = member.text();
        let holds = match member.name.as_str() {
            "type" => true,
            "media_type" => text.strip_prefix("image/").is_some_and(is_picture),
            "data" => is_base64(&text),
            name => {
                check_member(member)?;
                let detail = "of a picture, type, media_type and data are";
                return Err(super::refused(&member.at, name, detail));
            }
        };
        if !holds {
            return refused(member);
        }
    }
    Ok(1)
}

/// A document whose text is in the request.
fn document(source: &Inner<'_>) -> Checked {
    let source = Object::read(&source.at, source.value)?;
    let kind = source.required("type")?;
    if kind.text() != "text" {
        let detail = format!(
            "{} must be text, with the document's text as data: addresses and files are not fetched",
            &kind.at[1..]
        );
        return Err(unsupported(&kind.at, detail));
    }
    source.required("data")?;
    for member in &source.members {
        match member.name.as_str() {
            "type" | "media_type" | "data" => text(&member.at, member.value)?,
            _ => check_member(member)?,
        };
    }
    Ok(0)
}

/// Tools that the client runs: no tool that a server runs.
pub(super) fn tools(at: &str, value: &RawValue) -> Checked {
    for (at, tool) in functions_of(at, value, AGENT_TOOLS_BYTES)? {
        let tool = Object::read(&at, tool)?;
        if let Some(kind) = tool.get("type")
            && kind.text() != "custom"
        {
            let name = kind.value.get().trim_matches('"');
            let detail = "an inference server would run this tool itself, or does not know its definition; tools of type custom, with \
                          their input_schema, are run by the client";
            return Err(refused(&kind.at, name, detail));
        }
        tool.required("name")?;
        for member in &tool.members {
            let (at, value) = (&member.at, member.value);
            match member.name.as_str() {
                "name" | "description" => text(at, value)?,
                "input_schema" => check_schema_of(at, value)?,
                _ => 0,
            };
        }
    }
    Ok(0)
}

pub(super) fn tool_choice(at: &str, value: &RawValue) -> Checked {
    let choice = Object::read(at, value)?;
    choice.required("type")?;
    for member in &choice.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "type" => is_one_of(at, value, &["auto", "any", "tool", "none"])?,
            "name" => text(at, value)?,
            "disable_parallel_tool_use" => flag(at, value)?,
            _ => 0,
        };
    }
    Ok(0)
}

pub(super) fn thinking(at: &str, value: &RawValue) -> Checked {
    let thinking = Object::read(at, value)?;
    thinking.required("type")?;
    for member in &thinking.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "type" => is_one_of(at, value, &["enabled", "disabled", "adaptive"])?,
            "budget_tokens" => budget(at, value)?,
            "display" => text(at, value)?,
            name => {
                return Err(refused(
                    at,
                    name,
                    "of thinking, type, budget_tokens and display are",
                ));
            }
        };
    }
    Ok(0)
}

/// The thinking of an answer whose limit is lower than its client asked for: its budget has to be below that too, or vLLM refuses
/// the request. `None` where it is, or where the limit is less than the least budget that there is.
pub(crate) fn thinking_within(value: &RawValue, limit: u32) -> Option<Box<RawValue>> {
    const LEAST: u32 = 1_024;
    let mut thinking: Map<String, Value> = serde_json::from_str(value.get()).ok()?;
    let budget = thinking.get_mut("budget_tokens")?;
    if limit <= LEAST || budget.as_f64()? < f64::from(limit) {
        return None;
    }
    *budget = (limit - 1).into();
    serde_json::value::to_raw_value(&thinking).ok()
}

pub(super) fn output_config(at: &str, value: &RawValue) -> Checked {
    for member in &Object::read(at, value)?.members {
        match member.name.as_str() {
            "effort" => text(&member.at, member.value)?,
            "format" => format(&member.at, member.value)?,
            name => {
                return Err(refused(
                    &member.at,
                    name,
                    "of output_config, effort and format are",
                ));
            }
        };
    }
    Ok(0)
}
