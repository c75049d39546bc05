//! The demo with two daemons, each with its keeper and its token: they connect by an invitation, and exchange messages.
//! The demo runs this program's own commands.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use claviger::agent::protocol::out_of_band::qr_text;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{page::Page, script};
use crate::cli::{
    failure::Failure,
    output::{Out, short},
    this_program,
};

/// How long to wait for something that usually takes less than a second.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Shows the demo. `folder` gets a folder for each of the two daemons.
pub fn run(module: &Path, folder: &Path, out: &Out) -> Result<(), Failure> {
    let mut page = Page::new(out);
    page.title("Two agents meet and talk, and no private key leaves its token")?;
    page.text(
        "Alice and Bob each run a daemon. A daemon is three processes: the agent, which has the network, the messages \
         and the public keys; the keeper, which has the token and its PIN, and no network; and a supervisor, which \
         starts keepers. The tokens here are SoftHSM's, PKCS#11 in software; in production, use an HSM or a YubiKey.",
    )?;
    page.step("A token, keys made in it, and a DID of their public halves, for each")?;
    let mut alice = Daemon::create("alice", module, folder)?;
    let mut bob = Daemon::create("bob", module, folder)?;
    for daemon in [&alice, &bob] {
        page.row(daemon.owner, &short(&daemon.did))?;
    }
    page.record("dids", json!([alice.did, bob.did]));

    page.step("Two daemons")?;
    for daemon in [&mut alice, &mut bob] {
        let took = daemon.start()?;
        page.timed(daemon.owner, &format!("claviger serve, on port {}: its token is ready", daemon.port), took)?;
    }

    page.step("An invitation")?;
    let invitation = alice.run(&["invite", "--goal", "To try this out"])?;
    let url = text(&invitation, "url");
    page.row("Alice", "claviger invite --goal \"To try this out\"")?;
    page.row("", "prints a URL. A browser shows a page with this QR code, for a wallet's camera.")?;
    if let Ok(picture) = qr_text(&url) {
        page.blank()?;
        page.verbatim(&picture)?;
    }
    let accepted = bob.run(&["accept", &url, "--label", "Alice"])?;
    page.row("Bob", "claviger accept URL")?;
    page.row("", &format!("The purpose: {}. A ping informs Alice that Bob accepted.", text(&accepted, "goal")))?;
    alice.wait_for("Alice to know Bob", |alice| {
        Ok(alice.run(&["connections"])?["connections"].as_array().is_some_and(|known| !known.is_empty()))
    })?;
    page.record("invitation", invitation["invitation"].clone());

    page.step("They talk")?;
    let ping = bob.run(&["ping", &alice.did])?;
    page.row("Bob", &format!("claviger ping: Alice's agent answered after {} ms", ping["milliseconds"]))?;
    let message = "The key stays where it is.";
    bob.run(&["send", "--to", &alice.did, message, "--within", "30"])?;
    page.row("Bob", &format!("claviger send: {message}"))?;
    let received = alice.receive()?;
    page.row("Alice", &format!("claviger inbox: {}", text(&received["message"]["body"], "content")))?;
    page.row("", "authenticated, and decrypted with the key in her token: the agent asked its keeper")?;
    page.record("message", received);

    page.step("Bob's power fails; nothing is lost")?;
    bob.kill();
    page.row("Bob", "kill -9")?;
    let sent = alice.run(&["send", "--to", &bob.did, "Are you there?"])?;
    page.row("Alice", "claviger send: Are you there?")?;
    let id = text(&sent, "id");
    alice.wait_for("Alice to have tried", |alice| {
        Ok(alice.run(&["status"])?["status"]["waiting"]["outgoing"] == 1 && alice.log().contains("not sent yet"))
    })?;
    page.row("", &format!("the message waits in her outbox, with the ID {id}, and is tried again and again"))?;
    let took = bob.start()?;
    page.timed("Bob", "claviger serve: the daemon is back", took)?;
    let received = bob.receive()?;
    page.row("Bob", &format!("claviger inbox: {}", text(&received["message"]["body"], "content")))?;
    page.record("message", received);

    for daemon in [&mut alice, &mut bob] {
        daemon.stop()?;
    }
    let script = script::daemons(module);
    page.title("The same by hand")?;
    page.text("In a shell, in an empty folder. The tokens stay there, until you delete the folder.")?;
    page.blank()?;
    page.verbatim(&script)?;
    page.end(&script)
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// A folder with a token and a configuration, and the daemon while it runs. Dropping it kills the daemon.
struct Daemon {
    /// The name that the page shows.
    owner: &'static str,
    folder: PathBuf,
    did: String,
    port: u16,
    health: u16,
    child: Option<Child>,
}

impl Daemon {
    /// Makes the folder, initialises the token and makes a DID.
    fn create(name: &'static str, module: &Path, folder: &Path) -> Result<Self, Failure> {
        let folder = folder.join(name);
        let failed = |error: std::io::Error| Failure::io("the demo's folder", &error);
        let (port, health) = (free_port().map_err(failed)?, free_port().map_err(failed)?);
        let owner = if name == "alice" { "Alice" } else { "Bob" };
        let mut daemon = Self { owner, folder, did: String::new(), port, health, child: None };
        fs::create_dir(&daemon.folder).map_err(failed)?;
        // A random PIN. The temporary folder is readable by this user only, and removed with the file.
        fs::write(daemon.folder.join("pin"), Uuid::new_v4().simple().to_string()).map_err(failed)?;
        let uri = format!("pkcs11:token={name}?module-path={}&pin-source=file:pin", module.display());
        let configuration = format!(
            "state_dir = \"state\"\n[[token]]\nname = \"{name}\"\nuri = \"{uri}\"\n[http]\n\
             listen = \"127.0.0.1:{port}\"\n\
             public_url = \"http://127.0.0.1:{port}\"\n[net]\nallow_private = [\"127.0.0.0/8\"]\n\
             [ops]\nlisten = \"127.0.0.1:{health}\"\n"
        );
        fs::write(daemon.folder.join("claviger.toml"), configuration).map_err(failed)?;
        daemon.run(&["token", "init", name, "--so-pin-source", "file:pin"])?;
        let service = format!("http://127.0.0.1:{port}");
        daemon.did = text(&daemon.run(&["did", "create", "--method", "peer:2", "--service", &service])?, "did");
        Ok(daemon)
    }

    /// Runs a command of this program with `--json`, and parses its output.
    fn run(&self, words: &[&str]) -> Result<Value, Failure> {
        let output = self.command()?.arg("--json").args(words).stdin(Stdio::null()).output();
        let output = output.map_err(|error| Failure::io("this program", &error))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::new("failed", format!("{}: claviger {}: {message}", self.owner, words.join(" "))));
        }
        // Some commands print nothing.
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    fn command(&self) -> Result<Command, Failure> {
        let mut command = this_program::command()?;
        command.current_dir(&self.folder).arg("--config").arg(self.folder.join("claviger.toml"));
        Ok(command)
    }

    /// Starts the daemon, and waits until its token is ready.
    fn start(&mut self) -> Result<Duration, Failure> {
        let failed = |error: std::io::Error| Failure::io("the demo's daemon", &error);
        let start = Instant::now();
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(failed)?;
        let mut command = self.command()?;
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().map_err(failed)?);
        self.wait_for("the token to be ready", |daemon| Ok(daemon.is_ready()))?;
        Ok(start.elapsed())
    }

    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.health)) else { return false };
        let mut answer = String::new();
        let sent = stream.write_all(b"GET /ready/token HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// Waits for the next basic message, and acknowledges it.
    fn receive(&self) -> Result<Value, Failure> {
        let mut found = Value::Null;
        let until = Instant::now() + TIMEOUT;
        while found.is_null() && Instant::now() < until {
            let page = self.run(&["inbox", "--acknowledge"])?;
            let messages = page["messages"].as_array().cloned().unwrap_or_default();
            found = messages.into_iter().find(|it| it["message"]["body"]["content"].is_string()).unwrap_or_default();
            thread::sleep(POLL_INTERVAL);
        }
        match found.is_null() {
            true => Err(self.timed_out("the message to come")),
            false => Ok(found),
        }
    }

    fn wait_for(&self, what: &str, is_done: impl Fn(&Self) -> Result<bool, Failure>) -> Result<(), Failure> {
        let until = Instant::now() + TIMEOUT;
        while !is_done(self)? {
            if Instant::now() > until {
                return Err(self.timed_out(what));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn timed_out(&self, what: &str) -> Failure {
        let message = format!("{}: timeout while waiting for {what}\n{}", self.owner, self.log());
        Failure::new("failed", message)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("serve.log")
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn stop(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            let signalled = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let ended = signalled.map_err(Into::into).and_then(|()| child.wait());
            ended.map_err(|error| Failure::io("the demo's daemon", &error))?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on at the moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
