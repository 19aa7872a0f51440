//! The members of a JSON object as their own texts, for a body that is passed on: most of it is between the client and the inference server.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{InputError, pointer};

/// A member of a JSON object: its name and its text.
pub(crate) type Member<'a> = (Cow<'a, str>, &'a RawValue);

/// Every member of an object, in order; `at` is the pointer of the object itself, empty for a body.
///
/// # Errors
/// Not JSON, not an object, a duplicate member.
pub(crate) fn members<'a>(body: &'a str, at: &str) -> Result<Vec<Member<'a>>, InputError> {
    let Members(members) = match serde_json::from_str::<Members<'a>>(body) {
        Ok(members) => members,
        Err(error) if error.is_data() => {
            return Err(InputError::field(at, "must be a JSON object"));
        }
        Err(error) => return Err(InputError::json(&error)),
    };
    let mut seen = HashSet::with_capacity(members.len());
    if let Some((name, _)) = members.iter().find(|(name, _)| !seen.insert(name.as_ref())) {
        let detail = format!("duplicate field {name:?}");
        return Err(InputError::field(pointer(at, name), detail));
    }
    Ok(members)
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
        .map_err(|error| InputError::json(&error))
}

/// A text.
pub(crate) fn text(value: &RawValue) -> Result<Cow<'_, str>, &'static str> {
    serde_json::from_str::<Text<'_>>(value.get())
        .map(|text| text.0)
        .map_err(|_| "must be a text")
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members<'a>(Vec<Member<'a>>);

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
    use proptest::prelude::*;

    #[test]
    fn escaped_names_and_texts_are_read() {
        let members = members(r#"{"re\u0061son":"two\nlines"}"#, "").unwrap();
        assert_eq!(members[0].0, "reason");
        assert_eq!(text(members[0].1).unwrap(), "two\nlines");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            let _ = members(&body, "");
            let _ = items(&body);
        }
    }
}
