//! [`AuditReport`]: what a verification of audit files found.

use serde::Serialize;

use super::chain::AuditHash;

/// What was found in audit files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Whether every line from the beginning of the chain to its end is there, unchanged and in order, and every
    /// expected hash was found.
    pub ok: bool,
    /// The files, in the order in which they were read.
    pub files: Vec<AuditedFile>,
    /// The first line of the chain in these files. Lines before its number are not in these files.
    pub begin: Option<AuditHead>,
    /// The last line of the chain in these files. Lines that were taken away after it leave no trace here.
    pub head: Option<AuditHead>,
    /// The faults, in the order of the files.
    pub faults: Vec<AuditFinding>,
    /// What is no fault: lines before the chain begins, and torn lines that the chain covers.
    pub notes: Vec<AuditFinding>,
    /// How many more faults there are.
    pub more_faults: u64,
}

/// One of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditedFile {
    /// Its name, as it was given.
    pub name: String,
    /// The number of its lines.
    pub lines: u64,
    /// How many of them are in the chain.
    pub chained: u64,
}

/// A line of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AuditHead {
    /// Its number in the chain.
    pub seq: u64,
    /// The SHA-256 of the line with its line end.
    pub sha256: AuditHash,
}

/// A fault or a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// `missing`, `changed`, `out-of-order`, `inserted`, `torn`, `restarted`, `no-chain`, `head-missing`, or
    /// `unchained`.
    pub kind: &'static str,
    /// The file; `None` for a finding that concerns all of them.
    pub file: Option<String>,
    /// The line's number in the file, from 1.
    pub line: Option<u64>,
    /// What was found, in a sentence.
    pub text: String,
}
