//! The daemon as a process of its own, with a token, as its users run it.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use claviger_testkit::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::Connection;

/// Patience with what should come at once, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The `claviger` that `CLAVIGER_TEST_PROGRAM` names, or one that is built now: the product has its own lock file and its
/// own dependencies, so that this package's tests can run it and cannot link it.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn program(release: bool) -> PathBuf {
    if let Some(named) = std::env::var_os("CLAVIGER_TEST_PROGRAM") {
        return named.into();
    }
    let mut cargo = process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    cargo.args([
        "build",
        "--locked",
        "--features",
        "cli,yubikey",
        "--bin",
        "claviger",
        "--message-format=json-render-diagnostics",
    ]);
    if release {
        cargo.arg("--release");
    }
    let built = cargo.stderr(Stdio::inherit()).output().expect("cargo can be started");
    assert!(built.status.success(), "claviger is not built");
    let messages = String::from_utf8(built.stdout).expect("cargo prints UTF-8");
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().expect("an executable")
}

/// A daemon: its home, and its process while it runs.
pub struct Daemon {
    program: PathBuf,
    home: TempDir,
    env: (String, String),
    /// Where peers bring messages.
    pub port: u16,
    /// Where health and figures are.
    pub ops: u16,
    child: Option<Child>,
}

impl Daemon {
    /// One that is set up and does not run yet. `env` and `uri` lead to its token, `more` is more of its configuration.
    ///
    /// # Panics
    /// If its folder cannot be made.
    #[must_use]
    pub fn new(program: PathBuf, env: (String, String), uri: &str, more: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (port, ops) = (free_port(), free_port());
        let configuration = format!(
            "state_dir = \"state\"\n[[token]]\nname = \"soft\"\nuri = \"{uri}\"\n\
             [http]\nlisten = \"127.0.0.1:{port}\"\n[net]\nallow_private = [\"127.0.0.0/8\"]\n\
             [ops]\nlisten = \"127.0.0.1:{ops}\"\n{more}"
        );
        fs::write(home.path().join("claviger.toml"), configuration).expect("its configuration is written");
        Self { program, home, env, port, ops, child: None }
    }

    /// Makes a DID that leads to it, with a new key to encrypt to on each of these curves, as `P-256`, and one to sign with.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn make_did(&self, curves: &[&str]) -> String {
        let service = format!("http://127.0.0.1:{}", self.port);
        let mut words = vec!["did", "create", "--method", "peer:2", "--service", &service];
        let keys: Vec<String> = curves
            .iter()
            .map(|curve| {
                let made = self.json(&["key", "generate", "--alg", curve, "--use", "agreement"]);
                made["key"].as_str().expect("a multikey").to_owned()
            })
            .collect();
        keys.iter().for_each(|key| words.extend(["--agreement", key]));
        self.json(&words)["did"].as_str().expect("a DID").to_owned()
    }

    /// Starts it, and waits until its token is ready.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(&mut self) {
        self.spawn();
        self.until("its token is ready", |daemon| daemon.is_up("/ready/token"));
    }

    /// Starts it, and waits for nothing.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("its log");
        let mut command = self.command();
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("it starts"));
    }

    /// Whether a path of the ops port answers with 200.
    #[must_use]
    pub fn is_up(&self, path: &str) -> bool {
        Connection::open(self.ops).and_then(|mut ops| ops.get(path)).is_ok_and(|answer| answer.status == 200)
    }

    /// Ends it as a power cut does.
    ///
    /// # Panics
    /// If the system does not let go of it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// Its process's number.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Runs `claviger --json` with these words, and reads what it prints.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn json(&self, words: &[&str]) -> Value {
        self.begin(words).end()
    }

    /// The same, for a command that waits for what others do.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn begin(&self, words: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("--json").args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Command { words: words.join(" "), child: command.spawn().expect("it starts") }
    }

    /// A connection to the application's side.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn application(&self) -> Connection<UnixStream> {
        let socket = UnixStream::connect(self.home.path().join("state/api.sock")).expect("it runs");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Connection::over(socket)
    }

    /// Messages that wait in one of the queues `inbox`, `application` and `outbox`.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn waiting(&self, queue: &str) -> usize {
        self.figure(&format!("claviger_waiting{{queue=\"{queue}\"}} ")) as usize
    }

    /// The figures of /metrics whose names begin so, added up; nought if there are none.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn figure(&self, name: &str) -> f64 {
        let text = Connection::open(self.ops).and_then(|mut ops| ops.get("/metrics")).expect("it runs").body;
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a figure")).sum()
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// If it does not become so.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn command(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        // Nothing of who runs the tests.
        command.current_dir(self.home.path()).env_clear().env(&self.env.0, &self.env.1);
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        command.env("HOME", self.home.path()).env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        command
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("serve.log")
    }
}

/// A `claviger --json` that runs beside the daemon.
pub struct Command {
    words: String,
    child: Child,
}

impl Command {
    /// Waits until it ends, and reads what it has printed.
    ///
    /// # Panics
    /// If it has failed.
    #[must_use]
    pub fn end(self) -> Value {
        let Self { words, child } = self;
        let output = child.wait_with_output().expect("it is ours");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words}: {error}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
