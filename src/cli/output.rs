//! Stdout for data, stderr for people.
//!
//! Rules for talking to people: say what happened and what comes next, in sentences; no colour but on a terminal
//! (anstream looks, and honours NO_COLOR); never a PIN, never a private key.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::Value;

use super::failure::{Failure, Status};

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const NAME: Style = AnsiColor::Cyan.on_default();

/// Where a command's words go.
pub struct Out {
    /// For a program.
    pub json: bool,
}

impl Out {
    /// A line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
    }

    /// One JSON document: in one line for a program, indented for a person.
    pub fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&if self.json { one_line(value) } else { indented(value) })
    }

    /// One JSON document in one line.
    pub fn json_line(&self, value: &Value) -> Result<(), Failure> {
        self.line(&one_line(value))
    }

    /// Words for a person; a program gets none.
    pub fn say(&self, text: &str) {
        if !self.json {
            // Who has closed stderr does not want to read.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// What is allowed and yet worth a look.
    pub fn warn(&self, text: &str) {
        warn(text, self.json);
    }

    /// Says why the command failed, and returns its exit status.
    pub fn failed(&self, failure: &Failure) -> ExitCode {
        let mut stderr = anstream::stderr().lock();
        let _ = match (failure.status, self.json) {
            (Status::Unread, _) => Ok(()),
            (_, true) => writeln!(stderr, "{}", failure.to_json()),
            // clap has said it its own way.
            _ if failure.code == "bad-arguments" && failure.message.contains('\n') => {
                writeln!(stderr, "{}", failure.message)
            }
            _ => {
                let hint = failure.hint.as_ref().map(|hint| format!("\n{DIM}hint:{DIM:#} {hint}")).unwrap_or_default();
                writeln!(stderr, "{BAD}error:{BAD:#} {}{hint}", failure.message)
            }
        };
        ExitCode::from(failure.status as u8)
    }
}

pub fn warn(text: &str, json: bool) {
    let mut stderr = anstream::stderr().lock();
    let _ = if json {
        writeln!(stderr, "{}", serde_json::json!({ "warning": text }))
    } else {
        writeln!(stderr, "{WARN}warning:{WARN:#} {text}")
    };
}

fn one_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what we print is JSON")
}

fn indented(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("what we print is JSON")
}

/// What is done now: one line on stderr, drawn anew, and only on a terminal.
pub struct Progress {
    shown: bool,
}

impl Progress {
    pub fn new(out: &Out) -> Self {
        Self { shown: !out.json && std::io::stderr().is_terminal() }
    }

    pub fn tell(&self, text: &str) {
        if self.shown {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{ERASE}{text}").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.tell("");
    }
}

/// To the line's start, and what stands there away (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// `1 key`, `2 keys`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A DID or key id that may be hundreds of characters long, its middle left out.
pub fn short(id: &str) -> String {
    let (did, fragment) = id.split_once('#').map_or((id, String::new()), |(did, rest)| (did, format!("#{rest}")));
    if did.chars().count() <= 40 {
        return id.to_owned();
    }
    let head: String = did.chars().take(22).collect();
    let tail: String = did.chars().skip(did.chars().count() - 6).collect();
    format!("{head}...{tail}{fragment}")
}

/// How many messages of `--lines` failed. Each has its line, and the exit status says whether all were done.
#[derive(Default)]
pub struct Tally {
    failed: usize,
    token_not_ready: bool,
}

impl Tally {
    pub fn add<T>(&mut self, result: &Result<T, Failure>) {
        if let Err(failure) = result {
            self.failed += 1;
            self.token_not_ready |= failure.status == Status::TokenNotReady;
        }
    }

    pub fn end(self) -> Result<(), Failure> {
        if self.failed == 0 {
            return Ok(());
        }
        let failure = Failure::new("lines-failed", format!("{} failed: see the lines", count(self.failed, "message")));
        let status = if self.token_not_ready { Status::TokenNotReady } else { failure.status };
        Err(Failure { status, ..failure })
    }
}
