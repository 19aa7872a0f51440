//! Chat: what the server adds to the first byte, and how much it passes on.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::floors::{DONE, words};
use crate::load::{Job, Round, Used, closed};
use crate::paths::{MANY, paced};
use crate::processes::{Edge, Process, WALLET, count};
use crate::wire::request;
use crate::{Bench, Goal, Result, Series, Target};

pub(crate) const COMPLETIONS: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

/// The same chat again and again, of which the wait for the first text counts.
pub(crate) fn asking(process: &Process, path: &str, key: &str, message: &str) -> Job {
    let messages = format!(r#"[{{"role":"user","content":"{message}"}}]"#);
    let (body, ends) = match path {
        COMPLETIONS => (completion(message, true), DONE),
        MESSAGES => (
            format!(r#"{{"stream":true,"max_tokens":4096,"messages":{messages}}}"#),
            &b"data: {\"type\":\"message_stop\"}\n\n"[..],
        ),
        RESPONSES => (
            format!(r#"{{"stream":true,"input":{messages}}}"#),
            &b"\"type\":\"response.completed\"}\n\n"[..],
        ),
        _ => (format!(r#"{{"message":"{message}"}}"#), &b"word \n"[..]),
    };
    let request = request("POST", path, Some(key), &body);
    Job {
        ends,
        first: true,
        ..Job::same(process.address, request)
    }
}

fn completion(message: &str, stream: bool) -> String {
    let messages = format!(r#"[{{"role":"user","content":"{message}"}}]"#);
    format!(r#"{{"stream":{stream},"messages":{messages}}}"#)
}

/// What is asked for in a row of the table.
struct Kind {
    path: &'static str,
    connections: usize,
    words: usize,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Of the route with this path.
    Stream(&'static str),
    /// `POST /chat`; what leads past the server is asked for a stream.
    Text,
    Whole,
}

const KINDS: [Kind; 7] = [
    Kind::new("chat-first-byte", 1, 1, Answer::Stream(COMPLETIONS)),
    Kind::new("chat-one-word", MANY, 1, Answer::Whole),
    Kind::new("chat-streams", MANY, 32, Answer::Stream(COMPLETIONS)),
    Kind::new("message-streams", MANY, 32, Answer::Stream(MESSAGES)),
    Kind::new("response-streams", MANY, 32, Answer::Stream(RESPONSES)),
    Kind::new("chat-text", MANY, 32, Answer::Text),
    Kind::new("chat-long", 16, 1000, Answer::Stream(COMPLETIONS)),
];

impl Kind {
    const fn new(path: &'static str, connections: usize, words: usize, answer: Answer) -> Self {
        Self {
            path,
            connections,
            words,
            answer,
        }
    }

    fn job(&self, process: &Process, key: &str, is_server: bool) -> Job {
        let message = words(self.words);
        match self.answer {
            Answer::Text if is_server => asking(process, "/chat", key, &message),
            Answer::Stream(path) => asking(process, path, key, &message),
            Answer::Text => asking(process, COMPLETIONS, key, &message),
            Answer::Whole => {
                let body = completion(&message, false);
                Job::same(
                    process.address,
                    request("POST", COMPLETIONS, Some(key), &body),
                )
            }
        }
    }

    fn target<'a>(
        &self,
        bench: &Bench,
        name: &'static str,
        process: &'a Process,
        job: Job,
    ) -> Target<'a> {
        let (connections, length) = (self.connections, bench.length());
        Target {
            name,
            process: Some(process),
            round: Box::new(move || closed(&job, connections, length, &|| process.used())),
        }
    }
}

/// A stand-in for an inference server, and what leads there beside the server.
pub(crate) struct Floors {
    pub(crate) upstream: Process,
    proxy: Process,
    nginx: Option<Process>,
}

/// A server that is measured, and a key for it.
pub(crate) type Server<'a> = (&'static str, &'a Process, &'a str);

impl Floors {
    pub(crate) fn start(bench: &Bench) -> Result<Self> {
        let upstream = Process::floor(&["upstream"])?;
        let proxy = Process::floor(&["proxy", &upstream.address.to_string()])?;
        let nginx = Process::nginx(bench.folder.path(), upstream.address)?;
        if nginx.is_none() {
            bench.note("chat", "no nginx");
        }
        Ok(Self {
            upstream,
            proxy,
            nginx,
        })
    }

    /// All ways to the inference server in turns, the servers first.
    pub(crate) fn beside(
        &self,
        bench: &Bench,
        path: &str,
        servers: &[Server<'_>],
    ) -> Result<Vec<Series>> {
        let kind = KINDS.iter().find(|kind| kind.path == path);
        let kind = kind.ok_or_else(|| format!("{path} is no chat"))?;
        let mut targets = Vec::new();
        for &(name, process, key) in servers {
            let job = kind.job(process, key, true);
            targets.push(kind.target(bench, name, process, job));
        }
        let floors = [("direct", &self.upstream), ("thin proxy", &self.proxy)];
        let nginx = self.nginx.iter().map(|nginx| ("nginx", nginx));
        let floor =
            |(name, process)| kind.target(bench, name, process, kind.job(process, "", false));
        targets.extend(floors.into_iter().chain(nginx).map(floor));
        if kind.connections == 1 {
            targets.push(flushes(bench)?);
        }
        let all = bench.interleaved(&targets)?;
        bench.table(path, &all);
        let (servers, floors) = all.split_at(servers.len());
        for ours in servers {
            compare(bench, path, ours, floors);
        }
        if let (Some(ours), [direct, proxy, floors @ ..]) = (servers.last(), floors) {
            goal(bench, path, ours, direct, proxy, floors.first());
        }
        Ok(all)
    }
}

/// How much longer the first byte takes than asked for directly, in seconds.
fn added(series: &Series, direct: &Series) -> f64 {
    series.beside(direct, |series, direct| series.p50 - direct.p50)
}

fn cpu(series: &Series) -> f64 {
    series.cpu(|used| used.theirs)
}

/// A line about one server beside all floors.
fn compare(bench: &Bench, path: &str, ours: &Series, floors: &[Series]) {
    let [direct, others @ ..] = floors else {
        return;
    };
    let mut line = format!(
        "{}: first byte {:+.0} us",
        ours.name,
        added(ours, direct) * 1e6
    );
    for floor in others.iter().filter(|floor| floor.name != FLUSH) {
        line += &format!(
            "; beside {} {:.2} of its rate, {:.1} x its CPU, it adds {:+.0} us",
            floor.name,
            ours.ratio(floor),
            cpu(ours) / cpu(floor),
            added(floor, direct) * 1e6,
        );
    }
    bench.note(path, &line);
}

/// Notes what a chat should be.
fn goal(
    bench: &Bench,
    path: &str,
    ours: &Series,
    direct: &Series,
    proxy: &Series,
    nginx: Option<&Series>,
) {
    let nginx = nginx.filter(|nginx| nginx.name == "nginx");
    let least = match path {
        "chat-first-byte" => {
            let times = added(ours, direct) / added(proxy, direct);
            return bench.verdict(path, times, "x", Goal::Most(2.0));
        }
        "chat-one-word" => return bench.verdict(path, cpu(ours) * 1e6, "us", Goal::Most(75.0)),
        "chat-streams" => 0.6,
        "message-streams" | "response-streams" => 0.5,
        "chat-long" => 0.85,
        _ => return,
    };
    if let Some(nginx) = nginx {
        bench.verdict(path, ours.ratio(nginx), "", Goal::Least(least));
    }
}

pub(crate) fn chat(bench: &Bench) -> Result<()> {
    let paths = KINDS.map(|kind| kind.path);
    if !paths.iter().any(|path| bench.wants(path)) && !bench.wants("open-chat") {
        return Ok(());
    }
    let floors = Floors::start(bench)?;
    let database = bench.folder.path().join("chat.db");
    let (edge, key) = paying(Edge::program(), database, &floors.upstream, "")?;
    for path in paths.into_iter().filter(|path| bench.wants(path)) {
        floors.beside(bench, path, &[("chat", &edge.process, &key)])?;
    }
    if bench.wants("open-chat") {
        open(bench, &floors, &edge, &key)?;
    }
    is_paid(&edge)
}

/// A server before this inference server, with more configuration, and a key that can pay for all that is asked.
pub(crate) fn paying(
    program: &Path,
    database: PathBuf,
    upstream: &Process,
    more: &str,
) -> Result<(Edge, String)> {
    let node = format!(
        "inference = [{{ name = \"stand-in\", kind = \"openai\", url = \"http://{}\" }}]\n{more}",
        upstream.address
    );
    let edge = Edge::start_program(program, database, &node)?;
    let (key, _) = edge.key()?;
    let grant = r#"{"amount":1000000000,"reason":"benchmark"}"#;
    edge.admin("POST", &format!("/users/{WALLET}/credits"), grant)?;
    Ok((edge, key))
}

/// Every chat is paid for, and the ledger adds up.
pub(crate) fn is_paid(edge: &Edge) -> Result<()> {
    let report = edge.admin("GET", "/admin/ledger/verify?full=true", "")?;
    let health = edge.admin("GET", "/health", "")?;
    let holds = &health["storage"]["holds"];
    let reversed = "SELECT count(*) FROM ledger WHERE reason = 'chat_refund'";
    let reversed = count(&edge.database, reversed)?;
    let errors = &report["mistakes"];
    if errors.as_array().is_some_and(Vec::is_empty) && holds == 0 && reversed == 0 {
        return Ok(());
    }
    Err(format!("{holds} chats are not charged, {reversed} charges were reversed; {report}").into())
}

fn open(bench: &Bench, floors: &Floors, edge: &Edge, key: &str) -> Result<()> {
    const GOAL: f64 = 1000.0;
    let job = |process| asking(process, COMPLETIONS, key, &words(4));
    let most = closed(&job(&edge.process), MANY, bench.length(), &Used::default)?.rate();
    let rate = GOAL.min(most / 2.0).max(1.0);
    let note = format!("{most:.0} chats a second at most, {rate:.0} a second asked for");
    bench.note("open-chat", &note);
    let target = |name, process| paced(bench, name, process, &job(process), rate);
    let mut targets = vec![
        target("direct", &floors.upstream),
        target("chat", &edge.process),
        target("thin proxy", &floors.proxy),
    ];
    targets.extend(floors.nginx.iter().map(|nginx| target("nginx", nginx)));
    let all = bench.interleaved(&targets)?;
    bench.table("open-chat", &all);
    let added = all[1].beside(&all[0], |ours, direct| ours.p99 - direct.p99);
    bench.verdict("open-chat", added * 1e3, "ms", Goal::Most(1.0));
    Ok(())
}

const FLUSH: &str = "one fdatasync";

/// Writes one page of a file again and flushes it, as a commit does with its log.
fn flushes<'a>(bench: &Bench) -> Result<Target<'a>> {
    const PAGE: usize = 4096;
    let mut file = File::create(bench.folder.path().join("flushed"))?;
    file.write_all(&[0; 64 * PAGE])?;
    file.sync_all()?;
    let length = bench.length() / 4;
    let round = move || {
        let (mut round, began) = (Round::default(), Instant::now());
        while round.done == 0 || began.elapsed() < length {
            let sent = Instant::now();
            file.write_all_at(&[1; PAGE], (round.done % 64 * PAGE) as u64)?;
            file.sync_data()?;
            round.waits.push(sent.elapsed());
            round.done += 1;
        }
        round.took = began.elapsed();
        round.waits.sort_unstable();
        Ok(round)
    };
    Ok(Target {
        name: FLUSH,
        process: None,
        round: Box::new(round),
    })
}
