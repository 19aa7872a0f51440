//! Prompts of completions, inputs of embeddings, documents to be ranked.

use serde_json::value::RawValue;

use super::object::Object;
use super::refused;
use super::values::{Checked, is_one_of, must, text};
use crate::model::{Whole, items};

/// Ids of tokens and counts have 32 bits.
const U32_MAX: i64 = u32::MAX as i64;
/// Inputs of an embedding, documents to be ranked.
const MOST: usize = 256;

/// A text or the ids of its tokens, or an array of those.
pub(super) fn inputs<const MOST: usize>(at: &str, value: &RawValue) -> Checked {
    let is_text = |value: &RawValue| serde_json::from_str::<String>(value.get()).is_ok();
    let is_ids = |value: &RawValue| {
        serde_json::from_str::<Vec<Whole<0, U32_MAX>>>(value.get()).is_ok_and(|ids| !ids.is_empty())
    };
    let several = items(value).unwrap_or_default();
    let is_several = (1..=MOST).contains(&several.len())
        && (several.iter().all(|item| is_text(item)) || several.iter().all(|item| is_ids(item)));
    let detail =
        format!("must be a text, the ids of its tokens, or an array of 1 to {MOST} of either");
    must(at, is_text(value) || is_ids(value) || is_several, &detail)
}

/// The inputs of an embedding.
pub(super) fn embedded(at: &str, value: &RawValue) -> Checked {
    inputs::<MOST>(at, value)
}

pub(super) fn encoding(at: &str, value: &RawValue) -> Checked {
    is_one_of(at, value, &["float", "base64"])
}

/// A whole number of at least 1.
pub(super) fn count(at: &str, value: &RawValue) -> Checked {
    let count = serde_json::from_str::<Whole<1, U32_MAX>>(value.get());
    let detail = format!("must be a whole number from 1 to {U32_MAX}");
    must(at, count.is_ok(), &detail)
}

/// The likeliest tokens at each place.
pub(super) fn up_to_5(at: &str, value: &RawValue) -> Checked {
    let count = serde_json::from_str::<Whole<0, 5>>(value.get());
    must(at, count.is_ok(), "must be a whole number from 0 to 5")
}

/// Texts, or objects with a text.
pub(super) fn documents(at: &str, value: &RawValue) -> Checked {
    let detail = format!("must be an array of 1 to {MOST} texts, or objects with a text");
    must(at, value.get().starts_with('['), &detail)?;
    let documents = items(value)?;
    must(at, (1..=MOST).contains(&documents.len()), &detail)?;
    for (index, document) in documents.into_iter().enumerate() {
        let at = format!("{at}/{index}");
        if !document.get().starts_with('{') {
            let holds = serde_json::from_str::<String>(document.get()).is_ok();
            must(&at, holds, "must be a text, or an object with a text")?;
            continue;
        }
        let document = Object::read(&at, document)?;
        document.required("text")?;
        for member in &document.members {
            match member.name.as_str() {
                "text" => text(&member.at, member.value)?,
                name => {
                    return Err(refused(
                        &member.at,
                        name,
                        "of a document, its text alone is",
                    ));
                }
            };
        }
    }
    Ok(0)
}
