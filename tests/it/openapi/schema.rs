//! As much of JSON Schema (2020-12) as the document uses for answers. Stricter in one thing: a member that the schema
//! does not name is a violation, as clients would not know of it.

use serde_json::Value;

const BASE64: &str = "^[A-Za-z0-9+/=_-]+$";

/// What a `$ref` leads to, or the value itself.
pub(super) fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(to) => {
            let found = document.pointer(to.strip_prefix('#').unwrap());
            found.unwrap_or_else(|| panic!("{to} leads nowhere"))
        }
        None => schema,
    }
}

/// Every violation of `schema` by `value`.
pub(super) fn violations(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    validate(document, schema, value, "", &mut found);
    found
}

fn validate(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let schema = resolve(document, schema);
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any
            .iter()
            .any(|one| violations(document, one, value).is_empty());
        if !fits {
            found.push(format!("{at}: fits none of {any:?}"));
        }
    }
    if !has_type(&schema["type"], value) {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        found.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        found.push(format!("{at}: {number} is less than {least}"));
    }
    if let (Some(most), Some(number)) = (schema["maximum"].as_f64(), value.as_f64())
        && number > most
    {
        found.push(format!("{at}: {number} is more than {most}"));
    }
    if let (Some(below), Some(number)) = (schema["exclusiveMinimum"].as_f64(), value.as_f64())
        && number <= below
    {
        found.push(format!("{at}: {number} is not above {below}"));
    }
    let length = match value {
        Value::Array(items) => Some((items.len(), "Items")),
        Value::Object(members) => Some((members.len(), "Properties")),
        _ => None,
    };
    if let Some((length, kind)) = length {
        let bound = |name: &str| schema[format!("{name}{kind}")].as_u64();
        let least = bound("min").is_none_or(|least| length as u64 >= least);
        let most = bound("max").is_none_or(|most| length as u64 <= most);
        if !(least && most) {
            found.push(format!("{at}: has {length} {kind}"));
        }
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str()) {
        // Of patterns those of media alone.
        let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte);
        let fits = match pattern {
            BASE64 => !text.is_empty() && text.bytes().all(is_digit),
            pattern if pattern.starts_with("^data:") => text.starts_with("data:image/png;base64,"),
            _ => true,
        };
        if !fits {
            found.push(format!("{at}: {text} does not match {pattern}"));
        }
    }
    if schema["format"] == "date-time"
        && let Some(text) = value.as_str()
        && !(text.len() == 24 && text.ends_with('Z'))
    {
        found.push(format!("{at}: {text} is no time"));
    }
    // What a text holds, where it is JSON (JSON Schema, 8.5); the last event of a stream is none.
    if let (Some(content), Some(text)) = (schema.get("contentSchema"), value.as_str())
        && text != "[DONE]"
    {
        match serde_json::from_str(text) {
            Ok(inner) => validate(document, content, &inner, at, found),
            Err(error) => found.push(format!("{at}: {text} is no JSON: {error}")),
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        validate(
            document,
            &schema["items"],
            item,
            &format!("{at}/{index}"),
            found,
        );
    }
    if let (Some(known), Some(members)) = (schema["properties"].as_object(), value.as_object()) {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                found.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, member) in members {
            match known.get(name) {
                Some(schema) => validate(document, schema, member, &format!("{at}/{name}"), found),
                None if schema["additionalProperties"] == true => {}
                None if schema["additionalProperties"].is_object() => {
                    let schema = &schema["additionalProperties"];
                    validate(document, schema, member, &format!("{at}/{name}"), found);
                }
                None => found.push(format!("{at}/{name} is not documented")),
            }
        }
    }
}

/// Whether a schema's `type` is this one, or has it among others.
pub(super) fn is_type(named: &Value, kind: &str) -> bool {
    let mut several = named.as_array().into_iter().flatten();
    named == kind || several.any(|one| one == kind)
}

fn has_type(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(|kind| has_type(kind, value)),
        kind => match kind.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("the type {other} is not known"),
        },
    }
}

#[test]
fn a_member_that_is_renamed_missing_or_of_another_type_is_noticed() {
    let schema = serde_json::json!({
        "type": "object", "required": ["a"],
        "properties": { "a": { "type": ["integer", "null"] }, "b": { "enum": ["x"] } },
    });
    let count = |value| violations(&Value::Null, &schema, &value).len();
    assert_eq!(count(serde_json::json!({ "a": null, "b": "x" })), 0);
    assert_eq!(count(serde_json::json!({ "a": 1.5 })), 1);
    assert_eq!(count(serde_json::json!({ "c": 1 })), 2);
    assert_eq!(count(serde_json::json!({ "a": 1, "b": "y" })), 1);
    assert_eq!(count(serde_json::json!([])), 1);
}
