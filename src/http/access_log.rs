//! The access log: one line and one count per request, also where its client disconnected before there was a response.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;

use super::route::Route;
use crate::app::App;
use crate::auth::Principal;
use crate::error::ErrorCode;
use crate::limits::Decision;
use crate::metrics::{OWN_ERRORS, RouteSlot, STORAGE_ERRORS, UPSTREAM_ERRORS};
use crate::store::OperationId;
use crate::timings::RequestTimings;

/// Counts a request and writes its line when dropped: when hyper is done with the body, or, with the status still 499, when
/// the client disconnected before there was a response.
pub(crate) struct AccessLogGuard {
    app: Arc<App>,
    pub(super) timings: Arc<RequestTimings>,
    pub(super) request_id: String,
    /// The server's own identifier; it is the request id where the client sent none.
    pub(super) operation: OperationId,
    /// The row of the table that it matched.
    pub(super) route: Option<&'static Route>,
    /// Whether a route of the host's answers it, whose paths and methods are unknown here.
    pub(super) is_host: bool,
    /// The status of the response, and how long the server took to make it.
    pub(super) response: Option<(u16, Duration)>,
    /// What went wrong, where this server made the response.
    pub(super) error: Option<ErrorCode>,
    pub(super) principal: Option<Principal>,
    /// Of the body, as far as hyper took it.
    pub(super) bytes: u64,
    pub(super) rate: Option<Decision>,
    /// The page that sent it, if its origin is allowed.
    pub(super) origin: Option<HeaderValue>,
}

impl AccessLogGuard {
    /// In a box, as a response carries it a long way.
    pub(super) fn new(app: &Arc<App>, sent_id: Option<&str>) -> Box<Self> {
        let operation = OperationId::new();
        Box::new(Self {
            app: Arc::clone(app),
            timings: Arc::new(RequestTimings::start(&app.clock)),
            request_id: sent_id.map_or_else(|| operation.to_string(), str::to_owned),
            operation,
            route: None,
            is_host: false,
            response: None,
            error: None,
            principal: None,
            bytes: 0,
            rate: None,
            origin: None,
        })
    }

    /// How long the server took up to now.
    pub(super) fn server_time(&self) -> Duration {
        self.timings.server_time(&self.app.clock)
    }
}

/// What failed, where it is for the operator to mend. A 5xx that says what this server does not have, or that it is about to
/// stop, is no failure.
const fn fault(error: ErrorCode) -> Option<usize> {
    use ErrorCode::{
        CircuitOpen, Internal, Overloaded, StorageUnavailable, UpstreamBadResponse, UpstreamTimeout,
    };
    match error {
        Internal | Overloaded => Some(OWN_ERRORS),
        StorageUnavailable => Some(STORAGE_ERRORS),
        UpstreamBadResponse | UpstreamTimeout | CircuitOpen => Some(UPSTREAM_ERRORS),
        _ => None,
    }
}

impl Drop for AccessLogGuard {
    fn drop(&mut self) {
        let took = self.timings.elapsed(&self.app.clock);
        // As nginx logs a client that disconnected.
        let left = || (499, self.server_time());
        let (status, ready) = self.response.unwrap_or_else(left);
        // The route's template, never the path: a path sent in error may hold a key.
        let (method, route, slot) = match self.route {
            Some(row) => (row.method, row.path, RouteSlot::of(row.index)),
            None if self.is_host => ("-", "own", RouteSlot::HOST),
            None => ("-", "-", RouteSlot::NONE),
        };
        let is_bounded = self.route.is_none_or(|route| !route.unbounded);
        let sent = self.response.map(|(status, _)| status);
        let fault = match self.error {
            Some(error) => fault(error),
            None => (status >= 500).then_some(OWN_ERRORS),
        };
        let metrics = &self.app.metrics;
        metrics.request(slot, sent, fault, ready, is_bounded);
        let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        let principal = self.principal.as_ref();
        let wallet = principal.and_then(|principal| Some(principal.wallet?.short()));
        // What changed nothing here and did not fail here is not for the usual log: anyone can make such lines.
        let level = match (status, method) {
            (500, _) => log::Level::Error,
            (502.., _) if route != "-" => log::Level::Warn,
            (..400 | 499, "POST" | "DELETE") => log::Level::Info,
            (..400, _) if self.is_host => log::Level::Info,
            _ => log::Level::Debug,
        };
        log::log!(
            target: "r3mes_edge::http",
            level,
            method, route, status,
            ms = millis(took),
            upstream_ms = millis(self.timings.waited()),
            bytes = self.bytes,
            request_id = self.request_id.as_str(),
            key_id = principal.map_or("-", |principal| &principal.key_id),
            wallet = wallet.as_deref().unwrap_or("-");
            "{method} {route} {status}"
        );
    }
}
