//! A home with a token and a configuration, and the daemon that runs in it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use claviger_testkit::free_port;
use serde_json::Value;

use crate::home::{Home, Ran, softhsm};

/// Patience with what should come at once, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An agent: its home, its DID, and the process while it runs.
pub struct Daemon {
    pub home: Home,
    pub did: String,
    pub port: u16,
    pub ops: u16,
    child: Option<Child>,
}

#[allow(dead_code, reason = "each suite uses a part of it")]
impl Daemon {
    /// With a new token and a DID that leads to its port; not running yet. None if there is no SoftHSM.
    pub fn new(more: &str) -> Option<Self> {
        // Before `[ops]`: `more` may begin with members of that.
        Self::configured("[net]\nallow_private = [\"127.0.0.0/8\"]", more)
    }

    /// The same with more members in `[http]`, and with a `[net]` of the test's own.
    pub fn configured(http: &str, more: &str) -> Option<Self> {
        let home = Home::with_token()?;
        let (port, ops) = (free_port(), free_port());
        home.configure(
            &softhsm()?,
            &format!(
                "[http]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"http://127.0.0.1:{port}\"\n{http}\n\
                 [ops]\nlisten = \"127.0.0.1:{ops}\"\n{more}"
            ),
        );
        let did = home.did(&format!("--method peer:2 --service http://127.0.0.1:{port}"));
        Some(Self { home, did, port, ops, child: None })
    }

    /// One that was made in a home already; not running yet.
    pub fn of(home: Home, did: &str, port: u16, ops: u16) -> Self {
        Self { home, did: did.to_owned(), port, ops, child: None }
    }

    /// One that runs, and whose token is ready.
    pub fn running(more: &str) -> Option<Self> {
        let mut daemon = Self::new(more)?;
        daemon.start();
        Some(daemon)
    }

    /// Starts it, and waits until its token is ready.
    pub fn start(&mut self) {
        self.start_without_token();
        self.until("its token is ready", |daemon| daemon.ask("/ready/token").starts_with("HTTP/1.1 200"));
    }

    /// Starts it, and waits until it takes messages.
    pub fn start_without_token(&mut self) {
        self.start_with(self.home.command(env!("CARGO_BIN_EXE_claviger")));
    }

    /// The same by another program, which ends by being it.
    pub fn start_with(&mut self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.args(["serve", "-v"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.until("it is ready", |daemon| daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    }

    /// Sends it a signal.
    pub fn signal(&self, what: rustix::process::Signal) {
        signal(self.child.as_ref().expect("it runs"), what);
    }

    /// Ends it as systemd does, and waits until it has ended.
    pub fn stop(&mut self) {
        if self.child.is_some() {
            self.signal(rustix::process::Signal::TERM);
            self.wait();
        }
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status;
            }
            if Instant::now() >= until {
                panic!("it does not end\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Its process's number.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Runs `claviger --json` with these words, and reads what it prints.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        self.run(words).json()
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        self.home.feed_words(&[&["--json"], words].concat(), "")
    }

    /// What a GET on the ops port brings, with its status.
    pub fn ask(&self, path: &str) -> String {
        http(self.ops, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"), b"")
    }

    /// What a POST of a message brings, with its status.
    pub fn post(&self, packed: &[u8]) -> String {
        self.post_as("application/didcomm-encrypted+json", packed)
    }

    pub fn post_as(&self, kind: &str, body: &[u8]) -> String {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        http(self.port, &head, body)
    }

    /// A figure of /metrics.
    pub fn figure(&self, name: &str) -> f64 {
        let text = self.ask("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl FnMut(&Self) -> bool) {
        self.until_within(PATIENCE, what, is);
    }

    #[track_caller]
    pub fn until_within(&self, patience: Duration, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + patience;
        while !is(self) {
            assert!(Instant::now() < until, "not within {patience:?}: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

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

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Sends a request and reads until the other closes; empty if nobody is there.
pub fn http(port: u16, head: &str, body: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
