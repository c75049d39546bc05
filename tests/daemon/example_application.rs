//! The example of an application in docs/api.md, `examples/echo.py`, with a running agent.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use crate::daemon::{Daemon, TIMEOUT};

/// The example, which runs until it is dropped.
struct Echo {
    child: Child,
    lines: Receiver<String>,
}

impl Echo {
    /// Starts the example as an application of `daemon`. Returns none if Python is not installed.
    fn start(daemon: &Daemon) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/echo.py");
        let mut command = Command::new("python3");
        command.arg(program).arg(daemon.home.path().join("state/api.sock")).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "python3: {error}");
                return None;
            }
        };
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Some(Self { child, lines })
    }

    fn next_line(&self) -> String {
        self.lines.recv_timeout(TIMEOUT).expect("the example prints a line")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_example_of_an_application_answers_messages() {
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let Some(echo) = Echo::start(&alice) else { return };
    let url = echo.next_line();
    bob.run(&["accept", &url, "--label", "Echo"]).success();
    bob.run(&["send", "--to", "Echo", "one"]).success();
    assert!(echo.next_line().starts_with("sent echo-"));
    bob.wait_until("the answer arrived", |bob| bob.unread_texts().contains(&"one".to_owned()));

    // What arrives while the application does not run is answered later, and what was answered is not answered again.
    drop(echo);
    bob.run(&["send", "--to", "Echo", "two", "--within", "30"]).success();
    alice.wait_until("the message waits", |alice| alice.unread_texts() == ["two"]);
    let echo = Echo::start(&alice).unwrap();
    echo.next_line();
    assert!(echo.next_line().starts_with("sent echo-"));
    bob.wait_until("the answer arrived", |bob| bob.unread_texts().contains(&"two".to_owned()));
    let mut texts = bob.unread_texts();
    texts.retain(|text| text == "one" || text == "two");
    assert_eq!(texts, ["one", "two"]);
}
