//! The options of the SQLite store.

/// The limits of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The most bytes of all pending envelopes. Default: 1 GiB.
    pub max_envelope_bytes: u64,
    /// The most pending envelopes for one of our DIDs. Default: 100,000.
    pub max_envelopes_for: u64,
    /// The most bytes of pending envelopes for one of our DIDs. Default: 512 MiB.
    pub max_envelope_bytes_for: u64,
    /// The most bytes of all deliveries that the application has not acknowledged. Beyond this limit no envelope is
    /// stored. Default: 1 GiB.
    pub max_unread_bytes: u64,
    /// The most unacknowledged deliveries of one sender. Default: 10,000.
    pub max_unread_from: u64,
    /// The most bytes of unacknowledged deliveries of one sender. Default: 128 MiB.
    pub max_unread_bytes_from: u64,
    /// The most waiting messages for one peer. Beyond this limit the peer gets no replies. Default: 1,000.
    pub max_replies_to: u64,
    /// The most bytes of the database without its log. `None`, the default: only the disk is the limit.
    pub max_bytes: Option<u64>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_envelope_bytes: 1 << 30,
            max_envelopes_for: 100_000,
            max_envelope_bytes_for: 512 << 20,
            max_unread_bytes: 1 << 30,
            max_unread_from: 10_000,
            max_unread_bytes_from: 128 << 20,
            max_replies_to: 1000,
            max_bytes: None,
        }
    }
}
