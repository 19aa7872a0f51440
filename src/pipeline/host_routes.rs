//! The host's own routes: what is none of ours and under a prefix of theirs.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Request, Response};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::Principal;
use crate::call::{Content, Reply};
use crate::error::ApiError;
use crate::stream::Aborted;

/// Who asks for one of the host's own routes; stands in the request's extensions, as `examples/own_routes.rs` shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Caller {
    /// The client, as far as trusted proxies tell.
    pub address: IpAddr,
    /// As it stands in the answer's `X-Request-Id` and in the log.
    pub request_id: String,
    /// Whose key was sent, if one was; a wrong one is refused before.
    pub principal: Option<Principal>,
}

/// A prefix and who answers below it.
pub(crate) struct HostRoutes {
    prefix: String,
    handler: Box<Handler>,
}

type Handler = dyn Fn(Request<Incoming>) -> Answering + Send + Sync;
type Answering = Pin<Box<dyn Future<Output = Response<Boxed>> + Send>>;
type Boxed = UnsyncBoxBody<Bytes, Aborted>;

impl HostRoutes {
    pub(crate) fn new<A, B>(
        prefix: String,
        handler: impl Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    ) -> Self
    where
        A: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let boxed = |body: B| {
            let broken = body.map_err(|error| {
                log::error!("an answer of the host's own routes broke off: {error}");
                Aborted
            });
            broken.boxed_unsync()
        };
        Self {
            prefix,
            handler: Box::new(move |request| -> Answering {
                let answer = handler(request);
                Box::pin(async move { answer.await.map(boxed) })
            }),
        }
    }

    /// What is wrong with the prefix.
    pub(crate) fn mistake(&self) -> Option<String> {
        let prefix = &self.prefix;
        let fine = prefix.starts_with('/') && !prefix.contains(['?', '#']);
        (!fine).then(|| format!("own_routes: {prefix:?} is no prefix of a path, as /own is"))
    }

    /// Whether a path is the prefix or below it: `/own` has `/own` and `/own/a`, but not `/owner`.
    pub(super) fn has(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Lets the host answer. It is dropped when the client leaves; a panic is ours to tell of.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        place: OwnedSemaphorePermit,
    ) -> Result<Reply, ApiError> {
        let panicked = |_| ApiError::internal("a handler of the host's own routes panicked");
        let mut answering = unwinding(|| (self.handler)(request)).map_err(panicked)?;
        let answer =
            std::future::poll_fn(
                |context| match unwinding(|| answering.as_mut().poll(context)) {
                    Ok(polled) => polled.map(Ok),
                    Err(Panicked) => Poll::Ready(Err(Panicked)),
                },
            );
        let (head, body) = answer.await.map_err(panicked)?.into_parts();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            content: Content::Own(Box::new(HostBody {
                body,
                _place: place,
            })),
        })
    }
}

/// A body of the host's, with the request's place among those in flight.
pub(crate) struct HostBody {
    body: Boxed,
    _place: OwnedSemaphorePermit,
}

impl HostBody {
    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        unwinding(|| Pin::new(&mut self.body).poll_frame(context)).unwrap_or_else(|Panicked| {
            log::error!("an answer of the host's own routes panicked");
            Poll::Ready(Some(Err(Aborted)))
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Panicked;

fn unwinding<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[test]
    fn a_prefix_has_whole_segments_only() {
        let own = |prefix: &str| {
            HostRoutes::new(prefix.to_owned(), |_| async {
                Response::new(Full::<Bytes>::default())
            })
        };
        for (prefix, path, has) in [
            ("/own", "/own", true),
            ("/own", "/own/", true),
            ("/own", "/own/a/b", true),
            ("/own", "/owner", false),
            ("/own", "/", false),
            ("/own/", "/own", true),
            ("/", "/anything", true),
        ] {
            assert_eq!(own(prefix).has(path), has, "{prefix} {path}");
        }
        assert!(own("/own").mistake().is_none());
        for prefix in ["", "own", "/own?", "http://x/own"] {
            assert!(own(prefix).mistake().is_some(), "{prefix}");
        }
    }
}
