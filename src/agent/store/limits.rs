//! The limits of a store.

/// The limits of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLimits {
    /// The most bytes of all pending envelopes. Default: 1 GiB.
    pub max_envelope_bytes: u64,
    /// The most pending envelopes for one of our DIDs. Default: 100,000.
    pub max_envelopes_for: u64,
    /// The most bytes of pending envelopes for one of our DIDs. Default: 512 MiB.
    pub max_envelope_bytes_for: u64,
    /// How much of each of the three limits above envelopes may use whose sender is unnamed, or has no connection that
    /// our side has begun or accepted, in percent. Default: 50.
    pub strangers_percent: u32,
    /// How much of each of these limits envelopes may use that name one known peer as their sender, once the share of
    /// strangers is used up, in percent. The name is a claim: anyone can write it. Default: 10.
    pub known_peer_percent: u32,
    /// The most pending envelopes whose sender cannot be resolved and has no connection. At most a tenth of
    /// `max_envelopes_for` is for one of our DIDs. Default: 1,000.
    pub max_unresolved: u64,
    /// The most bytes of such envelopes. Default: 16 MiB.
    pub max_unresolved_bytes: u64,
    /// The most bytes of all deliveries of known peers that the application has not acknowledged. Beyond this limit no
    /// envelope of a known peer is stored. Default: 1 GiB.
    pub max_unread_bytes: u64,
    /// The most unacknowledged deliveries of one sender. Default: 10,000.
    pub max_unread_from: u64,
    /// The most bytes of unacknowledged deliveries of one sender. Default: 128 MiB.
    pub max_unread_bytes_from: u64,
    /// The most waiting messages for one peer. Beyond this limit the peer gets no replies. Default: 1,000.
    pub max_replies_to: u64,
    /// The most automatic replies that wait to be sent to all strangers together. Beyond this limit no stranger gets a
    /// reply. Default: 2,000.
    pub max_stranger_replies: u64,
    /// The most unacknowledged deliveries of all strangers together. Default: 50,000.
    pub max_stranger_unread: u64,
    /// The most bytes of unacknowledged deliveries of all strangers together. They do not count towards
    /// `max_unread_bytes`. Default: 256 MiB.
    pub max_stranger_unread_bytes: u64,
    /// The most bytes of records about strangers: connections, documents and what protocols remember. Beyond this limit
    /// the stranger that was seen longest ago is forgotten. Default: 64 MiB.
    pub max_stranger_bytes: u64,
    /// The most marks of handled messages of strangers. Beyond this limit the oldest mark is dropped, and a stranger's
    /// message that is as old is refused. Default: 100,000.
    pub max_stranger_marks: u64,
    /// The most events. Beyond this limit the oldest are deleted with the expired data. Default: 100,000.
    pub max_events: u64,
    /// The most bytes of the database in SQLite, without its log. `None`, the default: only the disk is the limit. The
    /// store in PostgreSQL has no such limit and is not opened with one.
    pub max_bytes: Option<u64>,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            max_envelope_bytes: 1 << 30,
            max_envelopes_for: 100_000,
            max_envelope_bytes_for: 512 << 20,
            strangers_percent: 50,
            known_peer_percent: 10,
            max_unresolved: 1000,
            max_unresolved_bytes: 16 << 20,
            max_unread_bytes: 1 << 30,
            max_unread_from: 10_000,
            max_unread_bytes_from: 128 << 20,
            max_replies_to: 1000,
            max_stranger_replies: 2000,
            max_stranger_unread: 50_000,
            max_stranger_unread_bytes: 256 << 20,
            max_stranger_bytes: 64 << 20,
            max_stranger_marks: 100_000,
            max_events: 100_000,
            max_bytes: None,
        }
    }
}
