use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// A request that an upstream got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: String,
}

/// What an upstream answers.
pub(crate) struct Scripted {
    /// Whether a head is sent at all.
    head: bool,
    status: u16,
    content_type: &'static str,
    location: Option<String>,
    /// What the head waits for.
    loaded: Option<oneshot::Receiver<()>>,
    frames: mpsc::UnboundedReceiver<Result<Bytes, Broken>>,
}

/// Lets a test send the frames of an answer one by one; dropped, the answer ends cleanly.
pub(crate) struct Frames(mpsc::UnboundedSender<Result<Bytes, Broken>>);

impl Frames {
    pub(crate) fn send(&self, bytes: impl Into<Bytes>) {
        // Some tests disconnect the reader.
        let _ = self.0.send(Ok(bytes.into()));
    }

    /// One event of an OpenAI-compatible stream.
    pub(crate) fn send_word(&self, word: &str) {
        let chunk =
            serde_json::json!({ "choices": [{ "index": 0, "delta": { "content": word } }] });
        self.send(format!("data: {chunk}\n\n"));
    }

    /// The finish reason and the end.
    pub(crate) fn send_done(self) {
        self.send(concat!(
            "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
            "data: [DONE]\n\n"
        ));
    }

    /// Cuts the connection in the middle of the answer.
    pub(crate) fn cut(self) {
        let _ = self.0.send(Err(Broken));
    }

    /// Returns when the client has disconnected.
    pub(crate) async fn reader_left(&self) {
        self.0.closed().await;
    }
}

/// An answer whose head is not sent yet.
pub(crate) struct Loading {
    loaded: oneshot::Sender<()>,
    frames: Frames,
}

impl Loading {
    /// Sends the head.
    pub(crate) fn finish(self) -> Frames {
        // Some tests disconnect the reader.
        let _ = self.loaded.send(());
        self.frames
    }
}

impl Scripted {
    /// An answer whose frames the test sends.
    pub(crate) fn held() -> (Self, Frames) {
        let (sender, frames) = mpsc::unbounded_channel();
        (
            Self {
                head: true,
                status: 200,
                content_type: "text/event-stream",
                location: None,
                loaded: None,
                frames,
            },
            Frames(sender),
        )
    }

    /// The same, whose head is sent when its model is loaded.
    pub(crate) fn loading() -> (Self, Loading) {
        let (scripted, frames) = Self::held();
        let (loaded, wait) = oneshot::channel();
        let scripted = Self {
            loaded: Some(wait),
            ..scripted
        };
        (scripted, Loading { loaded, frames })
    }

    /// Reads the request and does not answer.
    pub(crate) fn silent() -> Self {
        Self {
            head: false,
            ..Self::held().0
        }
    }

    pub(crate) fn whole(status: u16, body: impl Into<Bytes>) -> Self {
        let (scripted, frames) = Self::held();
        frames.send(body);
        Self {
            status,
            content_type: "application/json",
            ..scripted
        }
    }

    /// A whole completion with this text.
    pub(crate) fn completion(text: &str) -> Self {
        let body = serde_json::json!({
            "id": "chatcmpl-7", "object": "chat.completion", "created": 1, "model": "tiny",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3 },
        });
        Self::whole(200, body.to_string())
    }

    /// Redirects.
    pub(crate) fn redirect(to: String) -> Self {
        Self {
            location: Some(to),
            ..Self::whole(307, "")
        }
    }

    /// A whole OpenAI-compatible stream of these words.
    pub(crate) fn words(words: &[&str]) -> Self {
        let (scripted, frames) = Self::held();
        for word in words {
            frames.send_word(word);
        }
        frames.send_done();
        scripted
    }
}

/// An HTTP server that answers as the test says.
pub(crate) struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Held by every exchange under way.
    under_way: Arc<()>,
    serving: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Scripted + Send + Sync + 'static) -> Self {
        Self::start_with(None, script).await
    }

    /// Speaks TLS where an acceptor is given.
    pub(crate) async fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Seen) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, tls, script)
    }

    /// At this address, so that one that was dropped can come back; an error where it is not free.
    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Seen) -> Scripted + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Ok(Self::on(TcpListener::bind(address).await?, None, script))
    }

    pub(crate) fn on(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Seen) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let under_way = Arc::new(());
        let serving = tokio::spawn(serve(
            listener,
            tls,
            Arc::new(script),
            Arc::clone(&seen),
            Arc::clone(&under_way),
        ));
        Self {
            address,
            seen,
            under_way,
            serving,
        }
    }

    /// An OpenAI-compatible server: `/v1/models` names one model, every chat is answered by `script`.
    pub(crate) async fn inference(
        script: impl Fn(&Seen) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |seen| match seen.path.as_str() {
            "/v1/models" => Scripted::whole(200, r#"{"object":"list","data":[{"id":"tiny"}]}"#),
            _ => script(seen),
        })
        .await
    }

    /// The same, whose answers do not end before their frames are dropped.
    pub(crate) async fn inference_held() -> (Self, Arc<Mutex<Vec<Frames>>>) {
        let held = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&held);
        let upstream = Self::inference(move |_| {
            let (scripted, frames) = Scripted::held();
            keep.lock().unwrap().push(frames);
            scripted
        })
        .await;
        (upstream, held)
    }

    /// An address where nothing listens.
    pub(crate) async fn dead() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that are being answered.
    pub(crate) fn under_way(&self) -> usize {
        // This one's own, and the accepting task's.
        Arc::strong_count(&self.under_way) - 2
    }

    /// Forgets the requests it got.
    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// The requests whose path starts with `path`.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.path.starts_with(path))
            .cloned()
            .collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    script: Arc<dyn Fn(&Seen) -> Scripted + Send + Sync>,
    seen: Arc<Mutex<Vec<Seen>>>,
    under_way: Arc<()>,
) {
    // Dropped with this task, so that a stopped upstream is dead to open connections too.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        let exchanges = Arc::downgrade(&under_way);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
            let exchange = exchanges.upgrade();
            async move {
                let (head, body) = request.into_parts();
                let body = body
                    .collect()
                    .await
                    .map(|body| body.to_bytes())
                    .unwrap_or_default();
                let path = head.uri.path_and_query().unwrap().to_string();
                let request = Seen {
                    path,
                    headers: head.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                seen.lock().unwrap().push(request.clone());
                let mut scripted = script(&request);
                if let Some(loaded) = scripted.loaded.take() {
                    let _ = loaded.await;
                }
                if !scripted.head {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::builder()
                    .status(scripted.status)
                    .header("content-type", scripted.content_type);
                if let Some(location) = scripted.location {
                    response = response.header("location", location);
                }
                Ok::<_, Infallible>(
                    response
                        .body(ScriptedBody(scripted.frames, exchange))
                        .unwrap(),
                )
            }
        });
        let tls = tls.clone();
        connections.spawn(async move {
            let http = http1::Builder::new();
            let Some(tls) = tls else {
                return http.serve_connection(TokioIo::new(stream), service).await;
            };
            match tls.accept(stream).await {
                Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                // Some tests have a client that does not trust this certificate.
                Err(_) => Ok(()),
            }
        });
    }
}

struct ScriptedBody(
    mpsc::UnboundedReceiver<Result<Bytes, Broken>>,
    /// Released with the answer.
    #[expect(dead_code, reason = "held, not read")]
    Option<Arc<()>>,
);

#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken by the test")
    }
}

impl std::error::Error for Broken {}

impl Body for ScriptedBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0
            .poll_recv(context)
            .map(|next| next.map(|frame| frame.map(Frame::data)))
    }
}
