//! A home with a token and a configuration, and the daemon that runs in it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use claviger_testkit::free_port;
use serde_json::Value;

use crate::home::{CommandOutput, Home, softhsm_module};

/// How long a test waits for what usually takes milliseconds: the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// An agent: its home, its DID, and the process of `claviger serve` while it runs.
pub struct Daemon {
    pub home: Home,
    pub did: String,
    pub port: u16,
    pub ops_port: u16,
    child: Option<Child>,
}

impl Daemon {
    /// Creates a home with a new SoftHSM token, and a did:peer:2 whose endpoint is the daemon's port. Does not start
    /// the daemon. `more` is appended to the configuration, within `[ops]`. Returns none if SoftHSM is not installed.
    pub fn new(more: &str) -> Option<Self> {
        Self::with_config("[net]\nallow_private = [\"127.0.0.0/8\"]", more)
    }

    /// Like `new`, with other text behind the members of `[http]`: more members, or the section `[net]`.
    pub fn with_config(http: &str, more: &str) -> Option<Self> {
        let home = Home::with_token()?;
        let (port, ops_port) = (free_port(), free_port());
        home.configure(
            &softhsm_module()?,
            &format!(
                "[http]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"http://127.0.0.1:{port}\"\n{http}\n\
                 [ops]\nlisten = \"127.0.0.1:{ops_port}\"\n{more}"
            ),
        );
        let did = home.create_did(&format!("--method peer:2 --service http://127.0.0.1:{port}"));
        Some(Self { home, did, port, ops_port, child: None })
    }

    /// Uses a home that has its configuration and DID already. Does not start the daemon.
    pub fn from_home(home: Home, did: &str, port: u16, ops_port: u16) -> Self {
        Self { home, did: did.to_owned(), port, ops_port, child: None }
    }

    /// Like `new`, and starts the daemon.
    pub fn running(more: &str) -> Option<Self> {
        let mut daemon = Self::new(more)?;
        daemon.start();
        Some(daemon)
    }

    /// Starts the daemon, and waits until its token is ready.
    pub fn start(&mut self) {
        self.start_without_token();
        self.wait_until_token_ready();
    }

    /// Starts the daemon, and waits until it accepts messages.
    pub fn start_without_token(&mut self) {
        self.start_with(self.home.command(&claviger_testkit::program!()));
    }

    /// Runs `command serve -v`, and waits until the daemon accepts messages. If the command is another program, it must
    /// replace itself with the daemon (exec).
    pub fn start_with(&mut self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.args(["serve", "-v"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.wait_until("the daemon is ready", Self::is_ready);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("the daemon runs"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Signals the daemon and all processes of its group. The daemon must be the first process of a group.
    pub fn signal_group(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("the daemon runs"));
        rustix::process::kill_process_group(pid, signal).unwrap();
    }

    /// Ends the daemon with SIGTERM, as systemd does, and waits until the process has ended.
    pub fn stop(&mut self) {
        if self.child.is_some() {
            self.signal(rustix::process::Signal::TERM);
            self.wait();
        }
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the daemon runs");
        let until = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status;
            }
            if Instant::now() >= until {
                panic!("the daemon does not end\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Removes the files of the token, as if its HSM was disconnected. SoftHSM keeps working with files that it
    /// has open.
    pub fn disconnect_token(&self) {
        fs::rename(self.home.path().join("tokens"), self.home.path().join("away")).unwrap();
        fs::create_dir(self.home.path().join("tokens")).unwrap();
    }

    /// Undoes `disconnect_token`.
    pub fn reconnect_token(&self) {
        fs::remove_dir(self.home.path().join("tokens")).unwrap();
        fs::rename(self.home.path().join("away"), self.home.path().join("tokens")).unwrap();
    }

    /// Runs `claviger --json` with these arguments, and returns what it prints.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(args).json()
    }

    pub fn run(&self, args: &[&str]) -> CommandOutput {
        self.home.run_args(&[&["--json"], args].concat(), "")
    }

    /// The response to a GET on the port of `[ops]`, with its head. Empty if nobody listens.
    pub fn get_ops(&self, path: &str) -> String {
        http(self.ops_port, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"), b"")
    }

    pub fn is_live(&self) -> bool {
        self.get_ops("/live").starts_with("HTTP/1.1 200")
    }

    /// Whether the daemon accepts messages.
    pub fn is_ready(&self) -> bool {
        self.get_ops("/ready").starts_with("HTTP/1.1 200")
    }

    pub fn is_token_ready(&self) -> bool {
        self.get_ops("/ready/token").starts_with("HTTP/1.1 200")
    }

    #[track_caller]
    pub fn wait_until_token_ready(&self) {
        self.wait_until("the token is ready", Self::is_token_ready);
    }

    /// Posts a packed message. Returns the response with its head.
    pub fn post(&self, packed: &[u8]) -> String {
        self.post_as("application/didcomm-encrypted+json", packed)
    }

    pub fn post_as(&self, content_type: &str, body: &[u8]) -> String {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        http(self.port, &head, body)
    }

    /// The value of a metric, named with its labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get_ops("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }

    /// Waits until a condition holds. `what` names it in the message of the panic.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl FnMut(&Self) -> bool) {
        self.wait_until_within(TIMEOUT, what, holds);
    }

    #[track_caller]
    pub fn wait_until_within(&self, timeout: Duration, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + timeout;
        while !holds(self) {
            assert!(Instant::now() < until, "not within {timeout:?}: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the daemon wrote to stderr, in all its runs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("serve.log")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a request, and reads until the server closes the connection. Returns an empty text if nobody listens.
pub fn http(port: u16, head: &str, body: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut response = Vec::new();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let _ = stream.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

/// The status of a response; 0 if there was none.
pub fn status_of(response: &str) -> u16 {
    response.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Writes a file in the home, with these permissions.
pub fn write_with_mode(home: &Home, name: &str, text: &str, mode: u32) {
    let path = home.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
