//! Reads a whole body from a client or an upstream, up to a limit.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// Why a body was not read.
pub(crate) enum BodyError {
    /// It is longer than it may be.
    TooLong,
    /// The connection failed before its end.
    Broken(hyper::Error),
}

/// Reads a body of at most `max_bytes`; the caller sets the deadline. The frames are copied: a stored frame would keep its
/// whole read buffer alive, and the sender chooses how small frames are.
pub(crate) async fn read(
    mut body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin,
    max_bytes: usize,
) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(BodyError::Broken)?.data_ref() {
            if whole.len() + data.len() > max_bytes {
                return Err(BodyError::TooLong);
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}
