//! Asks peers.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::roster::{Peer, Program};
use crate::rust;

/// How long a peer may take. The first request to a peer loads it.
const PATIENCE: Duration = Duration::from_secs(180);

pub trait Driver {
    /// What the peer returned, or what it threw.
    fn ask(&mut self, request: &Value) -> Result<Value, String>;
}

pub struct Drivers {
    python: Process,
    older_python: Process,
    javascript: Process,
    rust: InProcess,
}

impl Drivers {
    /// Starts those in `folder`, where the peers are installed.
    pub fn new(folder: &Path) -> Self {
        let python = |environment: &str| {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/python/main.py");
            // Python must not write its cache into the source tree.
            Process::start(Command::new(folder.join(environment).join("bin/python")).arg("-B").arg(program))
        };
        Self {
            python: python("python"),
            older_python: python("python-didcomm"),
            javascript: Process::start(Command::new("node").arg(folder.join("javascript/main.mjs"))),
            rust: InProcess,
        }
    }

    pub fn of(&mut self, peer: &Peer) -> &mut dyn Driver {
        match peer.program {
            Program::Python => &mut self.python,
            Program::OlderPython => &mut self.older_python,
            Program::JavaScript => &mut self.javascript,
            Program::Rust => &mut self.rust,
        }
    }
}

/// The peers in Rust.
struct InProcess;

impl Driver for InProcess {
    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        rust::answer(request)
    }
}

/// A program that answers each line with a line.
struct Process {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peers are installed");
        let (sender, answers) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { requests: child.stdin.take().unwrap(), child, answers }
    }
}

impl Driver for Process {
    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").unwrap();
        let answer = self.answers.recv_timeout(PATIENCE);
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", request["peer"]));
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        match answer["error"].take() {
            Value::Null => Ok(answer["ok"].take()),
            error => Err(error.as_str().unwrap().to_owned()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be in the middle of a request that it never answers.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
