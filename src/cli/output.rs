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
use serde_json::{Map, Value};

use claviger::{agent::is_misleading, did::short_name};

use super::{
    failure::{Failure, Status},
    output_file::OutputFile,
    service_log,
};

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
    /// The file for the data, instead of stdout (`-o`).
    pub file: Option<OutputFile>,
}

impl Out {
    /// Prints a line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        if let Some(file) = &self.file {
            return file.line(text);
        }
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
    }

    /// Ends data that may have no lines.
    pub fn finish(&self) -> Result<(), Failure> {
        self.file.as_ref().map_or(Ok(()), OutputFile::finish)
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
        if service_log::is_json() || !self.json {
            tell(text);
        }
    }

    /// Prints a warning.
    pub fn warn(&self, text: &str) {
        warn(text, self.json);
    }

    /// Prints a failure, and returns its exit status.
    pub fn report(&self, failure: &Failure) -> ExitCode {
        if service_log::is_json() && !self.json && failure.status != Status::OutputClosed {
            let fields = [("code", failure.code.into()), ("hint", failure.hint.clone().into())];
            let fields = fields.map(|(name, value): (&str, Value)| (name.to_owned(), value));
            service_log::write_line("ERROR", &failure.message, Map::from_iter(fields));
            return ExitCode::from(failure.status as u8);
        }
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

/// Prints a message for a person on stderr. In a log of JSON objects it is one of them.
pub fn tell(text: &str) {
    if service_log::is_json() {
        return service_log::write_line("INFO", text, Map::new());
    }
    // A closed stderr is no failure of the command.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints a warning on stderr. With `json` it is a JSON document.
pub fn warn(text: &str, json: bool) {
    if service_log::is_json() {
        return service_log::write_line("WARN", text, Map::new());
    }
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

/// Shortens a DID or DID URL for a person. Commands that look for a DID understand the short name.
pub fn short(id: &str) -> String {
    short_name(id)
}

/// A text in which each DID has its short name. A long DID hides the rest of an error.
pub fn with_short_dids(text: &str) -> String {
    let shorten = |word: &str| match word.trim_end_matches([',', '.', ';', ':', ')']) {
        did if did.starts_with("did:") => format!("{}{}", short(did), &word[did.len()..]),
        _ => word.to_owned(),
    };
    text.split(' ').map(shorten).collect::<Vec<_>>().join(" ")
}

/// Makes a text of somebody else fit for a terminal and for one line: what could move the cursor, hide text or change its
/// direction is replaced.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if is_misleading(letter) { '\u{fffd}' } else { letter }).collect()
}

/// Like [`printable`], for a text that may have several lines: all but the first are indented, so that none is taken for a line
/// of the program.
pub fn printable_lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| printable(line.strip_suffix('\r').unwrap_or(line)));
    lines.collect::<Vec<_>>().join("\n    ")
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
