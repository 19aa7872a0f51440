//! Reads a value of the configuration into what it is for. serde's way through `toml` would do, if its errors told what
//! was expected and how deep; here they do.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::{Value, map};

/// Why a value was not taken.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// How many keys and indexes lead there from the outermost value.
    pub(super) depth: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// There is no such key.
    Unknown {
        name: String,
        known: &'static [&'static str],
    },
    /// It is of another type; a sentence without its subject.
    Type(String),
    /// It is of the right type.
    Value(String),
}

impl Fault {
    const fn new(kind: Kind) -> Self {
        Self { kind, depth: 0 }
    }

    pub(super) const fn is_of_type(&self) -> bool {
        matches!(self.kind, Kind::Type(_))
    }

    const fn deeper(mut self) -> Self {
        self.depth += 1;
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unknown { name, .. } => write!(f, "{name} is not known"),
            Kind::Type(what) | Kind::Value(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: Display>(what: T) -> Self {
        Self::new(Kind::Value(what.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Type(format!(
            "must be {}, not {}",
            plain(&expected.to_string()),
            named(found)
        )))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Value(format!(
            "must be {}, not {}",
            plain(&expected.to_string()),
            named(found)
        )))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Value(format!(
            "must be {}, not {found:?}",
            known.join(" or ")
        )))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown {
            name: found.to_owned(),
            known,
        })
    }
}

/// What serde expects, without Rust's words for it.
fn plain(expected: &str) -> &str {
    match expected {
        "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number that is not negative",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a string" | "path string" => "a text",
        "a map" => "a section",
        other if other.starts_with("struct ") => "a section",
        other => other,
    }
}

fn named(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => format!("{number:?}"),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a section".to_owned(),
        other => other.to_string(),
    }
}

/// A value that is read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a>(pub(super) &'a Value);

impl<'de> Deserializer<'de> for Reading<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Datetime(_) => Err(Fault::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::Array(items) => visitor.visit_seq(Items(items.iter())),
            Value::Table(members) => visitor.visit_map(Members {
                left: members.iter(),
                value: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            // Says what it is instead.
            _ => self.deserialize_str(Text).map(|never| match never {}),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Takes nothing: for the error alone.
struct Text;

impl Visitor<'_> for Text {
    type Value = std::convert::Infallible;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
}

struct Items<'a>(std::slice::Iter<'a, Value>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let next = self.0.next().map(|item| seed.deserialize(Reading(item)));
        next.transpose().map_err(Fault::deeper)
    }
}

struct Members<'a> {
    left: map::Iter<'a, String, Value>,
    value: Option<&'a Value>,
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        let key: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let value = self.value.take();
        let value = value.ok_or_else(|| Fault::custom("a value without a key"))?;
        seed.deserialize(Reading(value)).map_err(Fault::deeper)
    }
}
