//! Reads the members of a JSON object one by one, so that every refusal names its field.
//!
//! serde's derive stops at the first mismatch with a sentence about Rust types and no path; here each member is kept as
//! its own text until the domain type that it is meant to be reads it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Wallet;

/// What kind of mistake a client made, in an [`InputError`]; the edge turns it into a code and a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputKind {
    /// The body is not JSON at all.
    Json,
    /// A member is missing, unknown, of the wrong type or out of range.
    Field,
    /// A member that must be a wallet address is none.
    Wallet,
    /// A member that is refused whatever its value.
    Parameter,
    /// Media that is not part of the body.
    Media,
}

/// One mistake in what a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputError {
    /// What kind of mistake.
    pub kind: InputKind,
    /// Where: a JSON pointer (RFC 6901) into the body, or the name of a query parameter or header.
    pub pointer: String,
    /// What is wrong, for the client to read.
    pub detail: String,
}

impl InputError {
    /// A mistake in the member at `pointer`.
    pub(crate) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: InputKind::Field,
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }

    fn json(at: &str, error: &serde_json::Error) -> Self {
        Self {
            kind: InputKind::Json,
            pointer: at.to_owned(),
            detail: format!("the body is not valid JSON: {error}"),
        }
    }
}

/// The members of one JSON object.
pub(crate) struct Fields<'a> {
    at: String,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Reads an object whose members must be among `known`; `at` is the pointer of the object itself, empty for a body.
    ///
    /// # Errors
    /// Not JSON, not an object, an unknown or duplicate member.
    pub(crate) fn parse(body: &'a str, at: &str, known: &[&str]) -> Result<Self, InputError> {
        let fields = Self::parse_open(body, at)?;
        let unknown = fields.members().find(|(name, _)| !known.contains(name));
        if let Some((name, _)) = unknown {
            let known = known.join(", ");
            let detail = format!("{name:?} is not a field here; known are {known}");
            return Err(InputError::field(pointer(at, name), detail));
        }
        Ok(fields)
    }

    /// Reads an object with whatever members; `at` is the pointer of the object itself, empty for a body.
    ///
    /// # Errors
    /// Not JSON, not an object, a duplicate member.
    pub(crate) fn parse_open(body: &'a str, at: &str) -> Result<Self, InputError> {
        let Members(members) = match serde_json::from_str::<Members<'a>>(body) {
            Ok(members) => members,
            Err(error) if error.is_data() => {
                return Err(InputError::field(at, "must be a JSON object"));
            }
            Err(error) => return Err(InputError::json(at, &error)),
        };
        let mut seen = HashSet::with_capacity(members.len());
        if let Some((name, _)) = members.iter().find(|(name, _)| !seen.insert(name.as_ref())) {
            let detail = format!("duplicate field {name:?}");
            return Err(InputError::field(pointer(at, name), detail));
        }
        Ok(Self {
            at: at.to_owned(),
            members,
        })
    }

    /// Every member, in the order they stand in.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_ref(), *value))
    }

    /// The member `name` read by `read`, or `None` where it is absent or null.
    ///
    /// # Errors
    /// What `read` says of it, with the pointer to it.
    pub(crate) fn optional<T, E: Into<String>>(
        &self,
        name: &str,
        read: impl FnOnce(&'a RawValue) -> Result<T, E>,
    ) -> Result<Option<T>, InputError> {
        match self.members.iter().find(|(member, _)| member == name) {
            Some((_, value)) if value.get() != "null" => match read(value) {
                Ok(value) => Ok(Some(value)),
                Err(detail) => Err(self.refused(name, &detail.into())),
            },
            _ => Ok(None),
        }
    }

    /// The member `name` read by `read`.
    ///
    /// # Errors
    /// Where it is absent or null, and what `read` says of it.
    pub(crate) fn required<T, E: Into<String>>(
        &self,
        name: &str,
        read: impl FnOnce(&'a RawValue) -> Result<T, E>,
    ) -> Result<T, InputError> {
        self.optional(name, read)?
            .ok_or_else(|| self.refused(name, "is required"))
    }

    /// A wallet address, whose mistakes have a kind of their own.
    ///
    /// # Errors
    /// Where the member is there and is no wallet address.
    pub(crate) fn wallet(&self, name: &str) -> Result<Option<Wallet>, InputError> {
        self.optional(name, |value| {
            text(value).and_then(|text| Wallet::parse(&text))
        })
        .map_err(|error| InputError {
            kind: InputKind::Wallet,
            ..error
        })
    }

    /// A wallet address that must be there.
    ///
    /// # Errors
    /// Where the member is absent or is no wallet address.
    pub(crate) fn required_wallet(&self, name: &str) -> Result<Wallet, InputError> {
        self.wallet(name)?
            .ok_or_else(|| self.refused(name, "is required"))
    }

    /// A mistake in the member `name`.
    #[must_use]
    pub(crate) fn refused(&self, name: &str, detail: &str) -> InputError {
        InputError::field(format!("{}/{name}", self.at), format!("{name} {detail}"))
    }
}

/// The JSON pointer of the member `name` in the object at `at` (RFC 6901).
pub(crate) fn pointer(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// How many objects and arrays a body may nest: readers, templates and grammars of others recurse, and ours must not.
const MAX_DEPTH: usize = 32;

/// Refuses a body that is nested too deeply, by its brackets alone: whether it is JSON is for its reader to say.
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
                let detail = format!(
                    "the body nests objects and arrays deeper than {MAX_DEPTH}, which is the limit"
                );
                return Err(InputError::field("", detail));
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The items of a JSON array, each as its own text; `None` where the body is no array.
///
/// # Errors
/// Where the body is not JSON.
pub(crate) fn items(body: &str) -> Result<Option<Vec<&RawValue>>, InputError> {
    if !body.trim_start().starts_with('[') {
        return Ok(None);
    }
    serde_json::from_str(body)
        .map(Some)
        .map_err(|error| InputError::json("", &error))
}

/// The lines of NDJSON that are not blank.
pub(crate) fn lines(body: &str) -> impl Iterator<Item = &str> {
    body.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// A text.
pub(crate) fn text(value: &RawValue) -> Result<Cow<'_, str>, &'static str> {
    serde_json::from_str::<Text<'_>>(value.get())
        .map(|text| text.0)
        .map_err(|_| "must be a text")
}

/// The largest figure and the largest count: so many more than there are that sums over any history stay finite and fit.
pub(crate) const MOST_FIGURE: f64 = 1e30;
pub(crate) const MOST_COUNT: i64 = 1_000_000_000_000;

/// A number of zero or more.
pub(crate) fn float(value: &RawValue) -> Result<f64, &'static str> {
    // serde_json's own float parser may be off by the last bit; the standard library's is exact. It also takes texts like
    // "inf", which are no JSON: a number starts with a digit or a minus.
    let text = value.get();
    let number = text.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    match text.parse::<f64>() {
        Ok(parsed) if number => figure(parsed),
        _ => Err("must be a finite number"),
    }
}

/// A figure within its range.
pub(crate) fn figure(number: f64) -> Result<f64, &'static str> {
    match number {
        _ if number < 0.0 => Err("must not be negative"),
        _ if !number.is_finite() => Err("must be a finite number"),
        _ if number > MOST_FIGURE => Err("must be at most 1e30"),
        _ => Ok(number),
    }
}

/// A share within its range.
pub(crate) fn percentage(number: f64) -> Result<f64, &'static str> {
    match figure(number)? {
        number if number > 100.0 => Err("must be at most 100"),
        number => Ok(number),
    }
}

/// A whole number of zero or more; JSON knows one kind of number, so `36.0` is one too.
pub(crate) fn integer(value: &RawValue) -> Result<i64, &'static str> {
    let text = match value.get().split_once('.') {
        Some((whole, places)) if places.bytes().all(|b| b == b'0') => whole,
        _ => value.get(),
    };
    match serde_json::from_str::<i64>(text) {
        Ok(number) => count(number),
        Err(_) => Err("must be a whole number"),
    }
}

/// A count within its range.
pub(crate) fn count(number: i64) -> Result<i64, &'static str> {
    match number {
        ..0 => Err("must not be negative"),
        0..=MOST_COUNT => Ok(number),
        _ => Err("must be at most 1000000000000"),
    }
}

/// Whether `body` starts like one object; what else it may be, the caller says.
pub(crate) fn plain_object(body: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(body).into_iter::<&RawValue>();
    matches!(values.next(), Some(Ok(_))) && values.next().is_none()
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Credits;
    use proptest::prelude::*;

    fn refusal(body: &str) -> InputError {
        let read = || -> Result<Credits, InputError> {
            let fields = Fields::parse(body, "", &["amount", "reason"])?;
            fields.optional("reason", text)?;
            fields.required("amount", |value| Credits::parse(value.get()))
        };
        read().unwrap_err()
    }

    #[test]
    fn each_mistake_names_its_field() {
        for (body, kind, pointer) in [
            ("{", InputKind::Json, ""),
            ("{\"amount\":1} x", InputKind::Json, ""),
            ("[]", InputKind::Field, ""),
            ("{}", InputKind::Field, "/amount"),
            ("{\"amount\":null}", InputKind::Field, "/amount"),
            ("{\"amount\":\"1\"}", InputKind::Field, "/amount"),
            ("{\"amount\":1e3}", InputKind::Field, "/amount"),
            ("{\"amount\":1,\"reason\":7}", InputKind::Field, "/reason"),
            ("{\"amount\":1,\"a/b~\":7}", InputKind::Field, "/a~1b~0"),
            ("{\"amount\":1,\"amount\":2}", InputKind::Field, "/amount"),
        ] {
            let error = refusal(body);
            assert_eq!(
                (error.kind, error.pointer.as_str()),
                (kind, pointer),
                "{body}: {error:?}"
            );
        }
    }

    #[test]
    fn escaped_names_and_texts_are_read() {
        let fields = Fields::parse(r#"{"re\u0061son":"two\nlines"}"#, "", &["reason"]).unwrap();
        assert_eq!(fields.required("reason", text).unwrap(), "two\nlines");
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
        // A string that does not end, and one that ends with its escape, are for the reader to refuse.
        for broken in ["\"[[[", "\"\\", "]]]"] {
            check_depth(broken).unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            let _ = Fields::parse(&body, "", &["a"]).map(|fields| fields.required("a", float));
            let _ = items(&body);
            let _ = check_depth(&body);
            let _ = plain_object(&body);
        }
    }
}
