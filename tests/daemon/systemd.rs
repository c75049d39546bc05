//! Notifications to systemd (sd_notify(3)), and the handling of its signals. systemd itself is not needed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::daemon::{Daemon, TIMEOUT};

/// The notification socket of a service manager.
struct ServiceManager {
    socket: UnixDatagram,
}

impl ServiceManager {
    /// Starts the daemon like a service of `Type=notify` with a watchdog of one second.
    fn start(daemon: &mut Daemon) -> Self {
        let path = daemon.home.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = daemon.home.command("/bin/sh");
        // The shell replaces itself with the daemon, so `$$` is the daemon's process id.
        command.args(["-c", "WATCHDOG_PID=$$ exec claviger \"$@\"", "sh"]);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
        daemon.start_with(command);
        Self { socket }
    }

    /// The next notification, if it comes in time.
    fn receive(&self, timeout: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(timeout)).unwrap();
        let mut message = [0; 256];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// Waits for a notification, and skips the notifications before it.
    #[track_caller]
    fn wait_until(&self, wanted: &str) {
        let until = Instant::now() + TIMEOUT;
        while let Some(message) = self.receive(TIMEOUT) {
            if message == wanted {
                return;
            }
            assert!(Instant::now() < until, "no {wanted}");
        }
        panic!("the notifications ended without {wanted}");
    }
}

#[test]
fn ready_watchdog_and_stopping_are_notified() {
    let Some(mut agent) = Daemon::new("") else { return };
    let manager = ServiceManager::start(&mut agent);
    assert_eq!(manager.receive(TIMEOUT).as_deref(), Some("READY=1"));
    for _ in 0..3 {
        assert_eq!(manager.receive(Duration::from_secs(10)).as_deref(), Some("WATCHDOG=1"));
    }

    // SIGHUP reloads the configuration. The daemon goes on.
    agent.signal(Signal::HUP);
    while manager.receive(Duration::from_millis(10)).is_some() {}
    assert_eq!(manager.receive(Duration::from_secs(10)).as_deref(), Some("WATCHDOG=1"));
    assert!(agent.is_ready());

    agent.signal(Signal::TERM);
    manager.wait_until("STOPPING=1");
    agent.wait();
    assert_eq!(manager.receive(Duration::from_millis(10)), None);
}

/// A request that has begun is answered, and its message is stored.
#[test]
fn a_request_in_progress_is_answered_before_the_daemon_ends() {
    let Some(mut agent) = Daemon::running("") else { return };
    let mut slow = TcpStream::connect(("127.0.0.1", agent.port)).unwrap();
    slow.set_read_timeout(Some(TIMEOUT)).unwrap();
    let packed = pack(&agent, "slow");
    let (first, rest) = packed.split_at(packed.len() / 2);
    write!(
        slow,
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/didcomm-encrypted+json\r\n\
         content-length: {}\r\n\r\n{first}",
        packed.len()
    )
    .unwrap();
    // The daemon has the head, and waits for the rest.
    std::thread::sleep(Duration::from_millis(300));
    agent.signal(Signal::TERM);
    agent.wait_until("the daemon accepts no connections", |agent| {
        TcpStream::connect(("127.0.0.1", agent.port)).is_err()
    });
    slow.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}\n{}", agent.log());
    agent.wait();
    agent.start();
    agent.wait_until("the message was opened", |agent| agent.unread_texts() == ["slow"]);
}

/// A basic message to an agent, packed by its own command line.
fn pack(agent: &Daemon, text: &str) -> String {
    let message = serde_json::json!({
        "id": "1", "typ": "application/didcomm-plain+json", "type": "https://didcomm.org/basicmessage/2.0/message",
        "from": agent.did, "to": [agent.did], "body": { "content": text }, "created_time": now(),
    });
    let args = ["pack", "--to", &agent.did, "--from", &agent.did];
    agent.home.run_args(&args, &message.to_string()).success().trim().to_owned()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
