//! Answers that are ready and not yet given out.
//!
//! While more requests wait, some answers of a quick token wait for each other: one write to the audit and one to the
//! socket for all. An answer goes out only when its line stands in the audit.

use zeroize::Zeroizing;

use super::{
    audit::Audit,
    connection::Connection,
    frame::frame,
    wire::{Failure, Said},
};
use crate::secrets::keyring::Pace;

/// So many wait for each other at most.
const MOST: usize = 4;

pub(super) struct Answers<'a> {
    connection: &'a Connection,
    audit: Option<&'a Audit>,
    ids: Vec<u64>,
    frames: Zeroizing<Vec<u8>>,
    lines: Vec<u8>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(connection: &'a Connection, audit: Option<&'a Audit>) -> Self {
        Self { connection, audit, ids: Vec::new(), frames: Zeroizing::default(), lines: Vec::new() }
    }

    /// Adds an answer, as a frame, with its lines for the audit.
    pub(super) fn add(&mut self, id: u64, answer: Zeroizing<Vec<u8>>, lines: &[u8]) {
        self.ids.push(id);
        self.lines.extend_from_slice(lines);
        self.frames = match self.frames.len() {
            0 => answer,
            // A vector that grows would leave a copy behind.
            before => {
                let mut both = Zeroizing::new(Vec::with_capacity(before + answer.len()));
                both.extend_from_slice(&self.frames);
                both.extend_from_slice(&answer);
                both
            }
        };
    }

    /// Whether those that are ready may wait for one more: the next operation takes no longer than a write would.
    pub(super) fn may_wait(&self, pace: &Pace) -> bool {
        self.ids.len() < MOST && pace.awake_until().is_some()
    }

    /// Gives out all that are ready.
    pub(super) fn give_out(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let written = match self.audit {
            Some(audit) if !self.lines.is_empty() => audit.write(&self.lines),
            _ => Ok(()),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the audit cannot be written: results are withheld");
            self.withhold(&error.to_string());
        }
        if let Err(error) = self.connection.write(&self.frames) {
            tracing::info!(%error, "answers could not be given out");
        }
        self.ids.clear();
        self.lines.clear();
        self.frames = Zeroizing::default();
    }

    fn withhold(&mut self, reason: &str) {
        self.frames = Zeroizing::default();
        for id in self.ids.clone() {
            let answer = Said::Answer { id, answer: Err(Failure::Audit(reason.to_owned())) };
            if let Ok(frame) = frame(&answer) {
                self.frames.extend_from_slice(&frame);
            }
        }
    }
}
