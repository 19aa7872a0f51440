//! The server's surroundings, each of which can fail: a model, a chain, a disk.

use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::fault_injection::Fault;
use crate::support::{Process, Scripted, Seen, Upstream, eventually};

/// What a client asks for to get a long answer.
pub(super) const TALE: &str = "tell me a tale";
/// A text that only an upstream knows and no client may read.
pub(super) const SECRET: &str = "the node's own words";
const WORDS: [&str; 6] = ["All ", "is ", "well ", "here", ", ", "thanks."];
const PIECES: usize = 48;

/// The model's answer to a message, unless a fault is active.
pub(super) fn reply(message: &str) -> String {
    words(message).concat()
}

fn words(message: &str) -> Vec<String> {
    match message.contains(TALE) {
        true => vec!["word ".repeat(3000); PIECES],
        false => WORDS.map(str::to_owned).to_vec(),
    }
}

/// The current fault of the model.
struct Model {
    fault: Mutex<Option<Fault>>,
    asked: AtomicU64,
    /// Answers that are withheld from a client.
    hanging: AtomicU64,
}

impl Model {
    fn answer(self: &Arc<Self>, seen: &Seen) -> Scripted {
        if seen.path == "/v1/models" {
            return Scripted::whole(200, r#"{"object":"list","data":[{"id":"tiny"}]}"#);
        }
        let stream = seen.body.contains("\"stream\":true");
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let fault = *self.fault.lock().unwrap();
        match fault {
            Some(Fault::ModelSlow) => self.slow(turn, stream, &seen.body),
            Some(Fault::ModelCut) => cut(turn, stream),
            Some(Fault::ModelRubbish) => rubbish(turn),
            _ => complete(&seen.body, stream),
        }
    }

    /// Every other request is not answered until the client disconnects; the others are answered slowly.
    fn slow(self: &Arc<Self>, turn: u64, stream: bool, asked: &str) -> Scripted {
        let (scripted, frames) = Scripted::held();
        let (model, said) = (Arc::clone(self), words(asked));
        model.hanging.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            if turn.is_multiple_of(2) {
                frames.reader_left().await;
            } else if stream {
                let pause = Duration::from_millis(800) / said.len() as u32;
                for word in said {
                    tokio::time::sleep(pause).await;
                    frames.send_word(&word);
                }
                frames.send_done();
            } else {
                tokio::time::sleep(Duration::from_millis(500)).await;
                frames.send(completion());
            }
            model.hanging.fetch_sub(1, Ordering::SeqCst);
        });
        scripted
    }
}

fn completion() -> String {
    let message = json!({ "role": "assistant", "content": WORDS.concat() });
    let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
    let usage = json!({ "prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8 });
    json!({
        "id": "chatcmpl-7", "object": "chat.completion", "created": 1, "model": "tiny",
        "choices": [choice], "usage": usage,
    })
    .to_string()
}

fn complete(asked: &str, stream: bool) -> Scripted {
    if !stream {
        return Scripted::whole(200, completion());
    }
    let words = words(asked);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    Scripted::words(&words)
}

fn cut(turn: u64, stream: bool) -> Scripted {
    let (scripted, frames) = Scripted::held();
    match turn % 4 {
        0 => frames.send("data: {\"choi"),
        _ if stream => frames.send_word(WORDS[0]),
        _ => frames.send("{\"choices\":[{\"mess"),
    }
    // One in four ends cleanly.
    if turn % 4 != 1 {
        frames.cut();
    }
    scripted
}

fn rubbish(turn: u64) -> Scripted {
    let error = json!({ "error": { "message": SECRET } });
    match turn % 4 {
        0 => Scripted::whole(200, format!("<html>{SECRET}</html>")),
        1 => Scripted::whole(500, SECRET),
        2 => Scripted::whole(429, error.to_string()),
        _ => {
            let (scripted, frames) = Scripted::held();
            frames.send(format!("data: {error}\n\n"));
            scripted
        }
    }
}

/// A chain that makes a block a second.
fn chain(seen: &Seen) -> Scripted {
    let now = r3mes_edge::Clock::default().now();
    let height = now.millis() / 1000;
    let path = seen.path.split('?').next().unwrap();
    let result = match path {
        "/status" => json!({
            "node_info": { "network": "remes-soak" },
            "sync_info": {
                "latest_block_height": height.to_string(), "latest_block_time": now.to_string(), "catching_up": false,
            },
        }),
        _ => {
            let meta = json!({
                "block_id": { "hash": format!("{height:064X}") },
                "header": {
                    "height": height.to_string(), "time": now.to_string(), "proposer_address": format!("{height:040X}"),
                },
                "num_txs": "3",
            });
            json!({ "last_height": height.to_string(), "block_metas": [meta] })
        }
    };
    let body = json!({ "jsonrpc": "2.0", "id": -1, "result": result });
    Scripted::whole(200, body.to_string())
}

/// An upstream that can be taken away and come back at the same address.
struct Mortal {
    address: SocketAddr,
    script: Arc<dyn Fn(&Seen) -> Scripted + Send + Sync>,
    upstream: Option<Upstream>,
}

impl Mortal {
    /// At a loopback address of its own: while it is down no other process may get its port.
    async fn start(
        host: [u8; 4],
        script: impl Fn(&Seen) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        let script: Arc<dyn Fn(&Seen) -> Scripted + Send + Sync> = Arc::new(script);
        let any = SocketAddr::from((host, 0));
        let upstream = Self::listen(any, &script).await.unwrap();
        Self {
            address: upstream.address(),
            script,
            upstream: Some(upstream),
        }
    }

    async fn listen(
        address: SocketAddr,
        script: &Arc<dyn Fn(&Seen) -> Scripted + Send + Sync>,
    ) -> std::io::Result<Upstream> {
        let script = Arc::clone(script);
        Upstream::start_at(address, move |seen| script(seen)).await
    }

    async fn come_back(&mut self) {
        if self.upstream.is_none() {
            let back = eventually("the address is free again", async || {
                Self::listen(self.address, &self.script).await.ok()
            });
            self.upstream = Some(back.await);
        }
    }
}

/// Writes to the same disk as fast as possible, each piece flushed.
struct Neighbour {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Neighbour {
    const THREADS: usize = 3;
    const PIECE: usize = 2 << 20;
    /// Then the file is written anew from its start.
    const PIECES: usize = 16;

    fn start(folder: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..Self::THREADS).map(|n| {
            let (stop, path) = (
                Arc::clone(&stop),
                folder.join(format!("neighbour-{n}.load")),
            );
            std::thread::spawn(move || {
                let mut file = std::fs::File::create(&path).unwrap();
                let piece = vec![n as u8; Self::PIECE];
                for turn in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    file.write_all(&piece).unwrap();
                    file.sync_all().unwrap();
                    if turn % Self::PIECES == 0 {
                        file.rewind().unwrap();
                        file.set_len(0).unwrap();
                    }
                }
                std::fs::remove_file(path).unwrap();
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let join = || self.threads.into_iter().for_each(|one| one.join().unwrap());
        tokio::task::spawn_blocking(join).await.unwrap();
    }
}

/// The whole file.
pub(super) struct Surroundings {
    model: Arc<Model>,
    node: Mortal,
    chain: Mortal,
    neighbour: Option<Neighbour>,
}

impl Surroundings {
    pub(super) async fn start() -> Self {
        let model = Arc::new(Model {
            fault: Mutex::default(),
            asked: AtomicU64::new(0),
            hanging: AtomicU64::new(0),
        });
        let answering = Arc::clone(&model);
        Self {
            node: Mortal::start([127, 0, 0, 21], move |seen| answering.answer(seen)).await,
            chain: Mortal::start([127, 0, 0, 22], chain).await,
            model,
            neighbour: None,
        }
    }

    /// The part of a configuration that leads to them. Patience and pauses are short, so that each fault has all of its
    /// consequences while it lasts.
    pub(super) fn config(&self) -> String {
        format!(
            "[[inference]]\nname = \"node\"\nkind = \"openai\"\nurl = \"http://{}\"\n\
             [chain]\nrpc = \"http://{}\"\n\
             [breaker]\nopen = \"500ms\"\nmax_open = \"2s\"\n\
             [chat]\nin_flight = 32\nqueue = 64\nfirst_text_timeout = \"3s\"\nanswer_timeout = \"3s\"\nidle_timeout = \"3s\"\n",
            self.node.address, self.chain.address
        )
    }

    pub(super) fn break_down(&mut self, fault: Fault, serving: &Process) {
        match fault {
            Fault::ModelDown => self.node.upstream = None,
            Fault::ChainDown => self.chain.upstream = None,
            Fault::DiskBusy => {
                let folder = serving.database.parent().unwrap();
                self.neighbour = Some(Neighbour::start(folder));
            }
            Fault::DiskRefuses => serving.limit_files(Some(4096)),
            Fault::ModelSlow | Fault::ModelCut | Fault::ModelRubbish => {
                *self.model.fault.lock().unwrap() = Some(fault);
            }
        }
    }

    /// Ends every fault.
    pub(super) async fn mend(&mut self, serving: &Process) {
        *self.model.fault.lock().unwrap() = None;
        serving.limit_files(None);
        self.node.come_back().await;
        self.chain.come_back().await;
        if let Some(neighbour) = self.neighbour.take() {
            neighbour.stop().await;
        }
    }

    /// Whether the model withholds no answer.
    pub(super) fn none_withheld(&self) -> bool {
        self.model.hanging.load(Ordering::SeqCst) == 0
    }

    /// Drops the recorded requests, which would fill the memory.
    pub(super) fn forget(&self) {
        for one in [&self.node, &self.chain] {
            if let Some(upstream) = &one.upstream {
                upstream.forget();
            }
        }
    }
}
