//! The store keeps what must outlive the process: received messages, messages to send, and records.
//!
//! [`Store`] is the trait, and [`SqliteStore`] an implementation that needs no other service. With the feature `postgres`,
//! `PostgresStore` keeps the same in a database of PostgreSQL. Every method that changes something returns after the change
//! is *durable*. The 202 to a peer, the acknowledgement to a mediator and the answer to an application rely on that.
//!
//! [`copy`] copies a whole store from one backend to the other, and [`check`] looks for damage in one.
//!
//! The store sees bytes: plaintext is sealed before it is stored. Only the columns that the store searches by are in
//! the clear: DIDs, message ids, threads, types and times.

mod backend;
mod check;
mod copy;
mod cursor_range;
pub(in crate::agent) mod digests;
pub(in crate::agent) mod error;
pub(in crate::agent) mod event;
mod expectation;
mod limits;
mod location;
mod node;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;
mod tables;
pub(in crate::agent) mod types;

pub use backend::Store;
pub use check::{CheckFinding, CheckReport, check};
pub use copy::{CopiedTable, CopyProgress, CopyReport, CopyStep, copy, copy_state};
pub use error::StoreError;
pub use event::{NewEvent, StoredEvent};
pub use limits::StoreLimits;
pub use location::StoreLocation;
pub use node::{Hint, HintListener, StoreNode};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore};
pub use sqlite::{SqliteOptions, SqliteStore, backup, restore};
pub use types::{
    Attribution, Change, Commit, CommitOutcome, Delivery, DeliveryQuery, EventOfExpired, Expectation, ExpiredEnvelope,
    HandledMessage, Millis, NeededRoom, NewEnvelope, OutboxEntry, OutboxPosition, OutboxQuery, PeerQuota,
    PendingEnvelope, Postponement, ReceiveOutcome, Record, Retention, SendOutcome, SendState, Stranger, ThreadEntry,
    ThreadPosition, UNREAD, Usage, digest_beginning, ready_hash,
};
