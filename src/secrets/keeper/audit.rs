//! The audit log: a line for each operation with a private key, and for each refusal.
//!
//! The keeper writes the log, so an attacker who controls the agent cannot suppress a line. Each line carries the hash of
//! the one before (`chain.rs`), so that `verify.rs` finds lines that are missing, changed or out of order.

mod chain;
mod chained_file;
mod refusals;
mod report;
mod verify;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use serde::Serialize;

use self::{
    chained_file::ChainedFile,
    refusals::{Count, RefusalKind, Refusals},
};
use super::peer_credentials::PeerCredentials;
use crate::{
    keys::PublicKey,
    secrets::{
        context::Context,
        custody::Custody,
        error::{Cause, SecretsError},
        mutex::lock,
    },
};

pub use self::{
    chain::{AuditHash, InvalidAuditHash},
    chained_file::{AUDIT_HEAD, audit_files},
    report::{AuditFinding, AuditHead, AuditReport, AuditedFile},
    verify::AuditVerifier,
};

/// Key ids and message ids are cut to this number of characters, so that a peer cannot make a line arbitrarily long.
const MAX_ID_CHARS: usize = 512;
/// How many multikeys are remembered.
const MAX_MULTIKEYS: usize = 1024;

/// The audit log of a keeper's token.
pub(super) struct AuditLog {
    token: String,
    file: ChainedFile,
    refusals: Mutex<Refusals>,
    /// The keys of earlier lines as multikeys, since encoding one takes longer than the rest of a line.
    multikeys: Mutex<HashMap<PublicKey, Arc<str>>>,
    /// Whether the last attempt to go on in a new file failed. Such a failure is logged once.
    has_reopening_failed: AtomicBool,
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
    key: Option<&'a str>,
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
    /// The number of refusals that this line stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// The time of the first of them. `time` is the end of the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl AuditLog {
    /// Opens the log of the token that the configuration calls `token`. If the file does not exist, it is created with
    /// mode 0600. `max_refusals` is how many refusals of a kind have a line of their own within a minute.
    pub(super) fn open(path: &Path, token: &str, max_refusals: u32) -> io::Result<Self> {
        let refusals = Mutex::new(Refusals::new(max_refusals));
        let (token, file) = (token.to_owned(), ChainedFile::open(path)?);
        Ok(Self { token, file, refusals, multikeys: Mutex::default(), has_reopening_failed: AtomicBool::new(false) })
    }

    /// Appends lines with one write, so that the lines of several threads and keepers do not mix.
    pub(super) fn write(&self, lines: &[u8]) -> io::Result<()> {
        self.file.append(lines)
    }

    /// Whether a refusal gets a line of its own. Otherwise it is counted, and [`write_counts`](Self::write_counts)
    /// writes the count.
    pub(super) fn has_line(&self, operation: &'static str, result: &'static str, peer: &PeerCredentials) -> bool {
        lock(&self.refusals).has_line(RefusalKind { operation, result, uid: peer.uid }, Instant::now())
    }

    /// Writes a line for a refusal that needs no key, unless such refusals are only counted now.
    pub(super) fn refused(&self, operation: &'static str, result: &'static str, peer: &PeerCredentials) {
        if self.has_line(operation, result, peer) {
            let mut line = Vec::new();
            AuditRecord::new(&self.token, operation, peer, result).append_to(&mut line);
            self.write_or_log(&line);
        }
    }

    /// Goes on in a new file if the file was renamed, and writes the counts that are due. To be called again and again.
    pub(super) fn maintain(&self) {
        self.reopen();
        self.write_counts(false);
    }

    /// Writes the counts of the refusals whose minute is over; all counts if the keeper `is_ending`.
    pub(super) fn write_counts(&self, is_ending: bool) {
        let counts = lock(&self.refusals).take_counts((!is_ending).then(Instant::now));
        let mut lines = Vec::new();
        for Count { kind: RefusalKind { operation, result, uid }, count, since } in counts {
            let record = AuditRecord::new(&self.token, operation, &PeerCredentials { uid, pid: None }, result);
            AuditRecord { count: Some(count), since: Some(rfc3339(since)), ..record }.append_to(&mut lines);
        }
        if !lines.is_empty() {
            self.write_or_log(&lines);
        }
    }

    /// The key as a multikey.
    pub(super) fn multikey(&self, key: &PublicKey) -> Arc<str> {
        let mut known = lock(&self.multikeys);
        if let Some(multikey) = known.get(key) {
            return multikey.clone();
        }
        let multikey: Arc<str> = key.to_multikey().into();
        // Clients also name keys that the token does not hold.
        if known.len() < MAX_MULTIKEYS {
            known.insert(key.clone(), multikey.clone());
        }
        multikey
    }

    /// Goes on in a new file if the file was renamed.
    pub(super) fn reopen(&self) {
        let reopened = self.file.reopen();
        let has_failed = self.has_reopening_failed.swap(reopened.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (reopened, has_failed) {
            tracing::error!(%error, "cannot go on in a new audit file; lines go to the file that was renamed");
        }
    }

    fn write_or_log(&self, lines: &[u8]) {
        if let Err(error) = self.write(lines) {
            tracing::error!(%error, "cannot write the audit log; a refusal has no line");
        }
    }
}

impl<'a> AuditRecord<'a> {
    pub(super) fn new(token: &'a str, operation: &'a str, peer: &PeerCredentials, result: &'a str) -> Self {
        let time = rfc3339(SystemTime::now());
        let (key, kid, message_id, custody, count, since) = (None, None, None, None, None, None);
        let (pid, uid) = (peer.pid, peer.uid);
        Self { time, token, operation, key, kid, message_id, custody, result, pid, uid, count, since }
    }

    /// Adds the key as a multikey, and its custody tier.
    pub(super) fn with_key(self, multikey: &'a str, custody: Option<Custody>) -> Self {
        Self { key: Some(multikey), custody, ..self }
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

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
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
            Cause::Unknown => "input-refused",
            Cause::Transient | Cause::SessionLost => "token-failed",
            Cause::TokenGone => "token-gone",
            Cause::Pin => "pin",
            Cause::Permanent => "token-cannot",
        },
    }
}
