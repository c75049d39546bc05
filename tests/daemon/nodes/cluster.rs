//! Daemons that share a database, each on a host of its own, and their API on sockets in their folders.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    network::{HERE, Host, NETWORK},
    round_robin::RoundRobin,
};
use crate::{
    api_client::ApiClient,
    backup::copy_folder,
    daemon::{TIMEOUT, write_with_mode},
    home::{Home, softhsm_module},
    outages::{children, send_signal},
    postgres_server::{PASSWORD, Server},
};
use rustix::process::Signal;

/// Where peers reach the daemons.
pub const PUBLIC_PORT: u16 = 8000;
const PORT: u16 = 8080;
/// How long peers and applications wait for a response before they try again, perhaps at another node.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The database on a host of its own, and what the daemons have in common.
pub struct Cluster {
    pub did: String,
    pub database: Host,
    server: Server,
    name: String,
    /// The homes that the nodes' homes are copies of: one for all, or one for each, with a token of its own.
    homes: Vec<Home>,
    /// The settings in `[store]` that all have, beside those of the database.
    store_settings: String,
    started: AtomicUsize,
    /// Whether there may be several nodes. A single daemon has the database to itself.
    has_nodes: bool,
    _round_robin: RoundRobin,
}

impl Cluster {
    /// Starts the database and the round robin for at most `most` nodes. Returns none if PostgreSQL or SoftHSM is missing.
    pub fn new(most: usize) -> Option<Self> {
        let home = Home::with_token()?;
        let did = home.create_did(&format!("--method peer:2 --service http://{HERE}:{PUBLIC_PORT}"));
        Self::start(most, did, vec![home], String::new())
    }

    /// Starts the same for nodes with a token each. The DID has keys of each token.
    pub fn with_own_tokens(most: usize) -> Option<Self> {
        let homes = (0..most).map(|_| Home::with_token()).collect::<Option<Vec<_>>>()?;
        let mut others = String::new();
        let mut keys = Vec::new();
        for home in &homes[1..] {
            let make = |algorithm: &str| {
                let made = home.run(&format!("--json key generate --alg {algorithm}")).json();
                made["key"].as_str().unwrap().to_owned()
            };
            let (agreement, authentication) = (make("X25519"), make("Ed25519"));
            others += &format!(" --other-agreement {agreement} --other-authentication {authentication}");
            keys.push(agreement);
        }
        let service = format!("--service http://{HERE}:{PUBLIC_PORT}");
        let made = homes[0].run(&format!("--json did create --method peer:2 {service}{others}")).json();
        let agreement = made["keys"].as_array().unwrap().iter().find(|key| key["algorithm"] == "X25519").unwrap();
        keys.push(agreement["key"].as_str().unwrap().to_owned());
        for home in &homes[1..] {
            copy_folder(&homes[0].path().join("state"), &home.path().join("state"));
        }
        Self::start(most, made["did"].as_str().unwrap().to_owned(), homes, format!("keys = {keys:?}\n"))
    }

    fn start(most: usize, did: String, homes: Vec<Home>, store_settings: String) -> Option<Self> {
        let database = Host::new("database", 2);
        let server = Server::start_at(&database.address, &database.enter())?;
        database.isolate();
        let name = server.database();
        let addresses = (0..most).map(|node| format!("{}:{PORT}", address(node))).collect();
        let round_robin = RoundRobin::start(PUBLIC_PORT, addresses);
        let (started, has_nodes) = (AtomicUsize::new(0), most > 1);
        Some(Self { did, database, server, name, homes, store_settings, started, has_nodes, _round_robin: round_robin })
    }

    /// Starts the next daemon, which joins the others.
    pub fn join(&self) -> Node {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        let name = char::from(b'a' + u8::try_from(number).unwrap()).to_string();
        let host = Host::new(&name, last_part(number));
        let (home, source) = (Home::new(), &self.homes[number % self.homes.len()]);
        fs::remove_dir(home.path().join("tokens")).unwrap();
        for folder in ["tokens", "state"] {
            copy_folder(&source.path().join(folder), &home.path().join(folder));
        }
        fs::copy(source.path().join("user.pin"), home.path().join("user.pin")).unwrap();
        home.configure(&softhsm_module().expect("it was there"), &self.settings(&host));
        write_with_mode(&home, "store.password", PASSWORD, 0o600);
        let mut node = Node { host, home, child: None };
        node.start();
        node.wait_until_ready();
        node
    }

    fn settings(&self, host: &Host) -> String {
        let Host { name, address, .. } = host;
        let certificate = self.server.certificate();
        let node = if self.has_nodes { format!("node = \"{name}\"\n") } else { String::new() };
        let more = &self.store_settings;
        format!(
            "[http]\nlisten = \"{address}:{PORT}\"\npublic_url = \"http://{HERE}:{PUBLIC_PORT}\"\n\
             [net]\nallow_private = [\"{NETWORK}\"]\nca = \"{}\"\n\
             [store]\nurl = \"{}\"\npassword_file = \"store.password\"\n{node}{more}\
             max_unread_from = 1_000_000\nmax_replies_to = 100_000\n",
            certificate.display(),
            self.server.url_at(&self.database.address, &self.name),
        )
    }
}

fn address(node: usize) -> String {
    format!("10.77.0.{}", last_part(node))
}

fn last_part(node: usize) -> u8 {
    u8::try_from(node).unwrap() + 11
}

/// A daemon on its host.
pub struct Node {
    pub host: Host,
    home: Home,
    child: Option<Child>,
}

impl Node {
    /// The client of the API. The socket is in the file system, so a cut link does not matter.
    pub fn api(&self) -> ApiClient {
        ApiClient::UnixWithin(self.home.path().join("state/api.sock"), RESPONSE_TIMEOUT)
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = self.home.command("nsenter");
        command.args(self.host.enter()).arg(claviger_testkit::program!()).args(["serve", "-v"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Whether the daemon has ended by itself. Then it may be started again.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.as_mut().map(|child| child.try_wait().unwrap());
        match status {
            Some(None) => false,
            Some(Some(_)) => {
                self.child = None;
                true
            }
            None => true,
        }
    }

    /// Waits until the store and the token serve, and starts the daemon again whenever it ends.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        assert!(self.is_ready_within(TIMEOUT), "the node {} is not ready\n{}", self.host.name, self.log());
    }

    pub fn is_ready_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !is_ready(&self.api()) {
            if Instant::now() > until {
                return false;
            }
            if self.has_ended() {
                // As systemd does.
                thread::sleep(Duration::from_secs(1));
                self.start();
            }
            thread::sleep(Duration::from_millis(50));
        }
        true
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends the daemon as systemd does. Returns how long it took.
    #[track_caller]
    pub fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        send_signal(self.pid(), Signal::TERM);
        while !self.has_ended() {
            assert!(begun.elapsed() < TIMEOUT, "the node {} does not end\n{}", self.host.name, self.log());
            thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    /// Takes the token away, or brings it back.
    pub fn set_token_away(&self, away: bool) {
        let [here, elsewhere] = ["tokens", "tokens.away"].map(|name| self.home.path().join(name));
        match away {
            true => {
                fs::rename(&here, &elsewhere).unwrap();
                fs::create_dir(&here).unwrap();
            }
            false => {
                fs::remove_dir_all(&here).unwrap();
                fs::rename(&elsewhere, &here).unwrap();
            }
        }
        // SoftHSM looks at its folder when it begins.
        self.kill_keepers();
    }

    pub fn kill_keepers(&self) {
        self.keepers().into_iter().for_each(|keeper| send_signal(keeper, Signal::KILL));
    }

    /// Stops all processes of the daemon for a while, as when a machine sleeps.
    pub fn sleep(&self, time: Duration) {
        let all = [vec![self.pid()], children(self.pid()), self.keepers()].concat();
        all.iter().for_each(|process| send_signal(*process, Signal::STOP));
        thread::sleep(time);
        all.iter().for_each(|process| send_signal(*process, Signal::CONT));
    }

    fn keepers(&self) -> Vec<u32> {
        children(self.pid()).into_iter().flat_map(children).collect()
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        // The folder in `CLAVIGER_NODE_LOGS` keeps the logs.
        match std::env::var_os("CLAVIGER_NODE_LOGS") {
            Some(folder) => PathBuf::from(folder).join(format!("{}-{}.log", self.host.name, std::process::id())),
            None => self.home.path().join("serve.log"),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the daemon's store and token serve.
fn is_ready(api: &ApiClient) -> bool {
    status(api).is_some_and(|status| status["token_ready"] == true)
}

/// The state of the daemon, or none if it does not run or its store is away.
pub fn status(api: &ApiClient) -> Option<Value> {
    let response = api.try_request("GET", "/v1/status", "", "")?;
    (response.status == 200).then(|| response.json(200))
}
