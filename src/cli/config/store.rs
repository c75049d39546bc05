//! The table of the store, which only `claviger serve` reads.

use std::path::PathBuf;

use claviger::{agent::store::StoreLimits, keys::PublicKey};
use serde::Deserialize;

/// The store: the database with received and outgoing messages.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// The file of the database in SQLite. Without it and `url`: `agent/agent.db` in `state_dir`.
    pub path: Option<PathBuf>,
    /// The database in PostgreSQL, instead of `path`: `postgres://USER@HOST:PORT/DATABASE`. One agent uses it at a time, unless
    /// `node` is set. Unless HOST is this machine, the connection is TLS, and the server's certificate must be by an authority of
    /// the system or of `ca` in `[net]`; with `?sslmode=disable` the connection is not encrypted.
    pub url: Option<String>,
    /// The same database at the server itself, if `url` leads to a pooler in transaction mode. Locks and notices need it. The
    /// rules for `url` hold, and the user and the password are the same.
    pub listen_url: Option<String>,
    /// The file whose first line is the password for `url` and `listen_url`.
    pub password_file: Option<PathBuf>,
    /// The name of this agent among several that share the database of `url`: 1 to 32 characters of `a-z`, `0-9` and `-`. No two
    /// of them have the same name.
    pub node: Option<String>,
    /// The key agreement keys, as multikeys, that tokens of other agents on the same database hold, if each agent has a token with
    /// keys of its own (`claviger key list` prints them). Whoever uses one of these keys can open the whole store and replace its
    /// key; without this, only keys in a token of this agent can. Its own keys may be among them, so that the list is the same
    /// everywhere. For each key, this agent needs one on the same curve.
    pub keys: Vec<String>,
    /// Bytes of received messages that wait to be unpacked, at most. Beyond this limit, no message is accepted.
    pub max_waiting_bytes: u64,
    /// Received messages for one of our DIDs that wait to be unpacked, at most.
    pub max_waiting_for: u64,
    /// Bytes of received messages for one of our DIDs that wait to be unpacked, at most.
    pub max_waiting_bytes_for: u64,
    /// The percentage of each of the three limits above that messages may use whose senders are not known: the message
    /// names none, or there is no connection that our side has begun or accepted.
    pub strangers_percent: u32,
    /// The percentage of each of these limits that messages may use that name one known peer as their sender, once that of
    /// strangers is used up. Anyone can write such a name into a message.
    pub known_peer_percent: u32,
    /// Received messages that wait for the DID document of a sender without a connection, at most. For one of our DIDs, at
    /// most a tenth of `max_waiting_for`.
    pub max_unresolved: u64,
    /// Bytes of such messages, at most.
    pub max_unresolved_bytes: u64,
    /// A received message that could not be unpacked, such as one whose token is missing, is deleted after this many
    /// days. The log and the metric `claviger_messages_handled_total` report it.
    pub waiting_days: u32,
    /// Bytes of messages of known peers that the application has not acknowledged, at most. Beyond this limit, no message
    /// of a known peer is accepted. A peer is known if the application has written to it, or an invitation was accepted.
    pub max_unread_bytes: u64,
    /// Messages of one sender that the application has not acknowledged, at most. Beyond this limit, no message of that
    /// sender is accepted.
    pub max_unread_from: u64,
    /// Bytes of messages of one sender that the application has not acknowledged, at most.
    pub max_unread_bytes_from: u64,
    /// Messages that wait to be sent to one peer, at most, before the peer gets no more replies.
    pub max_replies_to: u64,
    /// Automatic replies that wait to be sent to all strangers together, at most, before strangers get no more replies.
    pub max_replies_to_strangers: u64,
    /// Messages of all strangers together that the application has not acknowledged, at most. Beyond this limit, no message
    /// of a stranger is accepted.
    pub max_unread_of_strangers: u64,
    /// Bytes of messages of all strangers together that the application has not acknowledged, at most.
    pub max_unread_bytes_of_strangers: u64,
    /// Bytes that are remembered about strangers, at most: connections, documents, profiles. Beyond this limit, the
    /// stranger that was seen longest ago is forgotten.
    pub max_bytes_of_strangers: u64,
    /// Messages of strangers that are remembered as handled, at most. Beyond this limit, the oldest is forgotten, and a
    /// stranger's message with an older `created_time` is refused.
    pub max_marks_of_strangers: u64,
    /// A stranger is forgotten after this many minutes: after its last message, or after the application has acknowledged
    /// it. Then only the long form of its did:peer:4 reaches it, and it is not told if our DID rotates.
    pub strangers_minutes: u32,
    /// A message that the application does not acknowledge is deleted after this many days. 0: never.
    pub unread_days: u32,
    /// The record of a message that was handled or sent, and an event, is deleted after this many days.
    pub history_days: u32,
    /// Events that are kept, at most. Those of strangers take a tenth of them at most. Beyond this limit, the oldest are deleted.
    pub max_events: u64,
}

impl StoreSection {
    /// The keys that tokens of other agents hold.
    ///
    /// # Errors
    /// What is wrong with the first that is none, for people.
    pub fn trusted_keys(&self) -> Result<Vec<PublicKey>, String> {
        let key = |text: &String| match PublicKey::from_multikey(text) {
            Ok(key) if key.curve().supports_key_agreement() => Ok(key),
            Ok(key) => Err(format!("{text} is on {}, which is no curve of key agreement keys", key.curve().name())),
            Err(error) => Err(format!("{text:?} is not a multikey: {error}")),
        };
        self.keys.iter().map(key).collect()
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        let limits = StoreLimits::default();
        Self {
            path: None,
            url: None,
            listen_url: None,
            password_file: None,
            node: None,
            keys: Vec::new(),
            max_waiting_bytes: limits.max_envelope_bytes,
            max_waiting_for: limits.max_envelopes_for,
            max_waiting_bytes_for: limits.max_envelope_bytes_for,
            strangers_percent: limits.strangers_percent,
            known_peer_percent: limits.known_peer_percent,
            max_unresolved: limits.max_unresolved,
            max_unresolved_bytes: limits.max_unresolved_bytes,
            waiting_days: 30,
            max_unread_bytes: limits.max_unread_bytes,
            max_unread_from: limits.max_unread_from,
            max_unread_bytes_from: limits.max_unread_bytes_from,
            max_replies_to: limits.max_replies_to,
            max_replies_to_strangers: limits.max_stranger_replies,
            max_unread_of_strangers: limits.max_stranger_unread,
            max_unread_bytes_of_strangers: limits.max_stranger_unread_bytes,
            max_bytes_of_strangers: limits.max_stranger_bytes,
            max_marks_of_strangers: limits.max_stranger_marks,
            strangers_minutes: 30,
            unread_days: 0,
            history_days: 30,
            max_events: limits.max_events,
        }
    }
}
