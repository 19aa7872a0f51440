//! Reads the JSON of miners and chains. A value that cannot be read costs only its member: what is not used may be anything.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::value::RawValue;

use super::{UpstreamError, unreadable};

/// Reads an answer. A number that is no number is null: Python's `json.dumps` writes NaN and Infinity, C's `printf` nan and inf,
/// and some write numbers that no float holds.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, UpstreamError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let read = serde_json::from_slice(body);
    read.or_else(|_| serde_json::from_slice(&without_words(body)))
        .map_err(unreadable)
}

/// A member of the right type; `None` of any other value.
pub(super) fn optional<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let value = Box::<RawValue>::deserialize(from)?;
    Ok(serde_json::from_str(value.get()).ok())
}

/// The text with null in place of every bare word that is no JSON value, and of every number that is not finite.
fn without_words(text: &[u8]) -> Cow<'_, [u8]> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.#_".contains(byte);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.first() {
        let length = match first {
            b'"' => string_length(rest),
            _ => rest.iter().take_while(|byte| is_word(byte)).count().max(1),
        };
        let (token, after) = rest.split_at(length);
        let token = match first {
            first if !is_word(first) || is_value(token) => token,
            _ => b"null",
        };
        out.extend_from_slice(token);
        rest = after;
    }
    out.into()
}

fn is_value(word: &[u8]) -> bool {
    let number = || str::from_utf8(word).ok()?.parse::<f64>().ok();
    matches!(word, b"true" | b"false" | b"null") || number().is_some_and(f64::is_finite)
}

/// The length of the string that a text begins with, in its quotes.
fn string_length(text: &[u8]) -> usize {
    let mut is_escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[derive(Deserialize)]
    struct Page {
        used: Option<f64>,
        #[serde(default, deserialize_with = "optional")]
        other: Option<i64>,
    }

    #[test]
    fn a_number_that_is_none_costs_its_own_member_only() {
        for word in [
            "NaN",
            "-NaN",
            "nan",
            "-nan",
            "Infinity",
            "-Infinity",
            "inf",
            "-inf",
            "1e999",
            "-1e999",
            "1.#INF",
            "-1.#IND",
            "undefined",
            "None",
        ] {
            let page = format!(r#"{{"used":1.5,"x":[{word},{{"y":{word}}}],"z":{word}}}"#);
            assert_eq!(
                read::<Page>(page.as_bytes()).unwrap().used,
                Some(1.5),
                "{word}"
            );
            let page = format!(r#"{{"used":{word},"other":{word}}}"#);
            let page: Page = read(page.as_bytes()).unwrap();
            assert_eq!((page.used, page.other), (None, None), "{word}");
        }
    }

    #[test]
    fn what_is_not_used_may_be_anything_and_a_string_is_never_changed() {
        for other in [
            r#""NaN \" NaN \\""#,
            r#""\ud800""#,
            "\"\u{fe}\"",
            "1e999",
            "[[[[]]]]",
            "{}",
            "1.5",
            "-0",
        ] {
            let page = format!(r#"{{"other":{other},"used":1,"loss":NaN}}"#);
            let page: Page = read(page.as_bytes()).unwrap();
            assert_eq!((page.used, page.other), (Some(1.0), None), "{other}");
        }
        assert!(read::<Page>(b"{\"unused\":\"\xff\xfe\",\"used\":1}").is_ok());
        assert!(read::<Page>(b"\xef\xbb\xbf{\"used\":1}").is_ok());
        let text = r#"{"a":"NaN, \"Infinity\" 1e999","b":NaN}"#;
        let read: Value = read(text.as_bytes()).unwrap();
        assert_eq!(read["a"], "NaN, \"Infinity\" 1e999");
    }

    proptest! {
        #[test]
        fn json_is_read_as_it_is(figure in any::<f64>(), word in "[a-zA-Z\\\\\"{}:, ]{0,20}", flag in any::<bool>()) {
            let value = serde_json::json!({ "a": figure, "b": [word, flag, null], "c": { "d": -0.5e-3 } });
            let text = value.to_string();
            prop_assert_eq!(without_words(text.as_bytes()), text.as_bytes());
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Page>(&text);
            without_words(&text);
        }
    }
}
