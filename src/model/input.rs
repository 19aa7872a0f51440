//! Reads JSON that a client sent into its type, so that every error names the member it is about.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny};
use serde_json::value::RawValue;
use serde_path_to_error::Segment;

use super::{Credits, Timestamp};

/// What is wrong with a request; the HTTP layer turns it into a code and a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputKind {
    /// The body is not JSON.
    Json,
    /// A member is missing, unknown, of the wrong type or out of range.
    Field,
    /// A member is not a valid wallet address.
    Wallet,
    /// A member is not supported, whatever its value.
    Parameter,
    /// Media that is not part of the body.
    Media,
}

/// An error in what a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputError {
    /// What kind of error.
    pub kind: InputKind,
    /// A JSON pointer (RFC 6901) into the body, or the name of a query parameter or header.
    pub pointer: String,
    /// What is wrong, for the client.
    pub detail: String,
}

impl InputError {
    /// An error in the value at `pointer`.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: InputKind::Field,
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }

    /// An error in a member of the body: `detail` follows its name.
    pub(crate) fn member(name: &str, detail: &str) -> Self {
        Self::field(format!("/{name}"), format!("{name} {detail}"))
    }

    pub(super) fn json(error: &serde_json::Error) -> Self {
        Self {
            kind: InputKind::Json,
            pointer: String::new(),
            detail: format!("the body is not valid JSON: {error}"),
        }
    }
}

/// The JSON pointer of the member `name` in the object at `at` (RFC 6901).
pub(crate) fn pointer(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Reads one JSON object; `at` is its JSON pointer in the body, empty where it is the whole body.
///
/// # Errors
/// What serde refuses, with the pointer to the member.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(
    text: &'a str,
    at: &str,
) -> Result<T, InputError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let object = serde_path_to_error::deserialize(&mut deserializer);
    let object = object.map_err(|error| invalid(text, at, &error))?;
    let end = deserializer.end();
    end.map_err(|error| InputError::json(&error))?;
    // serde's derive reads a struct from an array too.
    match text.trim_start().starts_with('{') {
        true => Ok(object),
        false => Err(InputError::field(at, "must be a JSON object")),
    }
}

fn invalid(
    body: &str,
    at: &str,
    error: &serde_path_to_error::Error<serde_json::Error>,
) -> InputError {
    // serde_json reports some values of the wrong type as errors of syntax.
    if let Err(error) = serde_json::from_str::<IgnoredAny>(body) {
        return InputError::json(&error);
    }
    let text = error.inner().to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let (mut place, mut name) = (at.to_owned(), String::new());
    for segment in error.path() {
        if let Segment::Seq { index } = segment {
            place += &format!("/{index}");
        } else {
            name = segment.to_string();
            place = pointer(&place, &name);
        }
    }
    // These texts name their member; the path has it only where it is unknown.
    if text.starts_with("unknown field `") {
        return InputError::field(place, text);
    }
    for prefix in ["missing field `", "duplicate field `"] {
        if let Some(member) = text.strip_prefix(prefix) {
            return InputError::field(pointer(&place, member.trim_end_matches('`')), text);
        }
    }
    let detail = match text.rsplit_once(", expected ") {
        Some(_) if name.is_empty() => "must be a JSON object".to_owned(),
        Some((_, expected)) => format!("{name} must be {expected}"),
        None => match text {
            "expected value" => format!("{name} has the wrong type"),
            "number out of range" => format!("{name} is out of range"),
            text => format!("{name} {text}"),
        },
    };
    let kind = match &*name {
        "wallet_address" => InputKind::Wallet,
        _ => InputKind::Field,
    };
    InputError {
        kind,
        ..InputError::field(place, detail)
    }
}

/// How many objects and arrays a body may nest: other programs' parsers and templates recurse over what is passed on.
const MAX_DEPTH: usize = 32;

/// Refuses a body that is nested too deeply, by its brackets alone: its parser decides whether it is JSON.
///
/// # Errors
/// Where it is.
pub(crate) fn check_depth(body: &str) -> Result<(), InputError> {
    let mut depth = 0usize;
    let mut rest = body.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => {
                // To the end of the string; what a backslash escapes is part of it.
                while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
                    let escape = rest[at] == b'\\';
                    rest = rest.get(at + 1 + usize::from(escape)..).unwrap_or_default();
                    if !escape {
                        break;
                    }
                }
            }
            b'{' | b'[' if depth == MAX_DEPTH => {
                let detail =
                    format!("the body nests objects and arrays deeper than {MAX_DEPTH} levels");
                return Err(InputError::field("", detail));
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// A whole number in a range. JSON has one kind of number, so `36.0` is one too.
#[derive(Clone, Copy)]
pub(crate) struct Whole<const MIN: i64, const MAX: i64>(pub(crate) i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        // A float holds whole numbers of 15 digits exactly.
        let from_float = |float: &f64| float.fract() == 0.0 && float.abs() < 1e15;
        let float = || number.as_f64().filter(from_float);
        match number
            .as_i64()
            .or_else(|| float().map(|float| float as i64))
        {
            Some(whole) if (MIN..=MAX).contains(&whole) => Ok(Self(whole)),
            _ => Err(D::Error::custom(format!(
                "must be a whole number from {MIN} to {MAX}"
            ))),
        }
    }
}

/// A text or a number, whose digits are read exactly; from JSON texts only.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?.get();
        let text = serde_json::from_str::<String>(value);
        Self::parse(text.as_deref().unwrap_or(value)).map_err(D::Error::custom)
    }
}

/// For `deserialize_with`: an amount, from the digits of its number.
pub(crate) fn exact_credits<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Credits, D::Error> {
    let number = <&RawValue>::deserialize(deserializer)?.get();
    Credits::parse(number).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Wallet;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(deserialize_with = "exact_credits")]
        amount: Credits,
        reason: Option<String>,
        wallet_address: Option<Wallet>,
        count: Option<Whole<1, 9>>,
        #[serde(default)]
        times: Vec<Timestamp>,
    }

    fn read(body: &str) -> Result<Body, InputError> {
        read_object(body, "")
    }

    #[test]
    fn each_error_names_its_member() {
        use InputKind::{Field, Json};
        for (body, kind, pointer, detail) in [
            ("{", Json, "", "the body is not valid JSON"),
            ("{\"amount\":1} x", Json, "", "the body is not valid JSON"),
            ("[]", Field, "", "must be a JSON object"),
            ("[1]", Field, "", "must be a JSON object"),
            ("7", Field, "", "must be a JSON object"),
            ("{}", Field, "/amount", "missing field `amount`"),
            (
                "{\"amount\":null}",
                Field,
                "/amount",
                "amount must be a plain decimal number",
            ),
            (
                "{\"amount\":\"1\"}",
                Field,
                "/amount",
                "amount must be a plain decimal number",
            ),
            (
                "{\"amount\":1e3}",
                Field,
                "/amount",
                "amount must be a plain decimal number",
            ),
            (
                "{\"amount\":1,\"reason\":7}",
                Field,
                "/reason",
                "reason must be a string",
            ),
            (
                "{\"amount\":1,\"a/b~\":7}",
                Field,
                "/a~1b~0",
                "unknown field `a/b~`, expected one of",
            ),
            (
                "{\"amount\":1,\"amount\":2}",
                Field,
                "/amount",
                "duplicate field `amount`",
            ),
            (
                "{\"amount\":1,\"wallet_address\":\"remes1x\"}",
                InputKind::Wallet,
                "/wallet_address",
                "wallet_address a wallet",
            ),
            (
                "{\"amount\":1,\"count\":10}",
                Field,
                "/count",
                "count must be a whole number from 1 to 9",
            ),
            (
                "{\"amount\":1,\"count\":1.5}",
                Field,
                "/count",
                "count must be a whole number from 1 to 9",
            ),
            (
                "{\"amount\":1,\"times\":[1,\"x\"]}",
                Field,
                "/times/1",
                "times must be a time",
            ),
        ] {
            let error = read(body).err().unwrap();
            assert_eq!(
                (error.kind, error.pointer.as_str()),
                (kind, pointer),
                "{body}: {error:?}"
            );
            assert!(error.detail.starts_with(detail), "{body}: {}", error.detail);
        }
    }

    #[test]
    fn escaped_names_exact_amounts_and_whole_floats_are_read() {
        let body = r#"{"am\u006funt":1.000001,"reason":"two\nlines","count":3.0,"wallet_address":null,"times":["1795489200.25",1795489200.25]}"#;
        let body = read(body).unwrap();
        assert_eq!(body.amount.micro(), 1_000_001);
        assert_eq!(body.reason.unwrap(), "two\nlines");
        assert_eq!(body.count.unwrap().0, 3);
        assert!(body.wallet_address.is_none());
        assert_eq!(body.times[0], body.times[1]);
    }

    #[test]
    fn a_body_is_refused_by_its_depth_and_not_by_the_brackets_in_its_texts() {
        let nested = |open: &str, depth: usize, close: &str| {
            check_depth(&format!("{}1{}", open.repeat(depth), close.repeat(depth)))
        };
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"[\\\"\":", "}]")] {
            let each = open.matches(['[', '{']).count().min(close.len());
            nested(open, MAX_DEPTH / each, close).unwrap();
            let refused = nested(open, MAX_DEPTH / each + 1, close).unwrap_err();
            assert!(refused.detail.contains("32"), "{}", refused.detail);
        }
        for flat in [
            "[],".repeat(99),
            format!("[\"{}\"]", "[\\\"{\\\\".repeat(99)),
        ] {
            check_depth(&flat).unwrap();
        }
        // A string that does not end, and one that ends with its escape, are for the parser to refuse.
        for broken in ["\"[[[", "\"\\", "]]]"] {
            check_depth(broken).unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            let _ = read(&body);
            let _ = check_depth(&body);
        }
    }
}
