//! [`ResponseBatch`]: responses that are ready and not sent yet.
//!
//! While more requests wait, a few responses of a fast token are sent together: with one write to the audit log and one
//! to the socket. A response is sent only when its line is in the audit log.

use zeroize::Zeroizing;

use super::{
    audit::AuditLog, frame::encode_frame, server_connection::ServerConnection, wire::ServerFrame, wire_types::WireError,
};
use crate::secrets::latency::Latency;

/// The most responses in a batch.
const MAX_RESPONSES: usize = 4;

/// The responses of one thread that are not sent yet, with their lines for the audit log.
pub(super) struct ResponseBatch<'a> {
    connection: &'a ServerConnection,
    audit: Option<&'a AuditLog>,
    ids: Vec<u64>,
    frames: Zeroizing<Vec<u8>>,
    audit_lines: Vec<u8>,
}

impl<'a> ResponseBatch<'a> {
    pub(super) fn new(connection: &'a ServerConnection, audit: Option<&'a AuditLog>) -> Self {
        Self { connection, audit, ids: Vec::new(), frames: Zeroizing::default(), audit_lines: Vec::new() }
    }

    /// Adds the frame of a response, with its lines for the audit log.
    pub(super) fn add(&mut self, id: u64, frame: Zeroizing<Vec<u8>>, audit_lines: &[u8]) {
        self.ids.push(id);
        self.audit_lines.extend_from_slice(audit_lines);
        self.frames = match self.frames.len() {
            0 => frame,
            // Copied by hand: a vector that grows would leave an unwiped copy behind.
            before => {
                let mut frames = Zeroizing::new(Vec::with_capacity(before + frame.len()));
                frames.extend_from_slice(&self.frames);
                frames.extend_from_slice(&frame);
                frames
            }
        };
    }

    /// Whether the batch may wait for another response: it has room, and the token is fast, so that the next operation
    /// takes no longer than a write would.
    pub(super) fn may_wait(&self, latency: &Latency) -> bool {
        self.ids.len() < MAX_RESPONSES && latency.poll_until().is_some()
    }

    /// Writes the audit lines and sends the responses. If the lines cannot be written, errors are sent instead.
    pub(super) fn send(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let written = match self.audit {
            Some(audit) if !self.audit_lines.is_empty() => audit.write(&self.audit_lines),
            _ => Ok(()),
        };
        if let Err(error) = written {
            tracing::error!(%error, "cannot write the audit log; results are withheld");
            self.replace_with_errors(&error.to_string());
        }
        if let Err(error) = self.connection.send_encoded(&self.frames) {
            tracing::info!(%error, "responses not sent");
        }
        self.ids.clear();
        self.audit_lines.clear();
        self.frames = Zeroizing::default();
    }

    fn replace_with_errors(&mut self, reason: &str) {
        self.frames = Zeroizing::default();
        for id in self.ids.clone() {
            let response = ServerFrame::Response { id, result: Err(WireError::AuditFailed(reason.to_owned())) };
            if let Ok(frame) = encode_frame(&response) {
                self.frames.extend_from_slice(&frame);
            }
        }
    }
}
