//! Requests within the process: a command runs the server's handlers itself if no server is running.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::StartError;
use crate::app::App;
use crate::auth::Principal;
use crate::clock::Clock;
use crate::config::{Config, Peer, RatesConfig};
use crate::http;
use crate::routes::{self, ROUTES};
use crate::store::{Actor, Repository};

/// Answers the requests of one connection with `store`: without a listener, rates, upstreams or background tasks. A
/// request without a key has admin permissions.
///
/// # Errors
/// As [`Builder::start`](super::Builder::start).
pub async fn serve_local(
    config: &Config,
    store: Arc<dyn Repository>,
    connection: UnixStream,
) -> Result<(), StartError> {
    let config = Config {
        discover: false,
        rates: RatesConfig::off(),
        auth: config.auth.clone(),
        ..Config::default()
    };
    let (clock, labels) = (Clock::default(), routes::labels());
    let admin = Principal::local_admin(Actor::local(clock.now()).id);
    let app = App::new(config, store, clock, Vec::new(), labels).map_err(StartError::Config)?;
    app.resume_clock().await;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(admin.clone());
        let app = Arc::clone(&app);
        http::handle(app, ROUTES, Peer::Unix, Arc::default(), request)
    });
    // An error is the other end's, which left.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(connection), service)
        .await;
    Ok(())
}
