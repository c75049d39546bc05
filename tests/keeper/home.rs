//! A folder with a token and a configuration, and the keepers that are started with it.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Context, HeldKey, ImportKey, KeyState, KeyUse, NewKey, Secrets, SecretsError, SignRequest, TokenError,
        keeper::{ChildProcess, KeeperClient, KeeperConnector, KeeperCustodian, Supervisor, spawn_on_socket},
    },
};
use claviger_fault_module::Shim;
use claviger_testkit::reference::{Parties, fresh_cek, message_to};
use tokio::runtime::{Builder, Runtime};

use crate::support::{Module, TestToken, faulty_token::uri_with_fault_module};

/// A time that nothing exceeds unless it hangs, even on a busy machine.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(30);
pub const MESSAGE: SignRequest<'_> =
    SignRequest::Message(br#"{"id":"1","type":"https://example.org/test/1.0/note","body":{}}"#);

/// A folder with the token `demo`, whose module is behind the fault shim, and a configuration.
pub struct Home {
    token: TestToken,
    pub shim: Shim,
    /// The token's URI, with the shim as its module.
    pub uri: String,
    module: PathBuf,
}

/// Runs `body` with a home whose `[keeper]` has the members `keeper`. Then waits until every process has ended.
pub fn with_home(module: Module, keeper: &str, body: impl AsyncFnOnce(&Home)) {
    with_home_on(threads(), module, keeper, body);
}

/// Like `with_home`, on another runtime.
pub fn with_home_on(runtime: Runtime, module: Module, keeper: &str, body: impl AsyncFnOnce(&Home)) {
    let Some(home) = Home::new(module, keeper) else { return };
    runtime.block_on(body(&home));
    // This drops the clients, which closes the keepers' connections.
    drop(runtime);
    home.wait_for_end();
}

pub fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Home {
    /// None if the module is missing and tests may be skipped.
    pub fn new(module: Module, keeper: &str) -> Option<Self> {
        let (path, token) = (module.path()?, TestToken::new(module, "demo")?);
        let (shim, uri) = (Shim::new(token.folder().join("fault")), uri_with_fault_module(&token.uri));
        let home = Self { token, shim, uri, module: path };
        home.configure("claviger.toml", &format!("uri = {:?}", home.uri), keeper);
        Some(home)
    }

    /// Writes a configuration with the members `token` in `[[token]]` and `keeper` in `[keeper]`.
    pub fn configure(&self, file: &str, token: &str, keeper: &str) {
        let text = format!("state_dir = \"state\"\n[[token]]\nname = \"demo\"\n{token}\n[keeper]\n{keeper}\n");
        fs::write(self.folder().join(file), text).unwrap();
    }

    pub fn folder(&self) -> &Path {
        self.token.folder()
    }

    pub fn pin_file(&self) -> PathBuf {
        self.token.pin_file()
    }

    /// The folder of systemd credentials. If there is one, commands get it.
    pub fn credentials(&self) -> PathBuf {
        self.folder().join("credentials")
    }

    /// Changes the PIN of the token, as another program would. The shim does not see it.
    pub fn change_pin(&self, old: &str, new: &str) {
        let mut command = Command::new("pkcs11-tool");
        command.env(&self.token.env.0, &self.token.env.1).arg("--module").arg(&self.module);
        command.args(["--token-label", "demo", "--login", "--change-pin", "--pin", old, "--new-pin", new]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// `claviger` with arguments that are separated by spaces. Its stderr goes to the log.
    pub fn command(&self, words: &str) -> Command {
        self.command_with("claviger.toml", words)
    }

    /// Like `command`, with another configuration of the folder.
    pub fn command_with(&self, config: &str, words: &str) -> Command {
        let mut command = Command::new(claviger_testkit::program!());
        command.env_clear().env(&self.token.env.0, &self.token.env.1).env("HOME", self.folder());
        command.env("CLAVIGER_FAULT_MODULE", &self.module).env("CLAVIGER_FAULT_CONTROL", self.folder().join("fault"));
        if self.credentials().is_dir() {
            command.env("CREDENTIALS_DIRECTORY", self.credentials());
        }
        command.arg("--config").arg(self.folder().join(config)).args(words.split_whitespace());
        let log = fs::OpenOptions::new().append(true).create(true).open(self.folder().join("log")).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        command
    }

    /// Runs `claviger` until it ends.
    pub fn run(&self, words: &str) -> Output {
        self.command(words).stderr(Stdio::piped()).output().unwrap()
    }

    /// Like `run`, with standard input.
    pub fn run_with_stdin(&self, words: &str, stdin: &str) -> Output {
        let input = self.folder().join("stdin");
        fs::write(&input, stdin).unwrap();
        self.command(words).stdin(fs::File::open(input).unwrap()).stderr(Stdio::piped()).output().unwrap()
    }

    /// What the processes wrote to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// A custodian of the token, which has its own keeper.
    pub fn custodian(&self) -> (KeeperCustodian, ChildProcess) {
        let (stream, process) = spawn_on_socket(self.command("keeper --token demo --connection custodian")).unwrap();
        (KeeperCustodian::new("demo", stream).unwrap(), process)
    }

    /// Makes a key in the token.
    pub fn generate(&self, curve: Curve) -> PublicKey {
        self.custodian().0.generate(&NewKey { curve, usage: KeyUse::of(curve), label: None }).unwrap().public
    }

    /// Imports a key.
    pub fn import(&self, key: &ImportKey) -> HeldKey {
        self.custodian().0.import(key).unwrap()
    }

    /// A supervisor that starts keepers for an agent, as the command line starts it.
    pub fn supervisor(&self) -> Arc<Supervisor> {
        Supervisor::start(self.command("keeper --supervise agent")).unwrap()
    }

    /// An agent's client, with keepers that are started for it.
    pub async fn client(&self) -> Arc<KeeperClient> {
        Arc::new(KeeperClient::start("demo", self.supervisor().connector("demo")).await.unwrap())
    }

    /// `p11-kit server`, which offers the token to p11-kit's client on a socket. The shim is not between.
    pub fn p11_kit_server(&self, socket: &Path) -> Command {
        let mut command = Command::new("p11-kit");
        command.env(&self.token.env.0, &self.token.env.1).args(["server", "--foreground", "--provider"]);
        command.arg(&self.module).arg("--name").arg(socket).arg("pkcs11:token=demo");
        command
    }

    /// A keeper that listens until the returned value is dropped.
    pub fn listen(&self) -> Listening {
        let address = self.address();
        let child = self.command(&format!("keeper --listen {address}")).spawn().unwrap();
        let listening = Listening { child, path: self.folder().join("socket") };
        let end = Instant::now() + HANG_TIMEOUT;
        while UnixStream::connect(&listening.path).is_err() {
            assert!(Instant::now() < end, "no keeper listens:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        listening
    }

    /// The address at which a keeper of this home listens.
    pub fn address(&self) -> String {
        format!("unix:{}", self.folder().join("socket").display())
    }

    /// The processes that have the token open.
    pub fn keepers(&self) -> Vec<u32> {
        let holds = |words: &str| words.contains("--connection") || words.contains("--listener");
        self.processes().filter(|(_, words)| holds(words)).map(|(id, _)| id).collect()
    }

    /// Kills the keepers with SIGKILL.
    pub fn kill_keepers(&self) {
        self.keepers().into_iter().for_each(kill);
    }

    /// The program's processes that were started in this folder. A process that has ended and was not waited for has no
    /// arguments any more.
    fn processes(&self) -> impl Iterator<Item = (u32, String)> {
        let folder = self.folder().display().to_string();
        fs::read_dir("/proc").unwrap().flatten().filter_map(move |entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let words = String::from_utf8(fs::read(entry.path().join("cmdline")).ok()?).ok()?;
            (words.contains("claviger") && words.contains(&folder)).then_some((id, words))
        })
    }

    /// Waits until every process has ended, as each must when it is not needed any more.
    pub fn wait_for_end(&self) {
        let end = Instant::now() + HANG_TIMEOUT;
        while let Some((id, words)) = self.processes().next() {
            assert!(Instant::now() < end, "process {id} does not end: {words:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        // A process that ends has its socket a little longer than its arguments.
        while UnixStream::connect(self.folder().join("socket")).is_ok() {
            assert!(Instant::now() < end, "a process has its socket still\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the processes:\n{}", self.log());
            // Supervisors first: they would start new keepers.
            let mut left: Vec<_> = self.processes().collect();
            left.sort_by_key(|(_, words)| !words.contains("--supervise") && !words.contains("--listen\0"));
            left.into_iter().for_each(|(id, _)| kill(id));
        }
    }
}

/// `claviger keeper --listen`.
pub struct Listening {
    child: Child,
    pub path: PathBuf,
}

impl Listening {
    /// An agent's client, connected to the socket's path. A keeper that ends may still have the socket for a moment, so the
    /// client tries again, as an agent does.
    pub async fn client(&self) -> Arc<KeeperClient> {
        let end = Instant::now() + HANG_TIMEOUT;
        loop {
            let path = self.path.clone();
            match KeeperClient::start("demo", KeeperConnector::new(move || UnixStream::connect(&path))).await {
                Ok(client) => return Arc::new(client),
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The process that starts the keeper.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn custodian(&self) -> Result<KeeperCustodian, TokenError> {
        KeeperCustodian::new("demo", UnixStream::connect(&self.path).unwrap())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(process: u32) {
    // The process may have ended just now, so the result does not matter.
    let _ = Command::new("kill").args(["-9", &process.to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Unwraps the content key of a message for the key. Panics if the result is wrong.
pub async fn open_message(secrets: &dyn Secrets, key: &PublicKey, cx: &Context) -> Result<(), SecretsError> {
    let cek = fresh_cek();
    let request = message_to(key, None, &cek, &Parties::example());
    let opened = secrets.unwrap_cek(key, &request, cx).await?;
    assert_eq!(opened, cek, "a wrong result");
    Ok(())
}

/// Waits until operations succeed, and returns how long that took. Each earlier failure must be retryable, and must not
/// take long.
pub async fn time_until_served(secrets: &dyn Secrets, key: &PublicKey) -> Duration {
    let start = Instant::now();
    loop {
        let attempt = Instant::now();
        let error = match open_message(secrets, key, &Context::default()).await {
            Ok(()) => return start.elapsed(),
            Err(error) => error,
        };
        assert!(error.is_retryable(), "{error}");
        assert!(attempt.elapsed() < HANG_TIMEOUT, "the failure took {:?}", attempt.elapsed());
        assert!(start.elapsed() < 2 * HANG_TIMEOUT, "operations still fail: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The state of a key.
pub fn state(secrets: &dyn Secrets, key: &PublicKey) -> Option<KeyState> {
    secrets.keys().borrow().get(key).map(|held| held.state)
}

/// Waits until `is_so` returns true. `what` says what is waited for.
pub async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + 2 * HANG_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn within(time: Duration) -> Context {
    Context { deadline: Some(Instant::now() + time), ..Context::default() }
}
