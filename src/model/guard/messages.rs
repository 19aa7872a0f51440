//! The messages of a chat: their roles, contents and calls.

use serde_json::value::RawValue;

use super::media::{DESCRIPTIONS, check_message, within_most};
use super::object::Object;
use super::values::{Checked, is_object, is_one_of, list, must, text, turns};
use super::{fold, is_in, refused, wrong};
use crate::model::{members, pointer};

const ROLES: &[&str] = &[
    "developer",
    "system",
    "user",
    "assistant",
    "tool",
    "function",
];
const PARTS: &[&str] = &["text", "image_url", "input_audio", "refusal"];

/// An array of objects, each with a role.
pub(super) fn messages(at: &str, value: &RawValue) -> Checked {
    const OBJECTS: &str = "must be an array of at least one message, each an object";
    let mut media = 0;
    for (at, message) in turns(at, value, OBJECTS)? {
        media += check_message(&at, message)?;
        check(&at, message)?;
    }
    within_most(at, media)
}

fn check(at: &str, message: &RawValue) -> Checked {
    let members = members(message.get(), at)?;
    let role = pointer(at, "role");
    let found = members.iter().find(|(name, _)| name == "role");
    let (_, value) = found.ok_or_else(|| wrong(&role, "is missing"))?;
    is_one_of(&role, value, ROLES)?;
    for (name, value) in members {
        let at = pointer(at, &name);
        match fold(&name).as_str() {
            _ if value.get() == "null" => 0,
            "content" => content(&at, value)?,
            "name" | "tool_call_id" | "reasoning_content" | "refusal" => text(&at, value)?,
            "tool_calls" => calls(&at, value)?,
            "function_call" => call(&at, value)?,
            _ => 0,
        };
    }
    Ok(0)
}

fn content(at: &str, content: &RawValue) -> Checked {
    if content.get().starts_with('"') {
        return Ok(0);
    }
    for (at, part) in list(
        at,
        content,
        "must be a text, an array of parts, each an object, or null",
    )? {
        let members = members(part.get(), &at)?;
        let kind = members.iter().find(|(name, _)| name == "type");
        let (_, kind) = kind.ok_or_else(|| wrong(&pointer(&at, "type"), "is missing"))?;
        is_one_of(&pointer(&at, "type"), kind, PARTS)?;
        let kind: String = serde_json::from_str(kind.get()).unwrap_or_default();
        let at = pointer(&at, &kind);
        let found = members.iter().find(|(name, _)| *name == kind);
        let (_, value) = found.ok_or_else(|| wrong(&at, "is missing"))?;
        match kind.as_str() {
            "text" | "refusal" => text(&at, value)?,
            // The address itself was read as media.
            "image_url" if value.get().starts_with('"') => 0,
            "image_url" => source(&at, value, "url")?,
            _ => source(&at, value, "data")?,
        };
    }
    Ok(0)
}

/// A picture or a sound, whose data were read as media.
fn source(at: &str, value: &RawValue, data: &str) -> Checked {
    let source = Object::read(at, value)?;
    source.required(data)?;
    for member in &source.members {
        if member.name != data && !is_in(DESCRIPTIONS, &member.name) {
            let detail = format!("of a picture or a sound, {data} and what describes it are");
            return Err(refused(&member.at, &member.name, &detail));
        }
        text(&member.at, member.value)?;
    }
    Ok(0)
}

fn calls(at: &str, value: &RawValue) -> Checked {
    for (at, value) in list(at, value, "must be an array of calls, each an object")? {
        let members = members(value.get(), &at)?;
        let has_function = members.iter().any(|(name, _)| name == "function");
        must(&pointer(&at, "function"), has_function, "is missing")?;
        for (name, value) in members {
            let at = pointer(&at, &name);
            match name.as_str() {
                "function" => call(&at, value)?,
                _ if value.get() == "null" => 0,
                "id" => text(&at, value)?,
                "type" => is_one_of(&at, value, &["function"])?,
                _ => 0,
            };
        }
    }
    Ok(0)
}

fn call(at: &str, value: &RawValue) -> Checked {
    let call = Object::read(at, value)?;
    call.required("name")?;
    for member in &call.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "name" => text(at, value)?,
            // Ollama's own clients have them as an object.
            "arguments" if is_object(value) => 0,
            "arguments" => text(at, value)?,
            _ => 0,
        };
    }
    Ok(0)
}
