//! The trait that every store implements.

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    error::StoreError,
    event::{NewEvent, StoredEvent},
    node::{HintListener, StoreNode},
    types::{
        Commit, CommitOutcome, Delivery, DeliveryQuery, EventOfExpired, ExpiredEnvelope, HandledMessage, NewEnvelope,
        OutboxEntry, OutboxPosition, OutboxQuery, PeerQuota, PendingEnvelope, Postponement, ReceiveOutcome, Record,
        Retention, SendOutcome, ThreadEntry, ThreadPosition, Usage,
    },
};
use crate::agent::clock::Millis;

/// The durable storage of an agent.
///
/// Any method may fail with [`StoreError::Unavailable`] if the store cannot be used now, with [`StoreError::Unusable`]
/// if the store is damaged, and with [`StoreError::Closed`] after [`Store::close`]. A method that writes may also fail
/// with [`StoreError::Full`]. An implementation must pass the test suite that begins in `tests/agent/store/suite.rs`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores an envelope as received. An envelope whose digest is known, because it is pending or was processed, is
    /// not stored again.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the envelope would exceed a limit, or the disk is full. The peer may then send the
    /// envelope again later.
    async fn receive(&self, envelope: NewEnvelope) -> Result<ReceiveOutcome, StoreError>;

    /// Returns the [beginnings](super::types::digest_beginning) of the digests of at most `limit` envelopes that are
    /// pending or were processed, in any order. With more of them, the latest are returned.
    async fn known_digests(&self, limit: usize) -> Result<Vec<u64>, StoreError>;

    /// Returns at most `limit` pending envelopes of this node that are due at `now`, oldest first, without those in `except`.
    /// A node has the envelopes that it has received, and those of nodes that have ended.
    async fn pending_envelopes(
        &self,
        now: Millis,
        except: &[i64],
        limit: usize,
    ) -> Result<Vec<PendingEnvelope>, StoreError>;

    /// Returns how many envelopes for one of our DIDs are pending, due or not.
    async fn pending_count(&self, recipient: &str) -> Result<u64, StoreError>;

    /// Returns whether a peer may leave more messages here, and whether more replies may wait for the peer. The empty
    /// name stands for all senders that are not authenticated. A stranger may leave a message only if there is room for
    /// strangers, too.
    async fn peer_quota(&self, peer: &str, is_stranger: bool) -> Result<PeerQuota, StoreError>;

    /// Postpones an envelope that cannot be opened now, and records the reason.
    async fn postpone(&self, envelope: i64, postponement: Postponement) -> Result<(), StoreError>;

    /// Makes all postponed envelopes of this node due, except those that wait for the document of their sender, or have
    /// `max_attempts` attempts ([`PendingEnvelope::attempts`]).
    async fn make_due(&self, max_attempts: u32) -> Result<(), StoreError>;

    /// Deletes at most `limit` envelopes that arrived at `arrived` or before, oldest first, and returns them. They are
    /// remembered like processed envelopes.
    async fn expire_envelopes(&self, arrived: Millis, limit: usize) -> Result<Vec<ExpiredEnvelope>, StoreError>;

    /// Makes all changes of a commit, or none of them.
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError>;

    /// Returns the position of a handled message in the order of handling, or `None` if the message was not handled.
    /// The message is named as in [`HandledMessage`](super::types::HandledMessage).
    async fn handled_position(&self, sender: &str, recipient: &str, message: &str) -> Result<Option<i64>, StoreError>;

    /// Whether a message was certainly not handled before: it has no mark, and no mark of it can have been dropped for lack
    /// of room or lost by a restore. `created` is the message's `created_time`, `None` if it has no usable one; such a
    /// message is certainly new only in a store that never dropped or lost a mark.
    async fn is_certainly_new(&self, message: &HandledMessage, created: Option<Millis>) -> Result<bool, StoreError>;

    /// Returns the deliveries that `query` selects, in the order of their cursors. Fewer than `limit` may be returned
    /// although there are more, because of `max_bytes`: there are no more only if none is returned.
    /// Cursors grow, also over a restore of a backup.
    ///
    /// # Errors
    /// [`StoreError::UnknownCursor`] if `after` is neither 0 nor a cursor that this store has given out.
    async fn deliveries(&self, query: DeliveryQuery) -> Result<Vec<Delivery>, StoreError>;

    /// Returns at most `limit` deliveries whose ids begin with a text, acknowledged or not, in the order of their ids.
    async fn deliveries_by_id(&self, beginning: &str, limit: usize) -> Result<Vec<Delivery>, StoreError>;

    /// Acknowledges deliveries and deletes their content. Ids that are unknown or were acknowledged before are ignored.
    /// Returns how many deliveries were acknowledged now.
    async fn acknowledge(&self, ids: &[String]) -> Result<usize, StoreError>;

    /// Returns the peers for which messages wait in the outbox that this node sends. All waiting messages for a peer are sent by
    /// one node: by the one that has put the first of them into the outbox, or has [claimed](Self::claim_outgoing) them.
    async fn outbox_peers(&self) -> Result<Vec<String>, StoreError>;

    /// Returns at most `limit` waiting messages for a peer that this node sends, in the order in which they were put into the
    /// outbox, without those of the senders in `except_senders` and those in `except`.
    async fn outbox_entries(
        &self,
        peer: &str,
        except_senders: &[String],
        except: &[String],
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, StoreError>;

    /// Returns a message of the outbox by its outbox id.
    async fn outbox_entry(&self, id: &str) -> Result<Option<OutboxEntry>, StoreError>;

    /// Returns the messages of the outbox that `query` selects, without their content, each with its position. They
    /// are in the order in which they were put into the outbox.
    async fn outbox(&self, query: OutboxQuery) -> Result<Vec<(OutboxPosition, OutboxEntry)>, StoreError>;

    /// Cancels a waiting message at `time`, and deletes its content. Returns whether the message was waiting. An automatic
    /// reply to a stranger is deleted.
    async fn cancel_outgoing(&self, id: &str, time: Millis) -> Result<bool, StoreError>;

    /// Records the outcome of an attempt to send. The content of a message that will not be tried again is deleted.
    /// A message that expired or was cancelled during the attempt can still become sent; no other final state changes. An
    /// automatic reply to a stranger is deleted with its final state. `event` is written if the outcome changes the message.
    async fn record_send_outcome(
        &self,
        id: &str,
        outcome: SendOutcome,
        event: Option<NewEvent>,
    ) -> Result<(), StoreError>;

    /// Marks at most `limit` waiting messages of the outbox whose time to send is over at `now` as expired, and deletes
    /// their content. Those that expired earliest are chosen; they are returned in any order, as they are then. The event that
    /// `event` makes of such a message is written with it.
    async fn expire_outgoing(
        &self,
        now: Millis,
        limit: usize,
        event: EventOfExpired,
    ) -> Result<Vec<OutboxEntry>, StoreError>;

    /// Returns at most `limit` events of these kinds after a cursor, in the order of their cursors; 0 is the beginning.
    ///
    /// # Errors
    /// [`StoreError::UnknownCursor`] if `after` is neither 0 nor a cursor of an event that this store has given out.
    async fn events(&self, after: i64, kinds: &[&str], limit: usize) -> Result<Vec<StoredEvent>, StoreError>;

    /// Returns at most `limit` deliveries and outbox entries of a thread after `after`, oldest first, without their content,
    /// each with its position.
    async fn thread_entries(
        &self,
        thread: &str,
        after: ThreadPosition,
        limit: usize,
    ) -> Result<Vec<(ThreadPosition, ThreadEntry)>, StoreError>;

    /// Returns a record, unless it has expired.
    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError>;

    /// Returns the records with these kinds and keys, in this order, as they are at one moment.
    async fn records_at(&self, places: &[(&str, &str)]) -> Result<Vec<Option<Record>>, StoreError>;

    /// Returns at most `limit` records of a kind with keys after `after`, in the order of their keys.
    async fn records(&self, kind: &str, after: &str, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Returns at most `limit` connections with a peer, or rotations of a peer, with keys after `after`, in the order of their
    /// keys. `kind` is `connection` or `moved`. `peer` is the peer's DID as in the keys or, if it ends with a colon, the beginning
    /// of it. A tilde, which no DID contains, stands for any rest.
    async fn records_with_peer(
        &self,
        kind: &'static str,
        peer: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError>;

    /// Returns the keys of at most `limit` connections with known peers. The key is our DID, a space, and the peer's DID.
    async fn known_connections(&self, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Deletes data that has expired or exceeds its retention, and the oldest events if there are too many, at most `limit`
    /// rows of each table. Returns how many rows were deleted.
    async fn delete_expired(&self, now: Millis, retention: &Retention, limit: usize) -> Result<usize, StoreError>;

    /// Returns how much the store holds.
    async fn usage(&self) -> Result<Usage, StoreError>;

    /// Has `listener` called with what other nodes do from now on, until the store is closed. A store without nodes never
    /// calls it.
    fn listen(&self, _listener: HintListener) {}

    /// Returns the nodes that use this store, oldest first. Empty if the store has no nodes.
    async fn nodes(&self) -> Result<Vec<StoreNode>, StoreError> {
        Ok(Vec::new())
    }

    /// Whether this node leads: does what only one of the nodes may do, such as to talk to a mediator. For a moment, two nodes
    /// may lead, or none. A store without nodes is always led by its agent, and the receiver's sender is gone.
    fn leads(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }

    /// Tells the other nodes what the tokens of this one have ready: the [hashes](super::types::ready_hash) of key agreement keys,
    /// and of the DIDs that have one of them. Nothing if this node can open no message. Whatever a node cannot do and another
    /// one can is handed over: envelopes, and waiting messages of a peer for whose senders the node has no key ready.
    async fn show_ready(&self, _ready: &[i64]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether messages to a peer may wait for another node to send them, as far as this node knows.
    fn waits_elsewhere(&self, _peer: &str) -> bool {
        false
    }

    /// Has this node send the messages that wait for a peer, whichever node would have sent them: the peer can be reached here.
    /// Does nothing if no messages for the peer [wait elsewhere](Self::waits_elsewhere).
    async fn claim_outgoing(&self, _peer: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes and commits a small change. Success means that messages can be stored.
    async fn probe_write(&self) -> Result<(), StoreError>;

    /// Completes the running requests and releases the files. Later requests fail with [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}
