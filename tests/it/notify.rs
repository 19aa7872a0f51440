//! The messages of the real binary to a service manager, which is a datagram socket of the test.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Caller, W1, on_a_small_disk};

/// The manager: its socket, and the server that it started.
struct Manager {
    socket: UnixDatagram,
    server: Child,
}

impl Manager {
    fn start(socket: UnixDatagram, name: &str, watchdog: Duration, mut command: Command) -> Self {
        let far = Some(Duration::from_secs(30));
        socket.set_read_timeout(far).unwrap();
        let server = command
            .env("NOTIFY_SOCKET", name)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { socket, server }
    }

    /// The next message.
    fn receive(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("no message came");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next one that holds this.
    fn receive_until(&self, what: &str) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            let message = self.receive();
            if message.contains(what) {
                return message;
            }
        }
        panic!("no message with {what} came");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn serve(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_r3mes-edge"));
    command.env_clear().env("R3MES_EDGE_DISCOVER", "false");
    command.args(["--listen", "127.0.0.1:0", "--database"]);
    command.arg(folder.join("edge.db"));
    command
}

const SOON: Duration = Duration::from_millis(200);

#[tokio::test]
async fn the_manager_is_notified_of_ready_watchdog_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let mut manager = Manager::start(socket, name.to_str().unwrap(), SOON, serve(folder.path()));
    let ready = manager.receive();
    let (first, status) = ready.split_once('\n').unwrap();
    assert_eq!(first, "READY=1");
    assert!(status.starts_with("STATUS=r3mes-edge "), "{status}");
    // Ready is ready: the very next request is answered.
    let (_, address) = status.rsplit_once(" on ").unwrap();
    Caller::new(address, None).get("/readyz").await.expect(200);
    for _ in 0..3 {
        assert!(
            manager
                .receive()
                .starts_with("WATCHDOG=1\nSTATUS=r3mes-edge ")
        );
    }
    manager.signal(Signal::TERM);
    manager.receive_until("STOPPING=1\n");
    assert_eq!(manager.server.wait().unwrap().code(), Some(0));
}

#[test]
fn a_stopped_process_sends_no_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    // systemd's sockets may have abstract names.
    let name = format!("r3mes-edge-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let manager = Manager::start(socket, &format!("@{name}"), SOON, serve(folder.path()));
    manager.receive_until("WATCHDOG=1");
    manager.signal(Signal::STOP);
    manager.socket.set_read_timeout(Some(SOON)).unwrap();
    // Messages from before are read first.
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    assert!(manager.socket.recv(&mut [0; 4096]).is_err());
    manager.signal(Signal::CONT);
    let far = Some(Duration::from_secs(30));
    manager.socket.set_read_timeout(far).unwrap();
    manager.receive_until("WATCHDOG=1");
}

#[tokio::test]
async fn a_full_disk_is_in_the_status_and_the_watchdog_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let Some(command) = on_a_small_disk(&disk, 24, "true", "") else {
        return;
    };
    let name = folder.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let manager = Manager::start(socket, name.to_str().unwrap(), SOON, command);
    let ready = manager.receive_until("READY=1");
    let (_, address) = ready.rsplit_once(" on ").unwrap();
    let seen = format!("/proc/{}/root{}", manager.server.id(), disk.display());
    let seen = Path::new(&seen);
    let key = std::fs::read_to_string(seen.join("edge.db.admin-key")).unwrap();
    let admin = Caller::new(address, Some(key.trim()));
    // No byte is left.
    let fill = std::fs::File::create(seen.join("fill")).unwrap();
    std::io::copy(&mut std::io::repeat(0), &mut &fill).unwrap_err();
    let until = Instant::now() + Duration::from_secs(30);
    let grant = json!({ "amount": 1, "reason": "test" });
    let path = format!("/users/{W1}/credits");
    while admin.post(&path, &grant).await.status == 200 {
        assert!(Instant::now() < until, "the disk does not fill");
    }
    for _ in 0..3 {
        let message = manager.receive_until("the storage rejects writes");
        assert!(message.starts_with("WATCHDOG=1\n"), "{message}");
    }
    drop(fill);
    std::fs::remove_file(seen.join("fill")).unwrap();
    manager.receive_until("WATCHDOG=1\nSTATUS=r3mes-edge ");
}
