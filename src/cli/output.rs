//! The output of a command: data on stdout, messages for people on stderr.
//!
//! Rules for messages: say in sentences what happened and what to do next. Colour only on a terminal (anstream checks,
//! and honours NO_COLOR). Never a PIN, never a private key.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::Value;

use super::failure::{Failure, Status};

/// The styles of the output, for titles, details, errors, warnings and names.
pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const NAME: Style = AnsiColor::Cyan.on_default();

/// The output of a command.
pub struct Out {
    /// Whether the output is for a program (`--json`).
    pub json: bool,
}

impl Out {
    /// Prints a line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
    }

    /// Prints a JSON document: in one line for a program, indented for a person.
    pub fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.line(&if self.json { one_line(value) } else { indented(value) })
    }

    /// Prints a JSON document in one line.
    pub fn json_line(&self, value: &Value) -> Result<(), Failure> {
        self.line(&one_line(value))
    }

    /// Prints a message for a person. With `--json` nothing is printed.
    pub fn say(&self, text: &str) {
        if !self.json {
            // A closed stderr is no failure of the command.
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// Prints a warning.
    pub fn warn(&self, text: &str) {
        warn(text, self.json);
    }

    /// Prints a failure, and returns its exit status.
    pub fn report(&self, failure: &Failure) -> ExitCode {
        let mut stderr = anstream::stderr().lock();
        let _ = match (failure.status, self.json) {
            (Status::OutputClosed, _) => Ok(()),
            (_, true) => writeln!(stderr, "{}", failure.to_json()),
            // clap has formatted this message.
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

/// Prints a warning on stderr. With `json` it is a JSON document.
pub fn warn(text: &str, json: bool) {
    let mut stderr = anstream::stderr().lock();
    let _ = if json {
        writeln!(stderr, "{}", serde_json::json!({ "warning": text }))
    } else {
        writeln!(stderr, "{WARN}warning:{WARN:#} {text}")
    };
}

fn one_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the value can be serialized")
}

fn indented(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("the value can be serialized")
}

/// A progress line on stderr, shown only on a terminal. Dropping it erases the line.
pub struct Progress {
    shown: bool,
}

impl Progress {
    pub fn new(out: &Out) -> Self {
        Self { shown: !out.json && std::io::stderr().is_terminal() }
    }

    /// Replaces the line.
    pub fn show(&self, text: &str) {
        if self.shown {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "{ERASE}{text}").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

/// Moves to the start of the line, and erases it (ECMA-48, EL).
const ERASE: &str = "\r\x1b[K";

/// A number with its noun: `1 key`, `2 keys`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Shortens a DID or DID URL for a person: the middle of a long DID is left out.
pub fn short(id: &str) -> String {
    let (did, fragment) = id.split_once('#').map_or((id, String::new()), |(did, rest)| (did, format!("#{rest}")));
    if did.chars().count() <= 40 {
        return id.to_owned();
    }
    let head: String = did.chars().take(22).collect();
    let tail: String = did.chars().skip(did.chars().count() - 6).collect();
    format!("{head}...{tail}{fragment}")
}

/// Counts the failed messages of `--lines`. Each failure is printed on its line; the tally determines the exit status.
#[derive(Default)]
pub struct Tally {
    failed: usize,
    token_not_ready: bool,
}

impl Tally {
    /// Counts a result.
    pub fn add<T>(&mut self, result: &Result<T, Failure>) {
        if let Err(failure) = result {
            self.failed += 1;
            self.token_not_ready |= failure.status == Status::TokenNotReady;
        }
    }

    /// Fails if a message failed. The exit status is that of a token that is not ready, if this caused a failure.
    pub fn finish(self) -> Result<(), Failure> {
        if self.failed == 0 {
            return Ok(());
        }
        let failure = Failure::new("lines-failed", format!("{} failed: see the lines", count(self.failed, "message")));
        let status = if self.token_not_ready { Status::TokenNotReady } else { failure.status };
        Err(Failure { status, ..failure })
    }
}
