//! The types of the store's interface. Times are in milliseconds since 1970.

use serde::Serialize;

pub use crate::agent::clock::Millis;

/// An envelope as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnvelope {
    /// The bytes of the envelope: ciphertext.
    pub packed: Vec<u8>,
    /// The SHA-256 of the bytes.
    pub digest: [u8; 32],
    /// Our DID in the envelope's unverified header.
    pub recipient: String,
    /// The sender's DID in the envelope's unverified header. `None` if the header names no sender, or the envelope was
    /// fetched, so that its sender cannot be asked to retry. If the sender exceeds its quota, the envelope is refused.
    /// Only authenticated messages count towards the quota.
    pub sender: Option<String>,
    /// When the envelope arrived.
    pub received: Millis,
}

/// The result of storing an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveOutcome {
    /// The envelope is stored, with this id.
    Stored(i64),
    /// The same envelope is pending, with this id.
    AlreadyPending(i64),
    /// The same envelope was handled or refused before.
    AlreadyProcessed,
}

/// Whether a peer is within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerQuota {
    /// Whether more messages of the peer may be delivered to the application.
    pub may_deliver: bool,
    /// Whether more replies may wait to be sent to the peer.
    pub may_reply: bool,
}

/// An envelope that waits to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEnvelope {
    /// The id of the envelope in the store.
    pub id: i64,
    /// The bytes of the envelope.
    pub packed: Vec<u8>,
    /// Our DID that the envelope is for.
    pub recipient: String,
    /// When the envelope arrived.
    pub received: Millis,
    /// How often the envelope was postponed.
    pub tries: u32,
    /// Whether the envelope named its sender on arrival, and the sender was within its quota.
    pub quota_checked: bool,
}

/// Changes that are made together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The id of the processed envelope, which the commit removes.
    pub envelope: Option<i64>,
    /// The message that is handled. If it was handled before, the envelope is removed and no other change is made.
    pub handled: Option<HandledMessage>,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// The mark that a message was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandledMessage {
    /// The authenticated sender; empty if there is none.
    pub sender: String,
    /// Our DID that the message was for.
    pub recipient: String,
    /// The message id in lower case. Without an authenticated sender a digest of the content follows the id.
    pub message: String,
    /// Until when the mark is kept.
    pub until: Millis,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds a message to the application's inbox.
    Deliver(Delivery),
    /// Adds a message to the outbox.
    Send(OutboxEntry),
    /// Writes a record, if the stored revision equals the revision in the record. Revision 0 stands for a record that
    /// does not exist.
    Put(Record),
    /// Deletes a record, if it exists.
    Delete {
        /// The record's kind.
        kind: String,
        /// The record's key.
        key: String,
    },
}

/// The result of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// All changes are made.
    Committed,
    /// The message was handled before. The envelope is removed, and no other change is made.
    Duplicate,
    /// A stored record no longer has the revision of the change. No change is made, and the caller tries again with the
    /// new record.
    Conflict,
}

/// A message for the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// The id of the delivery: random, and never used again.
    pub id: String,
    /// The position among all deliveries. The store sets it.
    pub cursor: i64,
    /// The message's own id.
    pub message: String,
    /// The message's thread.
    pub thread: String,
    /// The message's type.
    pub kind: String,
    /// The authenticated sender; empty if there is none.
    pub sender: String,
    /// Our DID that the message is for.
    pub recipient: String,
    /// When the message arrived.
    pub received: Millis,
    /// The sealed content. `None` after the acknowledgement.
    #[serde(skip)]
    pub sealed: Option<Vec<u8>>,
}

/// Selects deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// Only deliveries after this cursor; 0 for all.
    pub after: i64,
    /// Only deliveries of this thread.
    pub thread: Option<String>,
    /// Only deliveries of this type.
    pub kind: Option<String>,
    /// Only deliveries of this sender.
    pub sender: Option<String>,
    /// Whether acknowledged deliveries are included.
    pub acknowledged: bool,
    /// The largest number of deliveries.
    pub limit: usize,
}

/// A message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutboxEntry {
    /// The outbox id: random, and never used again.
    pub id: String,
    /// The message's own id.
    pub message: String,
    /// The message's thread.
    pub thread: String,
    /// The message's type.
    pub kind: String,
    /// Our DID that the message is from; empty for an anonymous message.
    pub sender: String,
    /// The DID that the message is for.
    pub peer: String,
    /// When the message was put into the outbox.
    pub created: Millis,
    /// When sending is given up.
    pub expires: Millis,
    /// The state of the message in the outbox.
    pub state: SendState,
    /// How many attempts have failed.
    pub tries: u32,
    /// When the next attempt is due, or when the last one was made.
    pub time: Millis,
    /// Why the last attempt failed.
    pub problem: Option<String>,
    /// The sealed content. `None` once the message will not be tried again.
    #[serde(skip)]
    pub sealed: Option<Vec<u8>>,
}

/// The state of a message in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendState {
    /// The message is tried until it is sent or expires.
    Waiting,
    /// The endpoint of the peer, or of its mediator, has accepted the message.
    Sent,
    /// The message cannot be sent.
    Failed,
    /// The message was not sent before it expired.
    Expired,
}

/// The outcome of an attempt to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// The message was accepted at this time.
    Sent(Millis),
    /// The attempt failed for this reason. The next attempt is due at this time.
    Later(Millis, String),
    /// The message can never be sent, for this reason.
    Failed(Millis, String),
    /// The message had expired at this time.
    Expired(Millis),
}

/// A message of the outbox whose time to send is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredMessage {
    /// The message's own id.
    pub message: String,
    /// The message's type.
    pub kind: String,
    /// Why the last attempt failed. `None` if there was no attempt.
    pub problem: Option<String>,
}

/// An entry of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadEntry {
    /// A received message.
    Received(Delivery),
    /// A message that was sent, or is in the outbox.
    Sent(OutboxEntry),
}

/// A named value, such as a connection or an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The kind.
    pub kind: String,
    /// The key, unique within the kind.
    pub key: String,
    /// How often the record was written; 0 before the first write.
    pub revision: i64,
    /// The sealed value.
    pub value: Vec<u8>,
    /// When the record expires; never if `None`.
    pub expires: Option<Millis>,
}

/// How long content is kept, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The digest of a processed envelope. A repeated envelope costs no token operation within this time. Default: 1
    /// day.
    pub digests: Millis,
    /// An envelope that was not opened. After this time it is deleted, although its sender got 202. Default: 30 days.
    pub envelopes: Millis,
    /// A delivery that the application has not acknowledged. 0, the default, keeps deliveries for ever.
    pub deliveries: Millis,
    /// The metadata of an acknowledged delivery, or of a message that was sent or given up. Default: 30 days.
    pub history: Millis,
}

const DAY: Millis = 24 * 60 * 60 * 1000;

impl Default for Retention {
    fn default() -> Self {
        Self { digests: DAY, envelopes: 30 * DAY, deliveries: 0, history: 30 * DAY }
    }
}

/// How much the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The number of pending envelopes.
    pub envelopes: u64,
    /// The size of the pending envelopes in bytes.
    pub envelope_bytes: u64,
    /// When the oldest pending envelope arrived.
    pub oldest_envelope: Option<Millis>,
    /// The number of unacknowledged deliveries.
    pub deliveries: u64,
    /// The size of the sealed content of unacknowledged deliveries, in bytes.
    pub delivery_bytes: u64,
    /// When the oldest unacknowledged delivery arrived.
    pub oldest_delivery: Option<Millis>,
    /// The number of messages that wait to be sent.
    pub outgoing: u64,
    /// When the oldest waiting message was put into the outbox.
    pub oldest_outgoing: Option<Millis>,
    /// The size of the store's files in bytes.
    pub bytes: u64,
}
