//! The audit: a line for each operation with a private key, written by the keeper, so that an agent that was taken over
//! cannot leave it out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use serde::Serialize;

use super::Peer;
use crate::{
    keys::PublicKey,
    secrets::{Cause, Context, Custody, SecretsError},
};

/// What an agent says is cut at so many characters: a line is not to be as long as a stranger likes.
const LONGEST_NAME: usize = 512;

/// A file to which lines are added.
pub(super) struct Audit {
    file: File,
}

/// What is written of an operation: one JSON object a line.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    /// RFC 3339, UTC.
    time: String,
    token: &'a str,
    /// The purpose, as `allow` names it; or what a custodian did.
    operation: &'a str,
    /// The multikey.
    key: Option<String>,
    /// The key id and the message id, as the agent gave them.
    kid: Option<&'a str>,
    message_id: Option<&'a str>,
    custody: Option<Custody>,
    /// `done`, or why not.
    result: &'a str,
    /// Who asked, as the kernel says: process and user.
    pid: Option<i32>,
    uid: Option<u32>,
}

impl Audit {
    /// The file, made with mode 0600 if it is not there. It is only ever added to (O_APPEND).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create(true).mode(0o600).open(path)? })
    }

    /// Adds lines, in one write, so that those of several threads and keepers stay whole.
    pub(super) fn write(&self, lines: &[u8]) -> io::Result<()> {
        (&self.file).write_all(lines)
    }
}

impl<'a> Line<'a> {
    pub(super) fn new(token: &'a str, operation: &'a str, peer: &Peer, result: &'a str) -> Self {
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let (key, kid, message_id, custody) = (None, None, None, None);
        Self { time, token, operation, key, kid, message_id, custody, result, pid: peer.pid, uid: peer.uid }
    }

    pub(super) fn key(self, key: &PublicKey, custody: Option<Custody>) -> Self {
        Self { key: Some(key.to_multikey()), custody, ..self }
    }

    pub(super) fn add_to(&self, lines: &mut Vec<u8>) {
        serde_json::to_writer(&mut *lines, self).expect("text and numbers are JSON");
        lines.push(b'\n');
    }

    pub(super) fn context(self, cx: &'a Context) -> Self {
        Self { kid: cx.kid.as_deref().map(cut), message_id: cx.message_id.as_deref().map(cut), ..self }
    }
}

fn cut(name: &str) -> &str {
    name.char_indices().nth(LONGEST_NAME).map_or(name, |(at, _)| &name[..at])
}

/// How an operation ended, in a word.
pub(super) fn outcome<T>(result: &Result<T, SecretsError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(SecretsError::NotHeld(_)) => "not-held",
        Err(SecretsError::NotAllowed { .. }) => "not-allowed",
        Err(SecretsError::Request(_)) => "refused",
        Err(SecretsError::Busy { .. }) => "busy",
        Err(SecretsError::Deadline { .. }) => "late",
        Err(SecretsError::RateLimited(_)) => "rate-limited",
        Err(SecretsError::Interrupted { .. } | SecretsError::Audit(_) | SecretsError::Stopped) => "not-done",
        Err(SecretsError::Token { error, .. }) => match error.cause() {
            Cause::Peer => "message-refused",
            Cause::Transient | Cause::SessionLost => "token-failed",
            Cause::TokenGone => "token-gone",
            Cause::Pin => "pin",
            Cause::Permanent => "token-cannot",
        },
    }
}
