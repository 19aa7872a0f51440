//! The bounds of values that are forwarded: what compiles into a grammar, counts, or makes an answer larger.

use std::ops::RangeInclusive;

use serde_json::value::RawValue;

use super::object::Object;
use super::{is_in, refused, wrong};
use crate::model::input::depth;
use crate::model::{InputError, Whole, items, members, pointer};

/// Bytes and levels of a JSON schema, which servers compile.
const SCHEMA_BYTES: usize = 16 << 10;
const DEPTH: usize = 16;
const TOOLS: usize = 128;
const TOOLS_BYTES: usize = 64 << 10;
/// Those of an agent, as it sends all its own and those of its MCP servers with each request: one of Claude Code without any
/// MCP server has 63 KiB in all.
pub(super) const AGENT_TOOLS_BYTES: usize = 256 << 10;
const WINDOW: i64 = 1 << 20;
const TOKEN_IDS: usize = 128;
const BIASES: usize = 300;

pub(super) type Checked = Result<usize, InputError>;

pub(super) fn must(at: &str, holds: bool, detail: &str) -> Checked {
    if holds { Ok(0) } else { Err(wrong(at, detail)) }
}

fn is<'a, T: serde::Deserialize<'a>>(value: &'a RawValue) -> bool {
    serde_json::from_str::<T>(value.get()).is_ok()
}

pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The objects of an array, each with its pointer; `detail` says what it must be.
pub(super) fn list<'a>(
    at: &str,
    value: &'a RawValue,
    detail: &str,
) -> Result<Vec<(String, &'a RawValue)>, InputError> {
    must(at, value.get().starts_with('['), detail)?;
    let items = items(value)?;
    must(at, items.iter().all(|item| is_object(item)), detail)?;
    let items = items.into_iter().enumerate();
    let items = items.map(|(index, item)| (format!("{at}/{index}"), item));
    Ok(items.collect())
}

/// The messages or items of a conversation: at least one, and no deeper than a template may have to go.
pub(super) fn turns<'a>(
    at: &str,
    value: &'a RawValue,
    detail: &str,
) -> Result<Vec<(String, &'a RawValue)>, InputError> {
    let turns = list(at, value, detail)?;
    must(at, !turns.is_empty(), detail)?;
    let depth = depth(value.get());
    let detail = format!("is nested {depth} deep, but may be {DEPTH} levels");
    must(at, depth <= DEPTH, &detail)?;
    Ok(turns)
}

/// A text that is one of a few.
pub(super) fn is_one_of(at: &str, value: &RawValue, words: &[&str]) -> Checked {
    let word = serde_json::from_str::<String>(value.get());
    let holds = word.is_ok_and(|word| words.contains(&word.as_str()));
    must(at, holds, &format!("must be {}", words.join(" or ")))
}

pub(super) fn number(at: &str, value: &RawValue) -> Checked {
    must(at, is::<f64>(value), "must be a number")
}

pub(super) fn seed(at: &str, value: &RawValue) -> Checked {
    // The largest float below 2^64.
    const MOST: f64 = 18_446_744_073_709_549_568.0;
    let is_whole = is::<i64>(value) || is::<u64>(value) || is_whole(value, i64::MIN as f64..=MOST);
    must(at, is_whole, "must be a whole number of 64 bits")
}

/// How many of the last tokens a sampler keeps, -1 for the whole context: llama.cpp reserves memory for as many.
pub(super) fn window(at: &str, value: &RawValue) -> Checked {
    let window = serde_json::from_str::<Whole<-1, WINDOW>>(value.get());
    let detail = format!("must be a whole number from -1 to {WINDOW}");
    must(at, window.is_ok(), &detail)
}

/// JSON has one kind of number, so `36.0` is a whole one too.
fn is_whole(value: &RawValue, range: RangeInclusive<f64>) -> bool {
    let number = serde_json::from_str::<f64>(value.get());
    number.is_ok_and(|number| number.fract() == 0.0 && range.contains(&number))
}

pub(super) fn flag(at: &str, value: &RawValue) -> Checked {
    must(at, is::<bool>(value), "must be true or false")
}

pub(super) fn text(at: &str, value: &RawValue) -> Checked {
    must(at, is::<String>(value), "must be a text")
}

pub(super) fn up_to_20(at: &str, value: &RawValue) -> Checked {
    let detail = "must be a whole number from 0 to 20";
    must(at, is_whole(value, 0.0..=20.0), detail)
}

pub(super) fn budget(at: &str, value: &RawValue) -> Checked {
    let detail = "must be a whole number from 0 to 4294967295";
    must(at, is_whole(value, 0.0..=f64::from(u32::MAX)), detail)
}

/// A text, or a few of them.
pub(super) fn texts<const MOST: usize>(at: &str, value: &RawValue) -> Checked {
    let list = serde_json::from_str::<Vec<String>>(value.get());
    let holds = is::<String>(value) || list.is_ok_and(|list| list.len() <= MOST);
    must(
        at,
        holds,
        &format!("must be a text, or an array of at most {MOST} texts"),
    )
}

pub(super) fn token_ids(at: &str, value: &RawValue) -> Checked {
    let list = serde_json::from_str::<Vec<f64>>(value.get());
    let is_whole = |list: &[f64]| list.iter().all(|id| id.fract() == 0.0);
    let holds = list.is_ok_and(|list| list.len() <= TOKEN_IDS && is_whole(&list));
    must(
        at,
        holds,
        &format!("must be an array of at most {TOKEN_IDS} whole numbers"),
    )
}

pub(super) fn logit_bias(at: &str, value: &RawValue) -> Checked {
    let detail = format!("must be an object of at most {BIASES} tokens, each with a number");
    must(at, is_object(value), &detail)?;
    let biases = members(value.get(), at)?;
    must(
        at,
        biases.len() <= BIASES && biases.iter().all(|(_, bias)| is::<f64>(bias)),
        &detail,
    )
}

/// A mode, or the function to call.
pub(super) fn function_choice(at: &str, value: &RawValue) -> Checked {
    if is_object(value) {
        return Ok(0);
    }
    let word = serde_json::from_str::<String>(value.get());
    let holds = word.is_ok_and(|word| ["none", "auto", "required"].contains(&word.as_str()));
    must(
        at,
        holds,
        "must be none, auto, required, or an object with the function",
    )
}

/// A penalty by which likelihoods are divided.
pub(super) fn positive(at: &str, value: &RawValue) -> Checked {
    let factor = serde_json::from_str::<f64>(value.get());
    let holds = factor.is_ok_and(|factor| factor > 0.0);
    must(at, holds, "must be a number above 0")
}

/// Texts of which the answer is one; they become a grammar.
pub(super) fn choices(at: &str, value: &RawValue) -> Checked {
    must(at, is::<Vec<String>>(value), "must be an array of texts")?;
    schema_size(at, value)
}

pub(super) fn structured_outputs(at: &str, value: &RawValue) -> Checked {
    must(at, is_object(value), "must be an object")?;
    for (name, value) in members(value.get(), at)? {
        let at = pointer(at, &name);
        match name.as_str() {
            "choice" => choices(&at, value)?,
            _ => return Err(refused(&at, &name, "choice alone is")),
        };
    }
    Ok(0)
}

/// Settings of the model's template: switches, no code and no text for it.
pub(super) fn kwargs(at: &str, value: &RawValue) -> Checked {
    const KWARGS: &str = "enable_thinking thinking reasoning_effort";
    must(at, is_object(value), "must be an object")?;
    for (name, value) in members(value.get(), at)? {
        let at = pointer(at, &name);
        if !is_in(KWARGS, &name) {
            return Err(refused(
                &at,
                &name,
                &format!("of chat_template_kwargs, {KWARGS} are"),
            ));
        }
        let is_scalar = !value.get().starts_with(['{', '[']);
        must(&at, is_scalar, "must be a text, a number, true or false")?;
    }
    Ok(0)
}

pub(super) fn response_format(at: &str, value: &RawValue) -> Checked {
    must(at, is_object(value), "must be an object")?;
    let members = members(value.get(), at)?;
    let has_type = members.iter().any(|(name, _)| name == "type");
    must(&pointer(at, "type"), has_type, "is missing")?;
    for (name, value) in members {
        let at = pointer(at, &name);
        match name.as_str() {
            "type" => is_one_of(&at, value, &["text", "json_object", "json_schema"])?,
            _ if value.get() == "null" => 0,
            // llama.cpp takes it here too.
            "schema" => schema(&at, value)?,
            "json_schema" => json_schema(&at, value)?,
            _ => return Err(refused(&at, &name, "type and json_schema are")),
        };
    }
    Ok(0)
}

fn json_schema(at: &str, value: &RawValue) -> Checked {
    must(at, is_object(value), "must be an object")?;
    for (name, value) in members(value.get(), at)? {
        let at = pointer(at, &name);
        match name.as_str() {
            _ if value.get() == "null" => 0,
            "schema" => schema(&at, value)?,
            "name" | "description" => text(&at, value)?,
            "strict" => flag(&at, value)?,
            _ => {
                return Err(refused(
                    &at,
                    &name,
                    "name, description, schema and strict are",
                ));
            }
        };
    }
    Ok(0)
}

pub(super) fn schema(at: &str, value: &RawValue) -> Checked {
    must(at, is_object(value), "must be an object")?;
    schema_size(at, value)?;
    no_pattern(at, value)
}

pub(super) fn schema_size(at: &str, value: &RawValue) -> Checked {
    compiled(at, value, SCHEMA_BYTES)
}

/// What a server compiles, of so many bytes at most.
fn compiled(at: &str, value: &RawValue, most: usize) -> Checked {
    let (bytes, depth) = (value.get().len(), depth(value.get()));
    must(
        at,
        bytes <= most,
        &format!("has {bytes} bytes, but at most {most} are compiled"),
    )?;
    must(
        at,
        depth <= DEPTH,
        &format!("is nested {depth} deep, but at most {DEPTH} levels are compiled"),
    )
}

/// Refuses regular expressions, whose grammar can be of any size, and schemas from elsewhere. A property may have their name.
fn no_pattern(at: &str, value: &RawValue) -> Checked {
    match value.get().as_bytes().first() {
        Some(b'{') => {
            for (name, value) in members(value.get(), at)? {
                let at = pointer(at, &name);
                let is_text = value.get().starts_with('"');
                if name == "patternProperties" || name == "pattern" && is_text {
                    return Err(wrong(
                        &at,
                        "must be left out: no regular expressions are compiled",
                    ));
                }
                let reference = serde_json::from_str::<String>(value.get());
                if name == "$ref" && reference.is_ok_and(|to| !to.starts_with('#')) {
                    return Err(wrong(&at, "must begin with #: no other schema is fetched"));
                }
                no_pattern(&at, value)?;
            }
        }
        Some(b'[') => {
            for (index, item) in items(value)?.into_iter().enumerate() {
                no_pattern(&format!("{at}/{index}"), item)?;
            }
        }
        _ => {}
    }
    Ok(0)
}

/// The functions that a model may call.
pub(super) fn tools(at: &str, value: &RawValue) -> Checked {
    for (at, tool) in functions_of(at, value, TOOLS_BYTES)? {
        let tool = Object::read(&at, tool)?;
        let kind = tool.required("type")?;
        is_one_of(&kind.at, kind.value, &["function"])?;
        let function = tool.required("function")?;
        check_function(&function.at, function.value)?;
    }
    Ok(0)
}

/// The older form of tools.
pub(super) fn functions(at: &str, value: &RawValue) -> Checked {
    for (at, function) in functions_of(at, value, TOOLS_BYTES)? {
        check_function(&at, function)?;
    }
    Ok(0)
}

pub(super) fn functions_of<'a>(
    at: &str,
    value: &'a RawValue,
    most: usize,
) -> Result<Vec<(String, &'a RawValue)>, InputError> {
    let detail = format!("must be an array of at most {TOOLS} objects");
    let bytes = value.get().len();
    must(
        at,
        bytes <= most,
        &format!("has {bytes} bytes, but at most {most} are read"),
    )?;
    let functions = list(at, value, &detail)?;
    must(at, functions.len() <= TOOLS, &detail)?;
    Ok(functions)
}

pub(super) fn check_function(at: &str, function: &RawValue) -> Checked {
    let function = Object::read(at, function)?;
    function.required("name")?;
    for member in &function.members {
        let (at, value) = (&member.at, member.value);
        match member.name.as_str() {
            "name" | "description" => text(at, value)?,
            "parameters" => check_schema_of(at, value)?,
            "strict" => flag(at, value)?,
            _ => 0,
        };
    }
    Ok(0)
}

/// The schema of what a function takes.
pub(super) fn check_schema_of(at: &str, value: &RawValue) -> Checked {
    must(at, is_object(value), "must be an object")?;
    compiled(at, value, TOOLS_BYTES)
}
