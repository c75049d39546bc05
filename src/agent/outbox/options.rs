//! The options of the outbox.

use std::time::Duration;

use crate::agent::clock::Millis;

/// The options of the outbox.
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// How long the agent tries to send a message, in milliseconds, unless the message's `expires_time` is earlier.
    /// Default: 7 days.
    pub message_lifetime: Millis,
    /// How many messages are sent to one peer at the same time, at first, and when others have messages for its server. While
    /// the server has room, it becomes up to `concurrent_per_origin`. Default: 4.
    pub concurrent_per_peer: usize,
    /// How many messages are sent at the same time in total. Default: 256.
    pub concurrent: usize,
    /// How many messages are sent to one server at the same time. A new server begins with 2. Default: 128.
    pub concurrent_per_origin: usize,
    /// How many replies to strangers are sent at the same time to servers that have not accepted a message yet, and how many
    /// documents are fetched for replies to strangers. Default: 16.
    pub concurrent_unknown: usize,
    /// How many replies to strangers are packed per second. Default: 50.
    pub stranger_replies_per_second: u32,
    /// How long a message waits for a DID document that lacks what the message needs, or is not there, in milliseconds.
    /// Default: 1 day.
    pub unresolved_lifetime: Millis,
    /// The longest pause of a server that fails. Default: 1 minute.
    pub longest_origin_pause: Duration,
    /// The maximum of the random pause before the second attempt. It doubles with each failure. Default: 1 second.
    pub first_pause: Duration,
    /// The longest pause between attempts. Default: 10 minutes.
    pub longest_pause: Duration,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self {
            message_lifetime: 7 * 24 * 60 * 60 * 1000,
            concurrent_per_peer: 4,
            concurrent: 256,
            concurrent_per_origin: 128,
            concurrent_unknown: 16,
            stranger_replies_per_second: 50,
            unresolved_lifetime: 24 * 60 * 60 * 1000,
            longest_origin_pause: Duration::from_secs(60),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(600),
        }
    }
}
