//! A host's own routes beside ours, on one listener: under the same limits, with a request id, a line in the log and a
//! figure in the metrics (all of them as the one route `own`).
//!
//! `cargo run --example own_routes` serves until Ctrl-C over `own_routes.db` in this folder.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::{error::Error, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use r3mes_edge::{Caller, Config, EdgeServer, SqliteStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    config.listen = vec!["127.0.0.1:0".parse()?];
    let store = Arc::new(SqliteStore::open(Path::new("own_routes.db"), true)?);
    let fan = Arc::new(AtomicU64::new(40));
    let server = EdgeServer::builder(config, store)
        // A plain function of hyper's types. What is shared goes in by a clone for each request.
        .own_routes("/rig", move |request| answer(Arc::clone(&fan), request))
        .start()
        .await?;
    println!("http://{}/rig/fan", server.local_addr());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}

async fn answer(fan: Arc<AtomicU64>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/rig/fan") => text(StatusCode::OK, fan.load(Ordering::Relaxed)),
        (&Method::PUT, "/rig/fan") => {
            // A wrong key was refused before. Whether this one, or none, is enough is for us to say.
            let caller = request.extensions().get::<Caller>();
            let principal = caller.and_then(|caller| caller.principal.as_ref());
            if !principal.is_some_and(|principal| principal.is_admin()) {
                return text(StatusCode::FORBIDDEN, "the fan is the admin's");
            }
            // The body has not been read yet, so its size is not bounded.
            let Ok(body) = Limited::new(request.into_body(), 16).collect().await else {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "send a number");
            };
            match String::from_utf8_lossy(&body.to_bytes()).trim().parse() {
                Ok(percent @ 0..=100) => {
                    fan.store(percent, Ordering::Relaxed);
                    text(StatusCode::OK, percent)
                }
                _ => text(StatusCode::BAD_REQUEST, "send a number from 0 to 100"),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "there is only /rig/fan"),
    }
}

fn text(status: StatusCode, what: impl std::fmt::Display) -> Response<Full<Bytes>> {
    let body = Full::from(format!("{what}\n"));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
