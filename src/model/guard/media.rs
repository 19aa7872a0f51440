//! Pictures and sounds: only those in the request itself, as no server may fetch or open anything for a client.

use serde_json::value::RawValue;

use super::object::Inner;
use super::{fold, is_in};
use crate::model::{InputError, InputKind, items, members, pointer};

/// Members of anything that hold media, besides those that end with `_url`.
const MEDIA: &str = "audio file file_data file_id file_ids files image image_file images input_audio input_file input_image \
                     input_video video videos";

/// Those of a message or a content part too.
const ADDRESSES: &str = "path source url urls";

/// Texts beside media that are no address of it.
pub(super) const DESCRIPTIONS: &str =
    "detail filename format id media_type mime_type name title type";

/// These may hold any address, as no server loads it: calls of functions, and quotations of an earlier answer.
const NOT_LOADED: &str = "annotations arguments citations function_call input tool_calls";

/// Whether a member of this name holds media or the address of something.
pub(super) fn is_address(folded: &str) -> bool {
    is_media(folded) || is_in(ADDRESSES, folded)
}

fn is_media(folded: &str) -> bool {
    is_in(MEDIA, folded) || folded.ends_with("_url") || folded.ends_with("_urls")
}

/// Counts the pictures and sounds of a message.
///
/// # Errors
/// One that is not in the message itself.
pub(super) fn check_message(at: &str, message: &RawValue) -> Result<usize, InputError> {
    check(at, "", message, false, true)
}

/// Counts the pictures and sounds of one member of a message.
pub(super) fn check_member(member: &Inner<'_>) -> Result<usize, InputError> {
    let Inner { name, at, value } = member;
    if is_in(NOT_LOADED, name) {
        return Ok(0);
    }
    check(at, name, value, is_address(name), true)
}

/// A member that is on no list: what looks like media in it is checked too.
pub(super) fn check_extra(at: &str, value: &RawValue) -> Result<usize, InputError> {
    check(at, "", value, false, false)
}

/// Counts inline media and refuses other. `key` is the nearest member's name, folded; `media` whether `value` is within media
/// already; `addresses` whether members that are addresses of other things elsewhere are media too.
fn check(
    at: &str,
    key: &str,
    value: &RawValue,
    media: bool,
    addresses: bool,
) -> Result<usize, InputError> {
    let mut count = 0;
    match value.get().as_bytes().first() {
        Some(b'{') => {
            for (name, value) in members(value.get(), at)? {
                let key = fold(&name);
                let skipped = if media { DESCRIPTIONS } else { NOT_LOADED };
                if !is_in(skipped, &key) {
                    let media = media || is_media(&key) || addresses && is_in(ADDRESSES, &key);
                    count += check(&pointer(at, &name), &key, value, media, addresses)?;
                }
            }
        }
        Some(b'[') => {
            for (index, item) in items(value)?.into_iter().enumerate() {
                count += check(&format!("{at}/{index}"), key, item, media, addresses)?;
            }
        }
        Some(b'"') if media => {
            let is_inline =
                serde_json::from_str::<String>(value.get()).is_ok_and(|text| is_inline(key, &text));
            if !is_inline {
                let detail = format!(
                    "{key} must be a data: URL of a picture (png, jpeg, webp or gif) in base64, or input_audio's data; other addresses are not fetched"
                );
                return Err(unsupported(at, detail));
            }
            count += 1;
        }
        _ => {}
    }
    Ok(count)
}

/// Pictures and sounds of one request.
const MOST: usize = 32;

/// Refuses more media than a request may have.
pub(super) fn within_most(at: &str, media: usize) -> Result<usize, InputError> {
    if media <= MOST {
        return Ok(media);
    }
    let detail = format!(
        "{} has {media} pictures and sounds, but may have {MOST}",
        &at[1..]
    );
    Err(unsupported(at, detail))
}

pub(super) fn unsupported(at: &str, detail: String) -> InputError {
    InputError {
        kind: InputKind::Media,
        pointer: at.to_owned(),
        detail,
    }
}

/// Whether a text is the media itself: the data URL of a picture, or base64 where that is usual.
fn is_inline(key: &str, text: &str) -> bool {
    if key == "data" {
        return is_base64(text);
    }
    let Some((head, data)) = text.split_once(',') else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let kind = head
        .strip_prefix("data:image/")
        .and_then(|head| head.strip_suffix(";base64"));
    kind.is_some_and(is_picture) && is_base64(data)
}

/// Whether pictures of this kind are passed on.
pub(super) fn is_picture(kind: &str) -> bool {
    ["png", "jpeg", "webp", "gif"].contains(&kind)
}

pub(super) fn is_base64(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_\r\n".contains(&byte);
    !text.is_empty() && text.bytes().all(is_digit)
}
