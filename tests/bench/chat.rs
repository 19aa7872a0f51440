//! Chat: what the server adds to the first byte, and how much it passes on.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::floors::DONE;
use crate::load::{Job, Round, Used, closed};
use crate::paths::{MANY, loaded, paced};
use crate::processes::{Edge, Process, WALLET, count};
use crate::wire::request;
use crate::{Bench, Goal, Result, Target};

pub(crate) const COMPLETIONS: &str = "/v1/chat/completions";

/// The same chat again and again, of which the wait for the first text counts.
pub(crate) fn asking(process: &Process, path: &str, key: &str, message: &str) -> Job {
    let (body, ends) = if path == COMPLETIONS {
        let messages = format!(r#"[{{"role":"user","content":"{message}"}}]"#);
        (format!(r#"{{"stream":true,"messages":{messages}}}"#), DONE)
    } else {
        (format!(r#"{{"message":"{message}"}}"#), &b"word \n"[..])
    };
    let request = request("POST", path, Some(key), &body);
    Job {
        ends,
        first: true,
        ..Job::same(process.address, request)
    }
}

/// A target that one connection asks.
fn alone<'a>(bench: &Bench, name: &'static str, process: &'a Process, job: Job) -> Target<'a> {
    let length = bench.length();
    Target {
        name,
        process: Some(process),
        round: Box::new(move || closed(&job, 1, length, &|| process.used())),
    }
}

/// The server with an inference server behind it, and what else leads there.
struct Chat {
    upstream: Process,
    nginx: Option<Process>,
    edge: Edge,
    key: String,
}

pub(crate) fn chat(bench: &Bench) -> Result<()> {
    let paths = ["chat-first-byte", "chat-streams", "open-chat"];
    if !paths.iter().any(|path| bench.wants(path)) {
        return Ok(());
    }
    let upstream = Process::floor(&["upstream"])?;
    let nginx = Process::nginx(bench.folder.path(), upstream.address)?;
    if nginx.is_none() {
        bench.note("chat", "no nginx");
    }
    let (edge, key) = paying(
        Edge::program(),
        bench.folder.path().join("chat.db"),
        &upstream,
        "",
    )?;
    let chat = Chat {
        upstream,
        nginx,
        edge,
        key,
    };
    if bench.wants("chat-first-byte") {
        chat.first_byte(bench)?;
    }
    if bench.wants("chat-streams") {
        chat.streams(bench)?;
    }
    if bench.wants("open-chat") {
        chat.open(bench)?;
    }
    is_paid(&chat.edge)
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

impl Chat {
    fn by(&self, process: &Process, message: &str) -> Job {
        asking(process, COMPLETIONS, &self.key, message)
    }

    fn first_byte(&self, bench: &Bench) -> Result<()> {
        let target = |name, process| alone(bench, name, process, self.by(process, "short"));
        let mut targets = vec![
            target("direct", &self.upstream),
            target("chat", &self.edge.process),
            flushes(bench)?,
        ];
        targets.extend(self.nginx.iter().map(|nginx| target("nginx", nginx)));
        let all = bench.interleaved(&targets)?;
        bench.table("chat-first-byte", &all);
        let added = all[1].beside(&all[0], |ours, direct| ours.p50 - direct.p50);
        bench.verdict("chat-first-byte", added * 1e6, "us", Goal::Most(450.0));
        Ok(())
    }

    fn streams(&self, bench: &Bench) -> Result<()> {
        let target = |name, process| loaded(bench, name, process, &self.by(process, "long"));
        let text = asking(&self.edge.process, "/chat", &self.key, "long");
        let mut targets = vec![
            target("direct", &self.upstream),
            target("chat", &self.edge.process),
            loaded(bench, "chat as text", &self.edge.process, &text),
        ];
        targets.extend(self.nginx.iter().map(|nginx| target("nginx", nginx)));
        let all = bench.interleaved(&targets)?;
        bench.table("chat-streams", &all);
        if let Some(nginx) = all.get(3) {
            bench.verdict("chat-streams", all[1].ratio(nginx), "", Goal::Least(0.8));
        }
        Ok(())
    }

    fn open(&self, bench: &Bench) -> Result<()> {
        const GOAL: f64 = 1000.0;
        let job = self.by(&self.edge.process, "short");
        let most = closed(&job, MANY, bench.length(), &Used::default)?.rate();
        let rate = GOAL.min(most / 2.0).max(1.0);
        let note = format!("{most:.0} chats a second at most, {rate:.0} a second asked for");
        bench.note("open-chat", &note);
        let target = |name, process| {
            let job = self.by(process, "short");
            paced(bench, name, process, &job, rate)
        };
        let mut targets = vec![
            target("direct", &self.upstream),
            target("chat", &self.edge.process),
        ];
        targets.extend(self.nginx.iter().map(|nginx| target("nginx", nginx)));
        let all = bench.interleaved(&targets)?;
        bench.table("open-chat", &all);
        let added = all[1].beside(&all[0], |ours, direct| ours.p99 - direct.p99);
        bench.verdict("open-chat", added * 1e3, "ms", Goal::Most(1.0));
        Ok(())
    }
}

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
        name: "one fdatasync",
        process: None,
        round: Box::new(round),
    })
}
