use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::json;

use super::Caller;

/// The real binary, serving.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
    pub(crate) database: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `r3mes-edge` on a database, with this configuration file's text, and waits until it serves.
    pub(crate) fn serve(database: &Path, config: &str) -> Self {
        Self::serve_on(database, &[], config)
    }

    /// The same where it may be refused; then the log.
    pub(crate) fn try_serve(database: &Path, config: &str) -> Result<Self, String> {
        let command = Self::command(database, &[], config);
        Self::try_start(command, |_| database.to_owned())
    }

    /// The same on these listeners.
    pub(crate) fn serve_on(database: &Path, places: &[&str], config: &str) -> Self {
        Self::start(Self::command(database, places, config), |_| {
            database.to_owned()
        })
    }

    fn command(database: &Path, places: &[&str], config: &str) -> Command {
        let file = write_config(&database.with_extension("toml"), config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
        command.env_clear().stdout(Stdio::null());
        command.arg("--config").arg(file);
        command.arg("--database").arg(database);
        command.args(places.iter().flat_map(|place| ["--listen", *place]));
        command
    }

    /// The same on a disk of so many MiB of its own, which is the folder `disk`; `before` is a shell's line that is run
    /// there first. `None` where this machine does not let a test mount anything.
    pub(crate) fn serve_on_a_small_disk(
        disk: &Path,
        mebibytes: u32,
        before: &str,
        config: &str,
    ) -> Option<Self> {
        let mut command = on_a_small_disk(disk, mebibytes, before, config)?;
        command.stdout(Stdio::null());
        Some(Self::start(command, |process| {
            let root = format!("/proc/{process}/root{}", disk.display());
            Path::new(&root).join("edge.db")
        }))
    }

    /// Starts this command, whose log is read.
    pub(crate) fn start(command: Command, database: impl FnOnce(u32) -> PathBuf) -> Self {
        let started = Self::try_start(command, database);
        started.unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    fn try_start(
        mut command: Command,
        database: impl FnOnce(u32) -> PathBuf,
    ) -> Result<Self, String> {
        let command = command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let written = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        let (sender, address) = mpsc::channel();
        // Read to the end, so that the server never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in written.lines().map_while(Result::ok) {
                let serves = line.split_once(" serves ");
                if let Some((_, address)) = serves.and_then(|(_, of)| of.rsplit_once(" on ")) {
                    let _ = sender.send(address.to_owned());
                }
                lines.lock().unwrap().push(line);
            }
        });
        let Ok(address) = address.recv_timeout(Duration::from_secs(30)) else {
            let _ = child.kill();
            child.wait().unwrap();
            return Err(log.lock().unwrap().join("\n"));
        };
        Ok(Self {
            database: database(child.id()),
            child,
            address,
            log,
        })
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// What it logged since the last call, so that a long run does not hold all of it.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// From now on no file can be written beyond so many bytes; `None` is no limit.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).unwrap();
    }

    pub(crate) fn admin(&self) -> Caller {
        let key =
            std::fs::read_to_string(format!("{}.admin-key", self.database.display())).unwrap();
        Caller::new(&self.address, Some(key.trim()))
    }

    /// Gives so many credits to a wallet.
    pub(crate) async fn grant(&self, wallet: &str, credits: u32) {
        let grant = json!({ "amount": credits, "reason": "test" });
        let path = format!("/users/{wallet}/credits");
        self.admin().post(&path, &grant).await.expect(200);
    }

    /// Gives it another configuration file, all of this text, and sends SIGHUP.
    pub(crate) fn reload(&self, config: &str) {
        std::fs::write(self.database.with_extension("toml"), config).unwrap();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(self) -> Option<i32> {
        self.tell_to_end();
        self.wait()
    }

    /// Sends SIGTERM without waiting.
    pub(crate) fn tell_to_end(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end; the exit code, unless it was killed.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.wait_for_end()
    }

    /// The same, where its log is still to be read.
    pub(crate) fn wait_for_end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(file: &Path, config: &str) -> PathBuf {
    let common = "listen = \"127.0.0.1:0\"\ndiscover = false\nlog.format = \"text\"\n";
    let rates = "[rates]\nhealth = \"off\"\nauth = \"off\"\nchat = \"off\"\nwrite = \"off\"\ntelemetry = \"off\"\nread = \"off\"\npage = \"off\"\nrefused = \"off\"\n";
    std::fs::write(file, format!("{common}{rates}{config}")).unwrap();
    file.to_owned()
}

/// The real binary about to serve `edge.db` on a tmpfs over the folder `disk`, in a mount namespace of its own.
pub(crate) fn on_a_small_disk(
    disk: &Path,
    mebibytes: u32,
    before: &str,
    config: &str,
) -> Option<Command> {
    let namespace = || {
        let mut command = Command::new("unshare");
        command.arg("--user").arg("--map-root-user").arg("--mount");
        command
    };
    if !namespace()
        .arg("true")
        .status()
        .is_ok_and(|done| done.success())
    {
        println!("skipped: this machine does not allow a mount namespace");
        return None;
    }
    std::fs::create_dir_all(disk).unwrap();
    let file = write_config(&disk.with_extension("toml"), config);
    let script = format!(
        "mount -t tmpfs -o size={mebibytes}m tmpfs \"$1\" && cd \"$1\" && {before} && exec \"$2\" --config \"$3\" --database \"$1/edge.db\""
    );
    let mut command = namespace();
    command.arg("sh").arg("-c").arg(script).arg("sh").arg(disk);
    command.arg(env!("CARGO_BIN_EXE_r3mes-edge")).arg(file);
    Some(command)
}

/// Runs a command of the real binary against a database; its exit code and standard output.
pub(crate) fn edge(database: &Path, arguments: &[&str]) -> (i32, String) {
    let (code, out, _) = edge_output(database, arguments);
    (code, out)
}

/// The same, and standard error.
pub(crate) fn edge_output(database: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    let command = command
        .arg("--database")
        .arg(database)
        .args(arguments)
        .env_clear();
    let done = command
        .current_dir(database.parent().unwrap())
        .output()
        .unwrap();
    (
        done.status.code().unwrap(),
        String::from_utf8(done.stdout).unwrap(),
        String::from_utf8(done.stderr).unwrap(),
    )
}
