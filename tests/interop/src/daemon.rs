//! Runs the daemon as a process, with a token.

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

/// How long tests wait for something that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program at `CLAVIGER_TEST_PROGRAM`. Without that variable, it is built first, in the workspace of the product,
/// whose dependencies conflict with those of this package.
///
/// # Panics
/// If the build fails.
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

/// A daemon with its folder, and its process while it runs.
pub struct Daemon {
    program: PathBuf,
    home: TempDir,
    env: (String, String),
    /// The port for messages of peers.
    pub port: u16,
    /// The port for health checks and metrics.
    pub ops: u16,
    child: Option<Child>,
}

impl Daemon {
    /// A configured daemon that does not run yet. `env` and `uri` name its token; `more` is added to its configuration.
    ///
    /// # Panics
    /// If the folder cannot be made.
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

    /// Makes a DID with the daemon's endpoint, a new key agreement key on each of these curves (such as `P-256`), and a
    /// signing key.
    ///
    /// # Panics
    /// If a command fails.
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

    /// Starts the daemon, and waits until its token is ready.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn start(&mut self) {
        self.spawn();
        self.until("its token is ready", |daemon| daemon.is_up("/ready/token"));
    }

    /// Starts the daemon without waiting.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("its log");
        let mut command = self.command();
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("it starts"));
    }

    /// Whether a path on the port for health checks returns 200.
    #[must_use]
    pub fn is_up(&self, path: &str) -> bool {
        Connection::open(self.ops).and_then(|mut ops| ops.get(path)).is_ok_and(|answer| answer.status == 200)
    }

    /// Kills the daemon, like a power failure.
    ///
    /// # Panics
    /// If the process cannot be killed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// The process id.
    ///
    /// # Panics
    /// If the daemon does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Runs `claviger --json` with these arguments, and returns its output.
    ///
    /// # Panics
    /// If the command fails.
    #[must_use]
    pub fn json(&self, words: &[&str]) -> Value {
        self.begin(words).end()
    }

    /// Starts `claviger --json` with these arguments in the background, for a command that waits for a peer.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn begin(&self, words: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("--json").args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Command { words: words.join(" "), child: command.spawn().expect("it starts") }
    }

    /// The folder with its configuration, and its state in `state`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// A connection to the API for applications.
    ///
    /// # Panics
    /// If the daemon does not run.
    #[must_use]
    pub fn application(&self) -> Connection<UnixStream> {
        let socket = UnixStream::connect(self.home.path().join("state/api.sock")).expect("it runs");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Connection::over(socket)
    }

    /// The number of messages in a queue: `inbox`, `application` or `outbox`.
    ///
    /// # Panics
    /// If the daemon does not run.
    #[must_use]
    pub fn waiting(&self, queue: &str) -> usize {
        self.figure(&format!("claviger_waiting{{queue=\"{queue}\"}} ")) as usize
    }

    /// The sum of the metrics whose lines begin with `name`. Zero if there are none.
    ///
    /// # Panics
    /// If the daemon does not run.
    #[must_use]
    pub fn figure(&self, name: &str) -> f64 {
        let text = Connection::open(self.ops).and_then(|mut ops| ops.get("/metrics")).expect("it runs").body;
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a figure")).sum()
    }

    /// Waits until a condition holds.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn command(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        // The environment of the tests must not affect the daemon.
        command.current_dir(self.home.path()).env_clear().env(&self.env.0, &self.env.1);
        let folder = self.program.parent().unwrap_or(Path::new("/"));
        command.env("HOME", self.home.path()).env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
        command
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("serve.log")
    }
}

/// A `claviger --json` command in the background.
pub struct Command {
    words: String,
    child: Child,
}

impl Command {
    /// Waits until the command ends, and returns its output.
    ///
    /// # Panics
    /// If the command failed.
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
