//! The members of a JSON object as their own texts, for a body that is passed on: most of it is between the client and the inference server.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{InputError, pointer};

/// The members of one JSON object.
pub(crate) struct Fields<'a> {
    at: String,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
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
            Err(error) => return Err(InputError::json(&error)),
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

    /// Every member, in order.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.members
            .iter()
            .map(|(name, value)| (name.as_ref(), *value))
    }

    /// The member `name` read by `read`, or `None` where it is absent or null.
    ///
    /// # Errors
    /// The error of `read`, with the pointer to the member.
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
    /// Where it is absent or null, and the error of `read`.
    pub(crate) fn required<T, E: Into<String>>(
        &self,
        name: &str,
        read: impl FnOnce(&'a RawValue) -> Result<T, E>,
    ) -> Result<T, InputError> {
        self.optional(name, read)?
            .ok_or_else(|| self.refused(name, "is required"))
    }

    fn refused(&self, name: &str, detail: &str) -> InputError {
        InputError::field(pointer(&self.at, name), format!("{name} {detail}"))
    }
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
    use proptest::prelude::*;

    #[test]
    fn escaped_names_and_texts_are_read() {
        let fields = Fields::parse_open(r#"{"re\u0061son":"two\nlines"}"#, "").unwrap();
        assert_eq!(fields.required("reason", text).unwrap(), "two\nlines");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "[\\[\\]{}\":,a-z0-9\\\\ .e-]{0,60}") {
            let _ = Fields::parse_open(&body, "").map(|fields| fields.required("a", text));
            let _ = items(&body);
        }
    }
}
