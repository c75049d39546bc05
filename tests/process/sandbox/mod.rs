//! The agent's sandbox, from the inside: what it denies, and that it does not deny what the agent needs.
//!
//! Each attempt is made twice, by this program started again: first without the sandbox, where the attempt must
//! succeed; then inside the sandbox, where it must be denied.

mod attempts;
mod calls;
mod needs;

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use claviger::process::sandbox::{Sandbox, SandboxError};
use libtest_mimic::{Failed, Trial};

use self::attempts::{ATTEMPTS, Attempt, Denied};
use crate::modules::{Module, TestToken};

/// The environment variable with the role in which this program is started again. The next two name the folder and
/// the module.
const ROLE: &str = "CLAVIGER_TEST_SANDBOX_ROLE";
const STAGE: &str = "CLAVIGER_TEST_STAGE";
const MODULE: &str = "CLAVIGER_TEST_MODULE";

/// The files and sockets that an attempt can try to reach.
pub struct Stage {
    folder: PathBuf,
    pub module: PathBuf,
}

impl Stage {
    /// The only folder that the agent may write.
    pub fn allowed(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The only folder that the agent may read.
    pub fn readable(&self) -> PathBuf {
        self.folder.join("config")
    }

    /// The token's store and PIN.
    pub fn token(&self) -> PathBuf {
        self.folder.join("token")
    }

    /// The file with the PIN.
    pub fn pin(&self) -> PathBuf {
        self.token().join("demo.pin")
    }

    /// A socket such as pcscd's or the keeper's.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("pcscd.comm")
    }

    /// A socket for datagrams.
    pub fn datagrams(&self) -> PathBuf {
        self.folder.join("datagrams")
    }

    /// The socket on which the agent listens.
    pub fn own_socket(&self) -> PathBuf {
        self.folder.join("own")
    }

    /// An abstract socket.
    pub fn abstract_socket(&self) -> SocketAddr {
        SocketAddr::from_abstract_name(self.folder.as_os_str().as_encoded_bytes()).expect("a short name")
    }

    pub fn sandbox(&self) -> Sandbox {
        Sandbox::new().allow_write(self.allowed()).allow_read(self.readable()).allow_name_resolution()
    }
}

/// Plays the role in which one of these tests started this process. Returns false if the process has no role.
pub fn play_role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let variable = |name| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    play(&role, &Stage { folder: variable(STAGE), module: variable(MODULE) });
    true
}

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = ATTEMPTS
        .iter()
        .map(|attempt| Trial::test(format!("sandbox::denied::{}", attempt.name), move || denied(attempt)))
        .collect();
    trials.push(Trial::test("sandbox::what_the_agent_needs_still_works", works));
    trials.push(Trial::test("sandbox::every_other_system_call_is_refused", calls_refused));
    trials.push(Trial::test("sandbox::it_cannot_be_entered_with_other_threads", || refused("threads")));
    trials.push(Trial::test("sandbox::an_absent_path_is_an_error_and_denies_nothing", || refused("absent")));
    trials
}

/// Plays a role. The last line of the output is the result; a panic shows in the exit code.
fn play(role: &str, stage: &Stage) {
    match role.split_once(' ') {
        Some((side @ ("outside" | "inside"), name)) => {
            let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == name).expect("an attempt of this name");
            let make = (attempt.prepare)(stage);
            if side == "inside" {
                enter(stage);
            }
            match make() {
                Ok(()) => println!("done"),
                Err(error) => println!("refused: {error} ({:?})", error.kind()),
            }
        }
        None if role == "works" => needs::all(stage, || enter(stage)),
        None if role == "calls" => calls::all(|| enter(stage)),
        None if role == "threads" => {
            let (hold, held) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || held.recv());
            let error = stage.sandbox().enforce().expect_err("two threads are running");
            assert!(matches!(error, SandboxError::Threads(2)), "{error}");
            drop(hold);
            let _ = thread.join();
            fs::read(stage.pin()).expect("nothing is denied");
        }
        None if role == "absent" => {
            let absent = stage.folder.join("absent");
            let error = stage.sandbox().allow_read(&absent).enforce().expect_err("the path is absent");
            assert!(matches!(&error, SandboxError::Path { path, .. } if *path == absent), "{error}");
            fs::read(stage.pin()).expect("nothing is denied");
        }
        _ => panic!("no such role: {role}"),
    }
}

/// Enters the sandbox. These tests need a kernel that supports all of it; a daemon would go on with a warning.
fn enter(stage: &Stage) {
    let report = stage.sandbox().enforce().expect("one thread, and every path is there");
    assert!(report.holds(), "{report:?}");
}

fn denied(attempt: &Attempt) -> Result<(), Failed> {
    let Some(fixture) = Fixture::new(attempt.needs_module) else { return Ok(()) };
    let outside = fixture.play(&format!("outside {}", attempt.name))?;
    if outside != "done" {
        let message = format!("refused without the sandbox, so the test shows nothing: {outside}");
        if !attempt.some_machines_refuse {
            return Err(message.into());
        }
        eprintln!("{}: {message}", attempt.name);
    }
    let inside = fixture.play(&format!("inside {}", attempt.name))?;
    let denied = match attempt.denied {
        Denied::Errno => inside.contains("(PermissionDenied)"),
        Denied::ErrorText(text) => inside.contains(text),
    };
    if inside.starts_with("refused: ") && denied {
        return Ok(());
    }
    Err(format!("inside the sandbox: {inside}").into())
}

fn works() -> Result<(), Failed> {
    let Some(fixture) = Fixture::new(false) else { return Ok(()) };
    fixture.play("works").map(drop)
}

fn calls_refused() -> Result<(), Failed> {
    let Some(fixture) = Fixture::new(false) else { return Ok(()) };
    fixture.play("calls").map(drop)
}

fn refused(role: &str) -> Result<(), Failed> {
    let Some(fixture) = Fixture::new(false) else { return Ok(()) };
    fixture.play(role).map(drop)
}

/// A stage with servers for its sockets.
struct Fixture {
    stage: Stage,
    token: Option<TestToken>,
    _folder: tempfile::TempDir,
    _datagrams: UnixDatagram,
}

impl Fixture {
    /// Returns `None`, and prints a line, if a needed module is missing and tests may be skipped.
    fn new(needs_module: bool) -> Option<Self> {
        let token = if needs_module { Some(TestToken::softhsm("demo")?) } else { None };
        let module = token.as_ref().and_then(|_| Module::SoftHsm.path()).unwrap_or_default();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stage = Stage { folder: folder.path().to_owned(), module };
        for made in [stage.allowed(), stage.readable(), stage.token()] {
            fs::create_dir(made).expect("a folder");
        }
        fs::write(stage.readable().join("claviger.toml"), "[agent]").expect("a file");
        fs::write(stage.pin(), "1234").expect("a file");
        let answer = |listener: UnixListener| {
            std::thread::spawn(move || listener.incoming().map(|peer: io::Result<UnixStream>| drop(peer)).count());
        };
        answer(UnixListener::bind(stage.socket()).expect("a socket"));
        answer(UnixListener::bind_addr(&stage.abstract_socket()).expect("an abstract socket"));
        let _datagrams = UnixDatagram::bind(stage.datagrams()).expect("a socket");
        Some(Self { stage, token, _folder: folder, _datagrams })
    }

    /// Starts this program again in a role. Returns the last line of its output.
    fn play(&self, role: &str) -> Result<String, Failed> {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(ROLE, role).env(STAGE, &self.stage.folder).env(MODULE, &self.stage.module);
        if let Some(token) = &self.token {
            command.env(&token.env.0, &token.env.1);
        }
        let output = command.stdin(Stdio::null()).output().expect("this program starts again");
        let out = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let err = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{role}: {}\n{out}\n{err}", output.status).into());
        }
        Ok(out.lines().last().unwrap_or_default().to_owned())
    }
}

/// All files below a folder.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}
