//! As much of JSON Schema (2020-12) as the document uses for answers. Stricter in one thing: a member that the schema
//! does not name is a violation, as clients would not know of it.

use serde_json::Value;

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
    // A narrowing, as the one of an error's code, names only some of the members: the first of all names them all.
    if let Some(all) = schema["allOf"].as_array() {
        validate(document, &all[0], value, at, found);
        for (name, narrower) in all[1]["properties"].as_object().unwrap() {
            validate(
                document,
                narrower,
                &value[name],
                &format!("{at}/{name}"),
                found,
            );
        }
    }
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
    if schema["format"] == "date-time"
        && let Some(text) = value.as_str()
        && !(text.len() == 24 && text.ends_with('Z'))
    {
        found.push(format!("{at}: {text} is no time"));
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
                None => found.push(format!("{at}/{name} is not documented")),
            }
        }
    }
}

fn has_type(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(|kind| has_type(kind, value)),
        kind => match kind.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
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
