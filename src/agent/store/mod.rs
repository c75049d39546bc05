//! What outlives the process: the messages that came, those that are to be sent, and what the protocols remember.
//!
//! [`Store`] is the trait, [`SqliteStore`] the one that needs nothing beside it. Every method that changes something
//! returns once the change is *durable*: the 202 to a peer, the acknowledgement to a mediator and the answer to an
//! application stand on that.
//!
//! The store sees bytes. What of them is plaintext was sealed before; what stands in the clear is what
//! it searches by: DIDs, message ids, threads, types and times.

mod error;
mod sqlite;

pub use error::StoreError;
pub use sqlite::{SqliteOptions, SqliteStore, backup, restore};

use async_trait::async_trait;
use serde::Serialize;

/// Milliseconds since 1970, UTC, by the system's clock.
pub type Millis = i64;

/// The durable side of an agent.
///
/// An implementation passes the suite that begins in `tests/agent/store/suite.rs`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keeps a message as it came. One whose digest is known already, waiting or concluded, is not kept again.
    ///
    /// # Errors
    /// [`StoreError::Full`] if it would be over a limit or the disk is full: the peer is told to come again.
    async fn receive(&self, arrival: Arrival) -> Result<Receipt, StoreError>;

    /// Envelopes that wait, whose time to be tried has come, oldest first; none of those in `except`.
    async fn waiting(&self, now: Millis, except: &[i64], limit: usize) -> Result<Vec<Envelope>, StoreError>;

    /// How many envelopes wait for one of our DIDs, those too whose time has not come.
    async fn waiting_for(&self, recipient: &str) -> Result<u64, StoreError>;

    /// Whether a sender may leave more here, and more may wait to be sent to it; the empty name is that of nobody who is proved.
    async fn room(&self, peer: &str) -> Result<Room, StoreError>;

    /// Tries an envelope again, not before `until`: it cannot be opened now.
    async fn postpone(&self, envelope: i64, until: Millis, why: &str) -> Result<(), StoreError>;

    /// Makes a turn: all of it or nothing.
    async fn commit(&self, turn: Commit) -> Result<Committed, StoreError>;

    /// Whether a message was handled: its place in the order of that. The message is named as in [`Handled`].
    async fn handled(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError>;

    /// The application's messages after a cursor, in the order they came.
    async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, StoreError>;

    /// Forgets the content of deliveries, which the application has; those whose ids are unknown or that were
    /// acknowledged before are passed over. Returns how many were acknowledged now.
    async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError>;

    /// The peers for whom messages wait in the outbox.
    async fn peers(&self) -> Result<Vec<String>, StoreError>;

    /// The waiting messages for a peer, in the order they were sent; none of those in `except`.
    async fn outgoing(&self, peer: &str, except: &[String], limit: usize) -> Result<Vec<Outgoing>, StoreError>;

    /// One message of the outbox, by its id.
    async fn sending(&self, id: &str) -> Result<Option<Outgoing>, StoreError>;

    /// What became of a message of the outbox. The content of one that is done with is forgotten.
    async fn sent(&self, id: &str, outcome: SendOutcome) -> Result<(), StoreError>;

    /// What came and what was sent in a thread, oldest first.
    async fn thread(&self, thread: &str, limit: usize) -> Result<Vec<ThreadEntry>, StoreError>;

    /// A record. One that has expired is not there.
    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError>;

    /// The records of a kind after a key, in the order of their keys.
    async fn records(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Forgets what is past its time, and no more than `limit` rows of each table at once. Returns how many rows went.
    async fn sweep(&self, now: Millis, retention: &Retention, limit: usize) -> Result<usize, StoreError>;

    /// How much there is.
    async fn usage(&self) -> Result<Usage, StoreError>;

    /// Writes a little and commits it: whether messages can be taken.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Ends what was begun, and lets go of the files. What is asked afterwards fails with [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The envelope's bytes: ciphertext.
    pub packed: Vec<u8>,
    /// SHA-256 of them.
    pub digest: [u8; 32],
    /// The DID of ours that it is for, by the envelope's words.
    pub recipient: String,
    /// The DID of who sent it, by the envelope's words; none if it does not say, or cannot be told to come again. If that one
    /// has left too much already, the message is refused; but it is charged with nothing that is not proved to be its own.
    pub sender: Option<String>,
    /// When.
    pub received: Millis,
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// It is kept, under this number.
    New(i64),
    /// The same waits already.
    Waiting(i64),
    /// The same was opened before, or refused.
    Concluded,
}

/// Whether a peer has left less than the limits allow one to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// For the application.
    pub unread: bool,
    /// To be sent to it.
    pub unsent: bool,
}

/// A message that waits to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its number.
    pub id: i64,
    /// The envelope's bytes.
    pub packed: Vec<u8>,
    /// The DID of ours that it is for.
    pub recipient: String,
    /// When it came.
    pub received: Millis,
    /// How often it was postponed.
    pub tries: u32,
    /// Whether its sender was named when it came, and had room.
    pub charged: bool,
}

/// What is written together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The envelope that is done with.
    pub envelope: Option<i64>,
    /// The message that is handled: if it was handled before, no change is made, and the envelope is done with.
    pub handled: Option<Handled>,
    /// The changes, in their order.
    pub changes: Vec<Change>,
}

/// A message that was handed to its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// Who sent it, proved; empty for nobody.
    pub sender: String,
    /// The DID of ours that it was for.
    pub recipient: String,
    /// Its id in lower case; where nothing bounds its age, its digest.
    pub message: String,
    /// Until when that is remembered.
    pub until: Millis,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// To the application's inbox.
    Deliver(Delivery),
    /// To the outbox.
    Send(Outgoing),
    /// Writes a record, if its revision is still the one that was read: 0 for one that is not there.
    Put(Record),
    /// Deletes a record; one that is not there is no fault.
    Delete {
        /// Its kind.
        kind: String,
        /// Its key.
        key: String,
    },
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// All changes are made.
    Done,
    /// The message was handled before: nothing but its envelope has gone.
    HandledBefore,
    /// A record was changed meanwhile: nothing is done, and the turn is to be taken again.
    Conflict,
}

/// A message for the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// Its name here: random, never used again.
    pub id: String,
    /// Its place in the order; given by the store.
    pub cursor: i64,
    /// The message's own id.
    pub message: String,
    /// Its thread.
    pub thread: String,
    /// Its type.
    pub kind: String,
    /// Who sent it, proved; empty for nobody.
    pub sender: String,
    /// The DID of ours that it is for.
    pub recipient: String,
    /// When it came.
    pub received: Millis,
    /// The sealed content; none once it is acknowledged.
    #[serde(skip)]
    pub sealed: Option<Vec<u8>>,
}

/// Which deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// Those behind this cursor; 0 for all.
    pub after: i64,
    /// Those in this thread.
    pub thread: Option<String>,
    /// Those of this type.
    pub kind: Option<String>,
    /// Those of this sender.
    pub sender: Option<String>,
    /// The acknowledged ones too.
    pub acknowledged: bool,
    /// So many at most.
    pub limit: usize,
}

/// A message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outgoing {
    /// Its name here: random, never used again.
    pub id: String,
    /// The message's own id.
    pub message: String,
    /// Its thread.
    pub thread: String,
    /// Its type.
    pub kind: String,
    /// The DID of ours that it is from; empty for an anonymous one.
    pub sender: String,
    /// The DID that it is for.
    pub peer: String,
    /// When it was put there.
    pub created: Millis,
    /// When it is given up.
    pub expires: Millis,
    /// How far it is.
    pub state: SendState,
    /// How often it was tried in vain.
    pub tries: u32,
    /// When it is tried next, or when it was done with.
    pub time: Millis,
    /// Why it has not been sent.
    pub problem: Option<String>,
    /// The sealed content; none once it is done with.
    #[serde(skip)]
    pub sealed: Option<Vec<u8>>,
}

/// How far a message of the outbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendState {
    /// It is tried until it is sent or expires.
    Waiting,
    /// The peer's endpoint, or its mediator's, has taken it.
    Sent,
    /// It cannot be sent.
    Failed,
    /// It was not sent in its time.
    Expired,
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// It was taken, then.
    Sent(Millis),
    /// It is tried again at that time.
    Later(Millis, String),
    /// It never will be.
    Failed(Millis, String),
    /// It was too late.
    Expired(Millis),
}

/// An entry of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadEntry {
    /// It came.
    Received(Delivery),
    /// It was sent, or is to be.
    Sent(Outgoing),
}

/// Something that is remembered by name: a connection, an invitation, a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: String,
    /// Its name among its kind.
    pub key: String,
    /// Counts its changes; 0 before the first.
    pub revision: i64,
    /// Its sealed content.
    pub value: Vec<u8>,
    /// When it is forgotten; never if none.
    pub expires: Option<Millis>,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// A concluded envelope's digest: a day. Repeated within it, it costs no token.
    pub digests: Millis,
    /// An envelope that could not be opened: 30 days.
    pub envelopes: Millis,
    /// What the application has not acknowledged: for ever, if 0, which is the default.
    pub deliveries: Millis,
    /// What is known of an acknowledged delivery or a message that is done with: 30 days.
    pub history: Millis,
}

const DAY: Millis = 24 * 60 * 60 * 1000;

impl Default for Retention {
    fn default() -> Self {
        Self { digests: DAY, envelopes: 30 * DAY, deliveries: 0, history: 30 * DAY }
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Envelopes that wait to be opened.
    pub envelopes: u64,
    /// Their bytes.
    pub envelope_bytes: u64,
    /// When the oldest of them came.
    pub oldest_envelope: Option<Millis>,
    /// Deliveries that wait to be acknowledged.
    pub deliveries: u64,
    /// The bytes of their sealed content.
    pub delivery_bytes: u64,
    /// When the oldest of them came.
    pub oldest_delivery: Option<Millis>,
    /// Messages that wait to be sent.
    pub outgoing: u64,
    /// When the oldest of them was put there.
    pub oldest_outgoing: Option<Millis>,
    /// The bytes of the store's files.
    pub bytes: u64,
}
