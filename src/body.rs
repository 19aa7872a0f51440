//! Reading a whole body that somebody else sends, a client or an upstream.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Why a body was not read.
pub(crate) enum Unread {
    /// It is longer than it may be.
    TooLong,
    /// It broke off.
    Broken(hyper::Error),
}

/// Reads a body of at most `most` bytes; the deadline is the caller's. Copied as it comes: pieces that are kept hold the
/// whole buffers they were read into, and the sender chooses how small its pieces are.
pub(crate) async fn read(mut body: Incoming, most: usize) -> Result<Bytes, Unread> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(Unread::Broken)?.data_ref() {
            if whole.len() + data.len() > most {
                return Err(Unread::TooLong);
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}
