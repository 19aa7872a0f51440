use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::Caller;

/// The real binary, serving.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
    pub(crate) database: PathBuf,
}

impl Process {
    /// Starts `r3mes-edge` on a database, with this configuration file's text, and waits until it serves.
    pub(crate) fn serve(database: &Path, config: &str) -> Self {
        let file = database.with_extension("toml");
        let common = "listen = \"127.0.0.1:0\"\ndiscover = false\nlog.format = \"text\"\n";
        let rates = "[rates]\nauth = \"off\"\nchat = \"off\"\nwrite = \"off\"\ntelemetry = \"off\"\nread = \"off\"\n";
        std::fs::write(&file, format!("{common}{rates}{config}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"))
            .arg("--config")
            .arg(&file)
            .arg("--database")
            .arg(database)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (told, address) = mpsc::channel();
        // Read to the end, so that the server never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once(" on http://") {
                    let _ = told.send(format!("http://{address}"));
                }
            }
        });
        let address = address
            .recv_timeout(Duration::from_secs(30))
            .expect("the server did not start");
        Self {
            child,
            address,
            database: database.to_owned(),
        }
    }

    pub(crate) fn admin(&self) -> Caller {
        let key =
            std::fs::read_to_string(format!("{}.admin-key", self.database.display())).unwrap();
        Caller::new(&self.address, Some(key.trim()))
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

    /// SIGTERM, and no more.
    pub(crate) fn tell_to_end(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end; the exit code, unless it was killed.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command of the real binary against a database; its exit code and standard output.
pub(crate) fn edge(database: &Path, arguments: &[&str]) -> (i32, String) {
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
    )
}
