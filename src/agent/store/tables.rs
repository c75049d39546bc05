//! The tables of a store, in words that fit each backend: whole stores are copied and checked by this description.
//!
//! Each backend reads and writes the rows of [`TABLES`] in the order of their keys ([`Tables`]). What is in no row, such as the
//! last number of a sequence, is in [`Facts`]. A backend has more that follows from these: indexes, sums and digests of keys.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::error::StoreError;

/// The most rows that are read or written at once.
pub(super) const BATCH_ROWS: usize = 500;
/// A batch ends with the row that reaches this many bytes.
pub(super) const BATCH_BYTES: usize = 4 << 20;

/// The name of the number that marks an unfinished copy, among the backend's own numbers. The value is that of [`COPIED`] in the
/// source. No agent opens a store that has the mark.
pub(super) const COPY_OF: &str = "copy_of";
/// The name of a random number in the source of a copy. An agent that opens the store deletes it: an interrupted copy goes on
/// only from the state that it began with.
pub(super) const COPIED: &str = "copied";

/// Returns the error of an agent that finds an unfinished copy.
pub(super) fn unfinished() -> StoreError {
    let why = "is an unfinished copy: run the same `claviger store copy` again, which goes on where it stopped. Or remove it; after \
         a restore that was interrupted, restore again to an empty database";
    StoreError::Unusable(why.to_owned())
}

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    /// How many columns, from the first on, are the key that rows are ordered by.
    key_length: usize,
    pub columns: &'static [(&'static str, Kind)],
    /// Whether the key is a number that the store gives, and never gives again.
    pub is_numbered: bool,
}

/// What is in a column. Any column may be NULL, as far as the backend's table allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    /// 0 or 1.
    Flag,
    /// The state of a message in the outbox: 0 waiting, 1 sent, 2 failed, 3 expired, 4 cancelled.
    State,
    Text,
    Bytes,
}

use Kind::{Bytes, Flag, Integer, State, Text};

/// All tables.
pub(super) static TABLES: [Table; 7] = [
    Table {
        name: "envelopes",
        key_length: 1,
        columns: &[
            ("id", Integer),
            ("digest", Bytes),
            ("recipient", Text),
            ("received", Integer),
            ("tries", Integer),
            ("attempts", Integer),
            ("next_try", Integer),
            ("problem", Text),
            ("charged", Flag),
            ("unresolved", Flag),
            ("unresolved_since", Integer),
            ("named_peer", Text),
            ("packed", Bytes),
        ],
        is_numbered: true,
    },
    Table { name: "concluded", key_length: 1, columns: &[("digest", Bytes), ("time", Integer)], is_numbered: false },
    Table {
        name: "handled",
        key_length: 1,
        columns: &[("seq", Integer), ("mark", Bytes), ("until", Integer), ("stranger", Flag), ("created", Integer)],
        is_numbered: true,
    },
    Table {
        name: "deliveries",
        key_length: 1,
        columns: &[
            ("cursor", Integer),
            ("id", Text),
            ("message", Text),
            ("thread", Text),
            ("kind", Text),
            ("sender", Text),
            ("recipient", Text),
            ("received", Integer),
            ("acknowledged", Integer),
            ("stranger", Flag),
            ("sealed", Bytes),
        ],
        is_numbered: true,
    },
    Table {
        name: "outgoing",
        key_length: 1,
        columns: &[
            ("sequence", Integer),
            ("id", Text),
            ("message", Text),
            ("thread", Text),
            ("kind", Text),
            ("sender", Text),
            ("peer", Text),
            ("created", Integer),
            ("expires", Integer),
            ("state", State),
            ("tries", Integer),
            ("time", Integer),
            ("problem", Text),
            ("to_stranger", Flag),
            ("by_application", Flag),
            ("sealed", Bytes),
        ],
        is_numbered: true,
    },
    Table {
        name: "records",
        key_length: 2,
        columns: &[
            ("kind", Text),
            ("key", Text),
            ("revision", Integer),
            ("expires", Integer),
            ("peer", Text),
            ("seen", Integer),
            ("value", Bytes),
        ],
        is_numbered: false,
    },
    Table {
        name: "events",
        key_length: 1,
        columns: &[("cursor", Integer), ("time", Integer), ("kind", Text), ("data", Text), ("stranger", Flag)],
        is_numbered: true,
    },
];

impl Table {
    /// The names of the columns of the key.
    pub fn key_columns(&self) -> Vec<&'static str> {
        self.columns.iter().take(self.key_length).map(|(name, _)| *name).collect()
    }

    /// The names of the columns that are flags.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().filter(|(_, kind)| *kind == Flag).map(|(name, _)| *name)
    }

    /// The key of a row.
    pub fn key<'r>(&self, row: &'r [Value]) -> &'r [Value] {
        row.get(..self.key_length).unwrap_or(row)
    }

    /// The value of a row in the column with this name.
    pub fn value<'r>(&self, row: &'r [Value], column: &str) -> &'r Value {
        let at = self.columns.iter().position(|(name, _)| *name == column);
        at.and_then(|at| row.get(at)).unwrap_or(&Value::Null)
    }
}

/// A value in a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }
}

/// A row: the values of all columns.
pub(super) type Row = Vec<Value>;

/// The bytes of a row in memory, about.
pub(super) fn size(row: &Row) -> usize {
    let contents = row.iter().map(|value| match value {
        Value::Null | Value::Integer(_) => 0,
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
    });
    size_of_val(row.as_slice()) + contents.sum::<usize>()
}

/// A digest over rows. The same rows in the same order give the same digest in each backend.
#[derive(Default)]
pub(super) struct RowDigest(Sha256);

impl RowDigest {
    pub fn add(&mut self, row: &Row) {
        for value in row {
            // The kind and the length tell where each value ends.
            let (kind, bytes): (u8, &[u8]) = match value {
                Value::Null => (0, &[]),
                Value::Integer(number) => (1, &number.to_be_bytes()),
                Value::Text(text) => (2, text.as_bytes()),
                Value::Bytes(bytes) => (3, bytes),
            };
            self.0.update([kind]);
            self.0.update((bytes.len() as u64).to_be_bytes());
            self.0.update(bytes);
        }
    }

    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// What a store remembers beside its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The last number that each numbered table has given, by the table's name; 0 if none was given.
    pub sequences: BTreeMap<&'static str, i64>,
    /// The ranges of cursors that were given out, by the table's name and in their order: first and last. The current range has
    /// no last.
    pub ranges: BTreeMap<&'static str, Vec<(i64, Option<i64>)>>,
    /// The highest revision that a record has, or a deleted one may have had: that of a new record is above.
    pub revision: i64,
    /// The latest `created_time` of a mark that was dropped for lack of room; 0 if none was.
    pub dropped: i64,
    /// The time of the last restore.
    pub restored_at: Option<i64>,
    /// Whether the next agent that opens the store begins new ranges of cursors.
    pub is_restored: bool,
}

impl Facts {
    /// Whether the store has given out this cursor.
    pub fn is_known(&self, table: &str, cursor: i64) -> bool {
        let last_given = self.sequences.get(table).copied().unwrap_or(0);
        let ranges = self.ranges.get(table).map_or(&[][..], Vec::as_slice);
        ranges.iter().any(|(first, last)| *first <= cursor && cursor <= last.unwrap_or(last_given))
    }
}

/// A store as tables. It holds the store's lock, so that no agent uses the store meanwhile, unless it was opened to be checked.
#[async_trait]
pub(super) trait Tables: Send {
    /// The name of the store for people.
    fn name(&self) -> String;

    /// Reads the rows that follow a key in the order of keys, or the first ones: at most [`BATCH_ROWS`], and none after
    /// [`BATCH_BYTES`] are reached. The order of keys is the same in each backend. Without rows, the table has no more.
    async fn read(&mut self, table: &'static Table, after: Option<Row>) -> Result<Vec<Row>, StoreError>;

    /// Returns the last key, if there is a row.
    async fn last_key(&mut self, table: &'static Table) -> Result<Option<Row>, StoreError>;

    /// Returns the one number of a query that each backend understands.
    async fn number(&mut self, sql: &str) -> Result<i64, StoreError>;

    async fn facts(&mut self) -> Result<Facts, StoreError>;

    /// Adds rows to a table, all or none.
    async fn write(&mut self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError>;

    /// Replaces the facts.
    async fn write_facts(&mut self, facts: Facts) -> Result<(), StoreError>;

    /// Returns the number under [`COPIED`] of a source, and writes one if there is none.
    async fn copy_id(&mut self) -> Result<i64, StoreError>;

    /// Has the next agent that opens a source begin new ranges of cursors: the copy goes on with the present ones.
    async fn mark_left(&mut self) -> Result<(), StoreError>;

    /// Removes the mark [`COPY_OF`] of a target.
    async fn complete(&mut self) -> Result<(), StoreError>;

    /// Finds what is wrong in what only this backend has: files, sums, indexes.
    async fn check_backend(&mut self) -> Result<Vec<Fault>, StoreError>;

    /// Releases the store.
    async fn close(self: Box<Self>) -> Result<(), StoreError>;
}

/// What is wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is wrong, in a word for programs.
    pub code: &'static str,
    /// What is wrong, as a sentence without its end.
    pub text: String,
}

impl Fault {
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}
