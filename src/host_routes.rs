//! The routes of an embedding program: everything below its prefixes that matches no row of the routes table.
//! They pass the same checks as all requests; who may call them is the host's decision.

use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::Principal;
use crate::error::ApiError;
use crate::stream::Aborted;

/// The caller of one of the host's routes; in the request's extensions, as `examples/own_routes.rs` shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Caller {
    /// The client's address, as far as trusted proxies name it.
    pub address: IpAddr,
    /// As in the response's `X-Request-Id` and in the log.
    pub request_id: String,
    /// The owner of the key that was sent, if any; an invalid key is refused before.
    pub principal: Option<Principal>,
}

/// A path prefix and its handler.
pub(crate) struct HostRoutes {
    prefix: String,
    handler: Box<Handler>,
}

type Handler = dyn Fn(Request<Incoming>) -> ResponseFuture + Send + Sync;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<BoxBody>> + Send>>;
type BoxBody = UnsyncBoxBody<Bytes, Aborted>;

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
            let logged = body.map_err(|error| {
                log::error!("the body of a host route failed: {error}");
                Aborted
            });
            logged.boxed_unsync()
        };
        Self {
            prefix,
            handler: Box::new(move |request| {
                let response = handler(request);
                Box::pin(async move { response.await.map(boxed) })
            }),
        }
    }

    /// Why the prefix cannot be used.
    pub(crate) fn invalid_prefix(&self) -> Option<String> {
        let prefix = &self.prefix;
        let valid = prefix.starts_with('/') && !prefix.contains(['?', '#']);
        (!valid).then(|| format!("own_routes: invalid prefix {prefix:?}; use a path such as /own"))
    }

    /// Whether a path is the prefix or below it: `/own` has `/own` and `/own/a`, but not `/owner`.
    pub(crate) fn matches(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Runs the host's handler, which is dropped when the client disconnects; `permit` is held until the body is sent.
    pub(crate) async fn call(
        &self,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<BoxBody>, ApiError> {
        let response = (self.handler)(request).await;
        let hold = move |frame| {
            let _held = &permit;
            frame
        };
        Ok(response.map(|body| body.map_frame(hold).boxed_unsync()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[test]
    fn a_prefix_matches_whole_segments_only() {
        let host = |prefix: &str| {
            HostRoutes::new(prefix.to_owned(), |_| async {
                Response::new(Full::<Bytes>::default())
            })
        };
        for (prefix, path, matches) in [
            ("/own", "/own", true),
            ("/own", "/own/", true),
            ("/own", "/own/a/b", true),
            ("/own", "/owner", false),
            ("/own", "/", false),
            ("/own/", "/own", true),
            ("/", "/anything", true),
        ] {
            assert_eq!(host(prefix).matches(path), matches, "{prefix} {path}");
        }
        assert!(host("/own").invalid_prefix().is_none());
        for prefix in ["", "own", "/own?", "http://x/own"] {
            assert!(host(prefix).invalid_prefix().is_some(), "{prefix}");
        }
    }
}
