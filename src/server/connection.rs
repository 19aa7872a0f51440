//! Accepts connections within their limits and serves each in a task of its own, until the server drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::io_timeout::WriteTimeoutStream;
use super::listener::{self, Accepting, Listener};
use crate::app::App;
use crate::http::{self, Exchange};
use crate::limits::{Bucket, ConcurrencyLimiter};
use crate::routes::ROUTES;

/// Serves until the shutdown; then requests in flight have `limits.shutdown_grace` to complete.
pub(super) async fn serve(app: Arc<App>, listeners: Vec<Listener>) {
    let limits = &app.config.limits;
    let connections = Arc::new(Semaphore::new(limits.connections));
    let limiter = Arc::new(ConcurrencyLimiter::<Bucket>::default());
    let graceful = GracefulShutdown::new();
    let mut protocol = http1::Builder::new();
    // Without the timer hyper ignores the timeout, which bounds the head of a request and the pause before the next one.
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(64 << 10)
        .max_buf_size(64 << 10);
    let mut accepting = Accepting::default();
    loop {
        // The permit first: what cannot be served yet stays in the kernel's queue.
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener::accept(&listeners, &mut accepting).await)
        };
        let (permit, (stream, peer)) = tokio::select! {
            accepted = next => accepted,
            () = app.shutdown.draining() => break,
        };
        // A trusted proxy carries the connections of many clients.
        let is_counted = !app.config.auth.trusts(peer);
        let address_permit =
            is_counted.then(|| limiter.try_acquire(peer.address().into(), limits.per_address));
        if let Some(None) = address_permit {
            continue;
        }
        let exchange = Arc::new(Exchange::default());
        let stream = WriteTimeoutStream::new(stream, limits.write_timeout, Arc::clone(&exchange));
        let service = {
            let (app, exchange) = (Arc::clone(&app), Arc::clone(&exchange));
            service_fn(move |request: Request<Incoming>| {
                exchange.requested.store(true, Ordering::Relaxed);
                exchange.reset();
                let (app, exchange) = (Arc::clone(&app), Arc::clone(&exchange));
                http::handle(app, ROUTES, peer, exchange, request)
            })
        };
        let connection = graceful.watch(protocol.serve_connection(TokioIo::new(stream), service));
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            app.metrics.table.connections.inc();
            tokio::select! {
                biased;
                // Errors here are the client's: it disconnected, or sent invalid HTTP.
                _ = connection => {}
                () = drain_deadline(&app, &exchange) => {}
            }
            app.metrics.table.connections.dec();
            drop((permit, address_permit));
        });
    }
    drop(listeners);
    let grace = limits.shutdown_grace;
    // Billing outlives its connection: wait for every permit.
    let all = u32::try_from(limits.in_flight).unwrap_or(u32::MAX);
    let ended = async {
        graceful.shutdown().await;
        app.in_flight.acquire_many(all).await
    };
    if timeout(grace, ended).await.is_ok() {
        return;
    }
    log::warn!("requests still in flight after {grace:?} are aborted");
    app.shutdown.abort();
    let returned = app.in_flight.acquire_many(all);
    if timeout(Duration::from_secs(5), returned).await.is_err() {
        log::error!("some requests did not end");
    }
}

/// When a connection is closed at the latest: soon after the drain began where it has sent no request, as hyper waits for
/// the rest of a first head; else a little after the abort, for an ended stream's last bytes to be sent.
async fn drain_deadline(app: &App, exchange: &Exchange) {
    app.shutdown.drain_grace_elapsed().await;
    if exchange.requested.load(Ordering::Relaxed) {
        app.shutdown.aborted().await;
        sleep(Duration::from_secs(1)).await;
    }
}
