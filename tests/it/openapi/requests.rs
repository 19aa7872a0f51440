//! The schemas of the requests that go to inference servers against the server: what a schema allows is answered, what it does
//! not allow is refused with the place of what is wrong.

use std::collections::HashSet;

use hyper::Method;
use r3mes_edge::model::{Credits, Price};
use serde_json::{Value, json};

use super::schema::{self, is_type};
use super::{DOCUMENT, v1};
use crate::endpoint_guard::script;
use crate::support::{Scripted, TestServer, Upstream, W1, config_with_inference};

/// Values that a schema allows, and values that it does not, each with the place that is wrong.
#[derive(Default)]
struct Values {
    right: Vec<Value>,
    wrong: Vec<(String, Value)>,
}

fn violates(schema: &Value, value: &Value) -> bool {
    !schema::violations(&DOCUMENT, schema, value).is_empty()
}

/// A few values of each type.
fn simple() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(false),
        json!(0.5),
        json!(7),
        json!("text"),
        json!([]),
        json!({}),
    ]
}

fn values(schema: &Value) -> Values {
    let schema = schema::resolve(&DOCUMENT, schema);
    let mut found = Values::default();
    if let Some(branches) = schema["anyOf"].as_array() {
        let is_object = |branch: &&Value| {
            let branch = schema::resolve(&DOCUMENT, branch);
            is_type(&branch["type"], "object") || branch.get("anyOf").is_some()
        };
        let objects = branches.iter().filter(is_object).count();
        for branch in branches {
            let of_branch = values(branch);
            found.right.extend(of_branch.right);
            for (at, value) in of_branch.wrong {
                // Which of several kinds of objects one was to be is a matter of reading: it is wrong as a whole.
                let is_whole = objects > 1 && value.is_object() && at.rfind('/') == Some(0);
                found
                    .wrong
                    .push((if is_whole { String::new() } else { at }, value));
            }
        }
        found.wrong.retain(|(_, value)| violates(schema, value));
        return found;
    }
    found.right = match (schema["examples"].as_array(), schema["enum"].as_array()) {
        (Some(values), _) | (None, Some(values)) => values.clone(),
        (None, None) => schema.get("const").into_iter().cloned().collect(),
    };
    if found.right.is_empty() {
        let is_right = |value: &Value| !violates(schema, value);
        found.right = simple().into_iter().filter(is_right).collect();
    } else if is_type(&schema["type"], "null") {
        found.right.push(Value::Null);
    }
    found.wrong = simple()
        .into_iter()
        .map(|value| (String::new(), value))
        .collect();
    found
        .wrong
        .push((String::new(), "http://127.0.0.1/a".into()));
    for name in ["minimum", "maximum"] {
        if let Some(bound) = schema.get(name) {
            found.right.push(bound.clone());
            // JSON has one kind of number, so a whole one may have a fraction of 0.
            let bound = bound.as_f64().unwrap();
            // 2^64 - 1 is no float.
            if bound < 1e19 {
                found.right.push(bound.into());
            }
            let more = if name == "minimum" { -1.0 } else { 1e6 };
            found
                .wrong
                .push((String::new(), (bound * 1.01 + more).floor().into()));
        }
    }
    if is_type(&schema["type"], "array") {
        add_arrays(schema, &mut found);
    }
    if is_type(&schema["type"], "object") {
        add_objects(schema, &mut found);
    }
    found.wrong.retain(|(_, value)| violates(schema, value));
    found
}

fn add_arrays(schema: &Value, found: &mut Values) {
    let items = values(&schema["items"]);
    let Some(first) = items.right.first().cloned() else {
        return;
    };
    found
        .right
        .extend(items.right.into_iter().map(|item| json!([item])));
    for (at, item) in items.wrong {
        found.wrong.push((format!("/1{at}"), json!([first, item])));
    }
    if let Some(most) = schema["maxItems"].as_u64() {
        let array = vec![first; most as usize + 1];
        found.right.push(array[1..].into());
        found.wrong.push((String::new(), array.into()));
    }
}

fn add_objects(schema: &Value, found: &mut Values) {
    let properties = schema["properties"].as_object();
    let properties: Vec<_> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name, values(schema)))
        .collect();
    let required = |name: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|one| one == name))
    };
    let base: serde_json::Map<String, Value> = properties
        .iter()
        .filter(|(name, _)| required(name))
        .map(|(name, values)| ((*name).clone(), values.right[0].clone()))
        .collect();
    found.right.retain(|value| !value.is_object());
    found.right.push(base.clone().into());
    let with = |name: &str, value: Value| {
        let mut object = base.clone();
        object.insert(name.to_owned(), value);
        Value::from(object)
    };
    for (name, values) in properties {
        found
            .right
            .extend(values.right.into_iter().map(|value| with(name, value)));
        let wrong = values.wrong.into_iter();
        found
            .wrong
            .extend(wrong.map(|(at, value)| (format!("/{name}{at}"), with(name, value))));
        if required(name) {
            let mut object = base.clone();
            object.remove(name);
            found.wrong.push((format!("/{name}"), object.into()));
        }
    }
    match &schema["additionalProperties"] {
        Value::Bool(false) => found
            .wrong
            .push(("/unlisted".to_owned(), with("unlisted", 1.into()))),
        Value::Object(_) => {
            let values = values(&schema["additionalProperties"]);
            found
                .right
                .extend(values.right.into_iter().map(|value| with("7", value)));
            let wrong = values.wrong.into_iter();
            found
                .wrong
                .extend(wrong.map(|(at, value)| (format!("/7{at}"), with("7", value))));
            if let Some(most) = schema["maxProperties"].as_u64() {
                let object: serde_json::Map<_, _> =
                    (0..=most).map(|at| (at.to_string(), json!(1))).collect();
                found.wrong.push((String::new(), object.into()));
            }
        }
        _ => {}
    }
}

/// The place that a refusal names.
fn pointer(answer: &Value) -> String {
    match answer["errors"][0]["pointer"].as_str() {
        Some(pointer) => pointer.to_owned(),
        // Anthropic's errors have a text alone, which begins with the place.
        None => {
            let text = answer["error"]["message"].as_str().unwrap();
            format!("/{}", text.split_once(' ').unwrap().0)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schema_of_a_request_allows_is_answered_and_all_else_is_refused_with_its_place() {
    let upstream = Upstream::inference(|seen| match seen.path.as_str() {
        "/v1/chat/completions" if seen.body.contains("\"stream\":true") => Scripted::words(&["hi"]),
        "/v1/chat/completions" => Scripted::completion("hi"),
        _ => script(seen),
    })
    .await;
    let mut config = config_with_inference("openai", &upstream);
    // Several answers to a prompt are for prices by tokens.
    config.chat.price = Price::per_request(Credits::from_micro(1));
    config.chat.price.completion = Credits::from_micro(1);
    config.chat.max_output_tokens = Some(10);
    let server = TestServer::start(config).await;
    let payer = server.payer(W1, 1_000).await;
    let apis = v1::APIS.iter().map(|api| (api.path, api.request));
    let mut unlike = Vec::new();
    for (path, name) in apis.chain([("/v1/messages/count_tokens", "CountTokensRequest")]) {
        let schema = &DOCUMENT["components"]["schemas"][name];
        let (mut seen, mut asked) = (HashSet::new(), (0, 0));
        let found = values(schema);
        for mut body in found.right {
            // What is right at this moment only: the models and the wallets that there are.
            for name in ["model", "wallet_address"] {
                body.as_object_mut().unwrap().remove(name);
            }
            if !seen.insert(body.to_string()) {
                continue;
            }
            asked.0 += 1;
            let (status, _, answer) = payer.open(Method::POST, path, &[], body.to_string()).await;
            if status != 200 {
                let answer = v1::text_of(answer).await;
                unlike.push(format!(
                    "{path} {body:.300} is right, but: {status} {answer}"
                ));
            }
        }
        for (at, body) in found.wrong {
            if !seen.insert(body.to_string()) {
                continue;
            }
            asked.1 += 1;
            let (status, _, answer) = payer.open(Method::POST, path, &[], body.to_string()).await;
            if status != 400 {
                unlike.push(format!(
                    "{path} {body:.300} is wrong at {at}, but: {status}"
                ));
                continue;
            }
            let answer = v1::text_of(answer).await;
            let named = pointer(&serde_json::from_str(&answer).unwrap());
            if !named.starts_with(&at) && !at.starts_with(&named) {
                unlike.push(format!(
                    "{path} {body:.300} is wrong at {at}, but: {answer}"
                ));
            }
        }
        assert!(asked.0 > 20 && asked.1 > 20, "{path} {asked:?}");
    }
    assert!(
        unlike.is_empty(),
        "{}:\n{}",
        unlike.len(),
        unlike.join("\n")
    );
}
