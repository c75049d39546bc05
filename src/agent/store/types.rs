//! The types of the store's interface. Times are in milliseconds since 1970.

use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::event::NewEvent;
pub use super::expectation::{Expectation, NeededRoom, PeerQuota};
pub use crate::agent::clock::Millis;

/// An envelope as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnvelope {
    /// The bytes of the envelope: ciphertext.
    pub packed: Vec<u8>,
    /// A digest that identifies the envelope. An envelope that was only written differently has the same digest.
    pub digest: [u8; 32],
    /// Our DID in the envelope's unverified header.
    pub recipient: String,
    /// The sender's DID in the envelope's unverified header. `None` if the header names no sender, or the envelope was
    /// fetched, so that its sender cannot be asked to retry. If the sender exceeds its quota, the envelope is refused.
    /// Only authenticated messages count towards the quota.
    pub sender: Option<String>,
    /// When the envelope arrived.
    pub received: Millis,
    /// Whose room the envelope takes.
    pub attribution: Attribution,
    /// The [hashes](ready_hash) of our keys that can open the envelope. Empty if they are not known.
    pub keys: Vec<i64>,
}

/// Returns the hash of a key, as a multikey, or of a DID, by which nodes tell one another what their tokens have ready.
pub fn ready_hash(name: &str) -> i64 {
    let digest: [u8; 32] = Sha256::digest(name).into();
    i64::from_be_bytes(digest_beginning(&digest).to_be_bytes())
}

/// Returns the beginning of a digest as a number, which tells whether an envelope may be known.
pub fn digest_beginning(digest: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Whose room a pending envelope takes. The sender of an envelope is a claim until the envelope is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribution {
    /// A mediator of ours has delivered the envelope, and the document of its sender is known; or this agent has sent it
    /// to itself. It may take all of the room.
    Fetched,
    /// The sender is unnamed, or its document is known without the network. Without a connection that our side has begun
    /// or accepted, the envelope may take only the share of strangers.
    Resolvable {
        /// The key of the connection's record, if the envelope names a sender.
        connection: Option<String>,
    },
    /// The document of the named sender is not known. Without a connection, the envelope may take only the room of
    /// such envelopes.
    Unresolvable {
        /// The key of the connection's record.
        connection: String,
    },
}

/// An envelope that was deleted, because it waited too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredEnvelope {
    /// The id of the envelope in the store.
    pub id: i64,
    /// Our DID that the envelope was for.
    pub recipient: String,
    /// When the envelope arrived.
    pub received: Millis,
    /// Why it was not opened at the last attempt. `None` if there was no attempt, since no token was ready.
    pub problem: Option<String>,
}

/// Why and until when an envelope is postponed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Postponement {
    /// When the envelope is due again.
    pub until: Millis,
    /// The reason, for people.
    pub reason: String,
    /// Whether the attempt counts in [`PendingEnvelope::attempts`].
    pub attempted: bool,
    /// When the document of the sender was first found to be unavailable. `None` if the envelope waits for something
    /// else. An earlier time in the store stays.
    pub unresolved_since: Option<Millis>,
}

/// The result of storing an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveOutcome {
    /// The envelope is stored, with this id.
    Stored(i64),
    /// The envelope is stored, with this id, and another node opens it: no token of this one has a key for it ready.
    HandedOver(i64),
    /// The same envelope is pending, with this id.
    AlreadyPending(i64),
    /// The same envelope was handled or refused before.
    AlreadyProcessed,
}

/// An envelope that waits to be opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// How many attempts a token has spent work on, or ended in a panic.
    pub attempts: u32,
    /// When the document of the sender was first found to be unavailable.
    pub unresolved_since: Option<Millis>,
    /// Whether the envelope takes the room of envelopes with unresolvable senders ([`Attribution::Unresolvable`]).
    pub unresolved: bool,
}

/// The kind of the records of connections. Their key is our DID, a space, and the peer's DID. The store looks there for
/// the peers that are known.
pub const CONNECTION_KIND: &str = "connection";
/// The kind of the records of peers' rotations. Their key is that of the connection with the peer's old DID.
pub const PEER_ROTATION_KIND: &str = "moved";
/// The kind of the records of our own rotations. Their key is our old DID.
pub const OWN_ROTATION_KIND: &str = "rotated";

/// The revision of a record that is written without having been read.
pub const UNREAD: i64 = -1;

/// Changes that are made together, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// The records that the changes rely on. If one of them has another revision by now, the commit is a
    /// [`Conflict`](CommitOutcome::Conflict).
    pub expects: Vec<Expectation>,
    /// The room that the changes need. Without it, the commit is answered with [`NoRoom`](CommitOutcome::NoRoom).
    pub room: Option<NeededRoom>,
    /// The id of the processed envelope, which the commit removes.
    pub envelope: Option<i64>,
    /// An envelope that was processed before it was stored, instead of `envelope`. The commit checks it like
    /// [`Store::receive`](super::Store::receive), and remembers its digest.
    pub arrived: Option<Arc<NewEnvelope>>,
    /// The message that is handled. If it was handled before, the envelope is removed and no other change is made.
    pub handled: Option<HandledMessage>,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The sender of the handled message, if it is a stranger. The mark, the deliveries and the records about the
    /// sender then count towards the limits for strangers.
    pub stranger: Option<Stranger>,
    /// The `created_time` of the handled message, if its sender was a stranger then and is known now. The mark of its first
    /// handling may have been dropped for lack of room.
    pub created_by_stranger: Option<Millis>,
}

/// A peer with whom neither the application nor the operator has begun or accepted anything, or an unauthenticated
/// sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stranger {
    /// The stranger's DID; empty if the sender is not authenticated.
    pub did: String,
    /// The `created_time` of the handled message. `None` if the message has none, or one that is further in the future than
    /// clocks may differ.
    pub created: Option<Millis>,
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
    /// Until when the mark is kept. A mark stays longer while an envelope waits that arrived before.
    pub until: Millis,
    /// When the message arrived. A mark that ended before does not count.
    pub received: Millis,
    /// Other names of the same sender and recipient, under which the message may arrive too: the DIDs that either has
    /// rotated from. The message is marked under these names as well. If it has such a mark already, the commit is a
    /// [`Conflict`](CommitOutcome::Conflict).
    pub earlier: Vec<(String, String)>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds a message to the application's inbox.
    Deliver(Delivery),
    /// Adds a message to the outbox.
    Send(OutboxEntry),
    /// Writes a record, if the stored revision equals the revision in the record. Revision 0 stands for a record that
    /// does not exist. With the revision [`UNREAD`] the record is written in any case.
    Put(Record),
    /// Writes a record about the sender of the handled message, like `Put`. If the sender is a stranger, the record is
    /// forgotten with everything else about it, unless the record was kept before.
    Remember(Record),
    /// Keeps everything about a peer that is not a stranger any more.
    Keep(String),
    /// Writes an event for the application.
    Event(NewEvent),
    /// Deletes a record, if it exists.
    Delete {
        /// The record's kind.
        kind: String,
        /// The record's key.
        key: String,
    },
}

impl Change {
    /// Copies the deliveries and the messages to send, without their sealed content, which may be large, and the events.
    pub fn copy_without_content(changes: &mut [Self]) -> Vec<Self> {
        fn copy<T: Clone>(value: &mut T, sealed: fn(&mut T) -> &mut Option<Vec<u8>>) -> T {
            let content = sealed(value).take();
            let copy = value.clone();
            *sealed(value) = content;
            copy
        }
        let copies = changes.iter_mut().filter_map(|change| match change {
            Self::Deliver(delivery) => Some(Self::Deliver(copy(delivery, |it| &mut it.sealed))),
            Self::Send(entry) => Some(Self::Send(copy(entry, |it| &mut it.sealed))),
            Self::Event(event) => Some(Self::Event(event.clone())),
            _ => None,
        });
        copies.collect()
    }
}

/// The result of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// All changes are made.
    Committed,
    /// The message was handled before. The envelope is removed, and no other change is made.
    Duplicate,
    /// A stored record no longer has the revision that the commit expects, or that of a change. No change is made, and the
    /// caller reads the records again and tries again.
    Conflict,
    /// The peer is over its quota, which is this. No change is made, and the caller tries again within the quota.
    NoRoom(PeerQuota),
    /// The message is a stranger's, or was when it was made, and so old that the mark of its first handling may have been
    /// dropped for lack of room. No change is made.
    TooOld,
    /// The message is a stranger's, its `created_time` is in the future, and there is no room to remember more of them until
    /// then. No change is made, and the caller tries again when the time has come.
    DatedAhead,
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

impl Delivery {
    /// The size of the delivery in memory, in bytes, its content included.
    pub fn size(&self) -> usize {
        let texts = [&self.id, &self.message, &self.thread, &self.kind, &self.sender, &self.recipient];
        let sealed = self.sealed.as_ref().map_or(0, Vec::len);
        texts.iter().fold(size_of::<Self>() + sealed, |sum, text| sum + text.len())
    }
}

/// Selects deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// Only deliveries after this cursor, which the store has given out; 0 for all.
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
    /// The most bytes of the returned deliveries, their content included. A first delivery that is larger is returned
    /// alone. `None` is no limit.
    pub max_bytes: Option<usize>,
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
    /// How many attempts were made.
    pub tries: u32,
    /// When the next attempt is due, or when the last one was made.
    pub time: Millis,
    /// Why the last attempt failed.
    pub problem: Option<String>,
    /// Whether the message is an automatic reply to a stranger.
    pub to_stranger: bool,
    /// Whether the application, or a person with a command, wants to hear what becomes of the message.
    pub by_application: bool,
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
    /// The application has cancelled the message.
    Cancelled,
}

/// Makes the event that tells of an expired message, if one is wanted.
pub type EventOfExpired = fn(&OutboxEntry) -> Option<NewEvent>;

/// Selects messages of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboxQuery {
    /// Only messages after this position.
    pub after: OutboxPosition,
    /// Only messages in this state.
    pub state: Option<SendState>,
    /// Only messages for this peer.
    pub peer: Option<String>,
    /// The largest number of messages.
    pub limit: usize,
}

/// A position in the outbox. The default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboxPosition {
    /// When the message was put into the outbox.
    pub created: Millis,
    /// The number of the message among all of the outbox. The store sets it.
    pub sequence: i64,
}

/// A position in a thread. The default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadPosition {
    /// When the message was received or put into the outbox.
    pub time: Millis,
    /// Whether the message is ours. Of one time, received messages come first, since an answer follows its question.
    pub is_sent: bool,
    /// The number of the message among all that were received, or all of the outbox.
    pub sequence: i64,
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

/// An entry of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadEntry {
    /// A received message. Its `sealed` is empty, or `None` after the acknowledgement.
    Received(Delivery),
    /// A message that was sent, or is in the outbox. Its `sealed` is empty, or `None` once the message will not be tried
    /// again.
    Sent(OutboxEntry),
}

/// A named value, such as a connection or an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The kind.
    pub kind: String,
    /// The key, unique within the kind.
    pub key: String,
    /// Which write of the record this is: a number that grows with each write, also over a deletion. 0 stands for a record
    /// that does not exist.
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
    /// The metadata of an acknowledged delivery, or of a message that was sent or given up; and an event. Default: 30
    /// days.
    pub history: Millis,
    /// What is known of a stranger that was not heard of again, and has no unread message here. Default: 30 minutes.
    pub strangers: Millis,
}

const DAY: Millis = 24 * 60 * 60 * 1000;

impl Default for Retention {
    fn default() -> Self {
        Self { digests: DAY, envelopes: 30 * DAY, deliveries: 0, history: 30 * DAY, strangers: DAY / 48 }
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
    /// The number of unacknowledged deliveries of strangers.
    pub stranger_deliveries: u64,
    /// The size of the sealed content of unacknowledged deliveries of strangers, in bytes.
    pub stranger_delivery_bytes: u64,
    /// The size of the records about strangers, in bytes.
    pub stranger_record_bytes: u64,
    /// The number of marks of handled messages of strangers.
    pub stranger_marks: u64,
}
