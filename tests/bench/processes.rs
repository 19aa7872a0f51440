//! What is measured runs in processes of its own, so that what it uses can be measured separately.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::load::Used;
use crate::wire::{call, request};

/// A process that serves; asked to end when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// This program again, as one of its floors.
    pub(crate) fn floor(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(crate::floors::FLAG).args(arguments);
        // It ends with its standard input, however we end.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut address = String::new();
        if let Some(out) = &mut child.stdout {
            BufReader::new(out).read_line(&mut address)?;
        }
        let address = address.trim().parse()?;
        Ok(Self { child, address })
    }

    /// nginx as a proxy before an address; `None` where it is not installed.
    pub(crate) fn nginx(folder: &Path, upstream: SocketAddr) -> Result<Option<Self>> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = folder.display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/nginx.{kind};"))
            .concat();
        let user = if rustix::process::getuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let config = format!(
            "{user} daemon off; worker_processes auto; pid {folder}/nginx.pid; error_log stderr;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; {temporary} keepalive_requests 100000000;
                upstream stand_in {{ server {upstream}; keepalive 128; keepalive_requests 100000000; }}
                server {{
                    listen {address};
                    location / {{
                        proxy_pass http://stand_in; proxy_http_version 1.1; proxy_set_header Connection \"\";
                        proxy_buffering off;
                    }}
                }}
            }}"
        );
        let file = format!("{folder}/nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        let command = command.args(["-e", "stderr", "-c", &file]);
        let child = match command.stderr(Stdio::null()).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            child => child?,
        };
        let serving = Self { child, address };
        patiently(|| std::net::TcpStream::connect(address).ok())?;
        Ok(Some(serving))
    }

    /// What it and its children used of the processors, and what we did.
    pub(crate) fn used(&self) -> Used {
        let id = self.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        Used {
            theirs: children
                .split_whitespace()
                .map(cpu)
                .fold(cpu(&id.to_string()), |sum, cpu| sum + cpu),
            ours: cpu("self"),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that it has.
    pub(crate) fn memory(&self) -> u64 {
        self.kibibytes("VmRSS:") << 10
    }

    /// The most it had since this was forgotten last.
    pub(crate) fn peak(&self) -> u64 {
        self.kibibytes("VmHWM:") << 10
    }

    pub(crate) fn forget_peak(&self) -> Result<()> {
        // 5: see proc_pid_clear_refs(5).
        Ok(std::fs::write(
            format!("/proc/{}/clear_refs", self.id()),
            "5",
        )?)
    }

    fn kibibytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes.and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What a process used of the processors so far.
pub(crate) fn cpu(process: &str) -> Duration {
    used_by(process, 2)
}

/// What we and all that we started and that is over used of the processors.
pub(crate) fn all_of_ours() -> Duration {
    used_by("self", 4)
}

/// The first of: its own time in user and system mode, then that of its children that are over.
fn used_by(process: &str, times: usize) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before them may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    ticks(fields.split_whitespace().skip(11).take(times))
}

/// What anybody on this machine used of the processors, or another machine on the same ones.
pub(crate) fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut fields = stat.lines().next().unwrap_or_default().split_whitespace();
    let working = fields.by_ref().skip(1).take(3);
    let sum = ticks(working);
    // After them: idle, waiting for a disk; then interrupts and what was taken from this machine.
    sum + ticks(fields.skip(2).take(3))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Asks again and again, for some seconds.
pub(crate) fn patiently<T>(ask: impl Fn() -> Option<T>) -> Result<T> {
    let given_up = Instant::now() + Duration::from_secs(20);
    while Instant::now() < given_up {
        if let Some(found) = ask() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Err("a process does not serve".into())
}

pub(crate) const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

/// The real server, everything on: keys, limiter, metrics, log.
pub(crate) struct Edge {
    pub(crate) process: Process,
    pub(crate) database: PathBuf,
    /// From its start to its first answer.
    pub(crate) started_in: Duration,
}

impl Edge {
    pub(crate) fn program() -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_r3mes-edge"))
    }

    /// Starts it on a database, which is made where it is missing, with more configuration.
    pub(crate) fn start(database: PathBuf, more: &str) -> Result<Self> {
        Self::start_program(Self::program(), database, more)
    }

    /// The same for the binary of another build.
    pub(crate) fn start_program(program: &Path, database: PathBuf, more: &str) -> Result<Self> {
        let rates = [
            "auth",
            "chat",
            "write",
            "telemetry",
            "read",
            "health",
            "failures",
        ];
        let rates: String = rates
            .map(|class| format!("{class} = \"1000000/s\"\n"))
            .concat();
        let config = format!(
            "listen = \"127.0.0.1:0\"
            discover = false
            log.level = \"info\"
            log.format = \"json\"
            limits.connections = 16384
            limits.per_address = 16384
            limits.in_flight = 2048
            chat.in_flight = 1024
            chat.queue = 1024
            {more}
            [rates]\n{rates}"
        );
        let file = database.with_extension("toml");
        std::fs::write(&file, config)?;
        let mut command = Command::new(program);
        command.env_clear().arg("--config").arg(file);
        command.arg("--database").arg(&database);
        // Every line of the log is written, and none reaches the disk whose flushes are measured.
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let child = command.spawn()?;
        let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
        let mut process = Process {
            child,
            address: nowhere,
        };
        let lock = database.with_added_extension("lock");
        process.address = patiently(|| {
            let announced = std::fs::read_to_string(&lock).ok()?;
            announced.strip_prefix("http://")?.parse().ok()
        })?;
        call(process.address, &request("GET", "/readyz", None, ""))?;
        Ok(Self {
            process,
            database,
            started_in: began.elapsed(),
        })
    }

    /// An answer to the admin.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &str) -> Result<serde_json::Value> {
        let file = self.database.with_added_extension("admin-key");
        let key = std::fs::read_to_string(file)?;
        let request = request(method, path, Some(key.trim()), body);
        Ok(serde_json::from_slice(&call(
            self.process.address,
            &request,
        )?)?)
    }

    /// A new key of the wallet, and its id.
    pub(crate) fn key(&self) -> Result<(String, String)> {
        let scopes = r#"["chat","read","miner","keys"]"#;
        let body = format!(r#"{{"wallet_address":"{WALLET}","scopes":{scopes}}}"#);
        let made = self.admin("POST", "/api/keys", &body)?;
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        Ok((text("api_key"), text("id")))
    }
}

/// The number that a query of a database gives.
pub(crate) fn count(database: &Path, query: &str) -> Result<i64> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(database, flags)?;
    Ok(connection.query_row(query, [], |row| row.get(0))?)
}
