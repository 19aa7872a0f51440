//! The members of a JSON object as their own texts, for a body that is passed on: most of it is between the client and the inference server.

use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{InputError, pointer};

/// A member of a JSON object: its name and its text.
pub(crate) type Member<'a> = (String, &'a RawValue);

/// Every member of an object, in order; `at` is the pointer of the object itself, empty for a body.
///
/// # Errors
/// Not JSON, not an object, a duplicate member.
pub(crate) fn members<'a>(body: &'a str, at: &str) -> Result<Vec<Member<'a>>, InputError> {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let members = deserializer.deserialize_map(Members);
    let members = members.and_then(|members| deserializer.end().map(|()| members));
    let members = members.map_err(|error| match error.is_data() {
        true => InputError::field(at, "must be a JSON object"),
        false => InputError::json(&error),
    })?;
    let mut seen = HashSet::with_capacity(members.len());
    if let Some((name, _)) = members.iter().find(|(name, _)| !seen.insert(name)) {
        let detail = format!("duplicate field {name:?}");
        return Err(InputError::field(pointer(at, name), detail));
    }
    Ok(members)
}

/// The items of a JSON array, each as its own text.
///
/// # Errors
/// Not an array.
pub(crate) fn items(array: &RawValue) -> Result<Vec<&RawValue>, InputError> {
    serde_json::from_str(array.get()).map_err(|error| InputError::json(&error))
}

/// Reads the members of an object.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escaped_names_are_read() {
        let members = members(r#"{"re\u0061son":"two\nlines"}"#, "").unwrap();
        assert_eq!(members[0].0, "reason");
        assert_eq!(members[0].1.get(), r#""two\nlines""#);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            for (_, value) in members(&body, "").unwrap_or_default() {
                let _ = items(value);
            }
        }
    }
}
