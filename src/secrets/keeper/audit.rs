//! The audit log: a line for each operation with a private key.
//!
//! The keeper writes the log, so an attacker who controls the agent cannot suppress a line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::SystemTime,
};

use serde::Serialize;

use super::peer_credentials::PeerCredentials;
use crate::{
    keys::PublicKey,
    secrets::{
        context::Context,
        custody::Custody,
        error::{Cause, SecretsError},
    },
};

/// Key ids and message ids are cut to this number of characters, so that a peer cannot make a line arbitrarily long.
const MAX_ID_CHARS: usize = 512;

/// The open file of the audit log.
pub(super) struct AuditLog {
    file: File,
}

/// One line of the audit log: a JSON object. Its members are documented for operators and must keep their names.
#[derive(Serialize)]
pub(super) struct AuditRecord<'a> {
    /// When the record was made, in RFC 3339 (UTC, microseconds).
    time: String,
    token: &'a str,
    /// The operation's name in `allow`, or the name of a custodian's operation.
    operation: &'a str,
    /// The key as a multikey.
    key: Option<String>,
    /// The key id, as the agent gave it.
    kid: Option<&'a str>,
    /// The message id, as the agent gave it.
    message_id: Option<&'a str>,
    custody: Option<Custody>,
    /// `done`, or the reason of the failure.
    result: &'a str,
    /// The client's process id, as the kernel reports it.
    pid: Option<i32>,
    /// The client's user id, as the kernel reports it.
    uid: Option<u32>,
}

impl AuditLog {
    /// Opens the file for appending (O_APPEND). If it does not exist, it is created with mode 0600.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create(true).mode(0o600).open(path)? })
    }

    /// Appends lines with one write, so that the lines of several threads and keepers do not mix.
    pub(super) fn write(&self, lines: &[u8]) -> io::Result<()> {
        (&self.file).write_all(lines)
    }
}

impl<'a> AuditRecord<'a> {
    pub(super) fn new(token: &'a str, operation: &'a str, peer: &PeerCredentials, result: &'a str) -> Self {
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let (key, kid, message_id, custody) = (None, None, None, None);
        Self { time, token, operation, key, kid, message_id, custody, result, pid: peer.pid, uid: peer.uid }
    }

    /// Adds the key and its custody tier.
    pub(super) fn with_key(self, key: &PublicKey, custody: Option<Custody>) -> Self {
        Self { key: Some(key.to_multikey()), custody, ..self }
    }

    /// Adds the key id and the message id of the context, both cut to [`MAX_ID_CHARS`].
    pub(super) fn with_context(self, cx: &'a Context) -> Self {
        Self { kid: cx.kid.as_deref().map(truncated), message_id: cx.message_id.as_deref().map(truncated), ..self }
    }

    /// Appends the record's line to `lines`.
    pub(super) fn append_to(&self, lines: &mut Vec<u8>) {
        serde_json::to_writer(&mut *lines, self).expect("strings and numbers are JSON");
        lines.push(b'\n');
    }
}

fn truncated(id: &str) -> &str {
    id.char_indices().nth(MAX_ID_CHARS).map_or(id, |(end, _)| &id[..end])
}

/// The `result` of a record.
pub(super) fn result_name<T>(result: &Result<T, SecretsError>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(SecretsError::NotHeld(_)) => "not-held",
        Err(SecretsError::NotAllowed { .. }) => "not-allowed",
        Err(SecretsError::InvalidRequest(_)) => "refused",
        Err(SecretsError::Busy { .. }) => "busy",
        Err(SecretsError::DeadlineExceeded { .. }) => "late",
        Err(SecretsError::RateLimited(_)) => "rate-limited",
        Err(SecretsError::Interrupted { .. } | SecretsError::AuditFailed(_) | SecretsError::Stopped) => "not-done",
        Err(SecretsError::Token { error, .. }) => match error.cause() {
            Cause::Peer => "message-refused",
            Cause::Transient | Cause::SessionLost => "token-failed",
            Cause::TokenGone => "token-gone",
            Cause::Pin => "pin",
            Cause::Permanent => "token-cannot",
        },
    }
}
