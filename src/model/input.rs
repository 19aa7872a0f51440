//! Reads JSON that a client sent into its type, so that every error names the member it is about.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
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
    pub(crate) fn member(name: &str, detail: impl fmt::Display) -> Self {
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

/// A text of an error that may repeat what the client sent, without its middle where it is long: an answer must not be
/// larger than its request.
pub(crate) fn shortened(text: String) -> String {
    const START: usize = 300;
    const END: usize = 200;
    if text.len() <= START + END {
        return text;
    }
    let start = &text[..text.floor_char_boundary(START)];
    let end = &text[text.ceil_char_boundary(text.len() - END)..];
    format!("{start} … {end}")
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
    let object = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // serde_json reports some values of the wrong type as errors of syntax.
        match serde_json::from_str::<IgnoredAny>(text) {
            Err(error) => InputError::json(&error),
            Ok(_) => invalid(at, &error),
        }
    })?;
    let end = deserializer.end();
    end.map_err(|error| InputError::json(&error))?;
    // serde's derive reads a struct from an array too.
    match text.trim_start().starts_with('{') {
        true => Ok(object),
        false => Err(InputError::field(at, "must be a JSON object")),
    }
}

/// Reads the parameters of a query, each at most once. Values are percent-decoded (RFC 3986, 2.1), and a `+` is itself, as in
/// the offset of a time. A value of digits is a number, `true` and `false` are booleans.
///
/// # Errors
/// What serde refuses, with the name of the parameter.
pub(crate) fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, InputError> {
    let mut parameters = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let text = percent_decoded(text).ok_or_else(|| {
            let detail = format!("{name} must be UTF-8, percent-encoded");
            InputError::field(name, detail)
        })?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u64>().ok().filter(|_| digits);
        let value = match (&*text, number) {
            ("true" | "false", _) => Value::from(text == "true"),
            (_, Some(number)) => Value::from(number),
            (_, None) => Value::from(text),
        };
        if parameters.insert(name.to_owned(), value).is_some() {
            let detail = format!("{name} is a duplicate parameter; give it once");
            return Err(InputError::field(name, detail));
        }
    }
    serde_path_to_error::deserialize(Value::Object(parameters)).map_err(|error| {
        let mut error = invalid("", &error);
        error.pointer = error.pointer.trim_start_matches('/').to_owned();
        error.detail = error
            .detail
            .replacen("unknown field", "unknown parameter", 1);
        error
    })
}

/// A text whose bytes may be written as `%` and two hexadecimal digits.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let (first, rest) = text
        .split_once('%')
        .map_or((text, None), |(first, rest)| (first, Some(rest)));
    let mut bytes = first.as_bytes().to_vec();
    for part in rest.into_iter().flat_map(|rest| rest.split('%')) {
        let (digits, plain) = part.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend_from_slice(plain.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn invalid(at: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> InputError {
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
    let mut error = InputError::field(place, detail);
    if matches!(&*name, "wallet_address" | "wallet") {
        error.kind = InputKind::Wallet;
    }
    error
}

/// How many objects and arrays a body may nest: other programs' parsers and templates recurse over what is passed on.
const MAX_DEPTH: usize = 32;

/// Refuses a body that is nested too deeply, by its brackets alone: its parser decides whether it is JSON.
///
/// # Errors
/// Where it is.
pub(crate) fn check_depth(body: &str) -> Result<(), InputError> {
    if depth(body) <= MAX_DEPTH {
        return Ok(());
    }
    let detail = format!("the body nests objects and arrays deeper than {MAX_DEPTH} levels");
    Err(InputError::field("", detail))
}

/// How deep a text nests objects and arrays.
pub(crate) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'"' => in_string = !in_string,
            b'\\' => escaped = in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A whole number in a range. JSON has one kind of number, so `36.0` is one too.
#[derive(Clone, Copy)]
pub(crate) struct Whole<const MIN: i64, const MAX: i64>(pub(crate) i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer).ok();
        // A float holds whole numbers of 15 digits exactly, and no range here has more.
        let number = number.and_then(|number| number.as_f64());
        let is_valid = |n: &f64| n.fract() == 0.0 && (MIN as f64..=MAX as f64).contains(n);
        let whole = number.filter(is_valid).map(|number| Self(number as i64));
        let refused = || format!("must be a whole number from {MIN} to {MAX}");
        whole.ok_or_else(|| D::Error::custom(refused()))
    }
}

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    /// A count.
    pub(crate) fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or_default()
    }
}

/// A text or a number, whose digits are read exactly.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        let text = serde_json::from_str::<String>(value.get());
        Self::parse(text.as_deref().unwrap_or(value.get())).map_err(D::Error::custom)
    }
}

/// For `deserialize_with`: an amount, from the digits of its number.
pub(crate) fn exact_credits<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Credits, D::Error> {
    let number = <&RawValue>::deserialize(deserializer)?.get();
    Credits::parse(number).map_err(D::Error::custom)
}

/// For `deserialize_with` beside `default`: the same, or null.
pub(crate) fn optional_credits<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Credits>, D::Error> {
    match <&RawValue>::deserialize(deserializer)?.get() {
        "null" => Ok(None),
        number => Credits::parse(number).map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests;
