//! This program, started again as another process.

use std::{env, process::Command};

use serde_json::Value;

use super::failure::Failure;

/// The command that starts this program.
pub fn command() -> Result<Command, Failure> {
    env::current_exe().map(Command::new).map_err(|error| Failure::io("this program", &error))
}

/// The message of the error that this program printed on stderr with `--json`.
pub fn error_message(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let error: Value = text.lines().rev().find_map(|line| serde_json::from_str(line).ok())?;
    error["error"]["message"].as_str().map(str::to_owned)
}
