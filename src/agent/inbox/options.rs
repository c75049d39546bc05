//! The options of the inbox.

use crate::{
    agent::{clock::Millis, protocol::problem_limits::ProblemLimits},
    jose::Limits,
};

const DAY: Millis = 24 * 60 * 60 * 1000;

/// The options of the inbox.
#[derive(Debug, Clone)]
pub struct InboxOptions {
    /// The limits of an envelope, such as its size in bytes.
    pub limits: Limits,
    /// How many messages are opened at the same time. Default: 64.
    pub workers: usize,
    /// The age by `created_time`, in milliseconds, at which a message is refused when it is opened. The time that it
    /// waited for a token counts. Default: 30 days. A handled message is remembered until a repetition would be refused
    /// as too old or expired.
    pub max_age: Millis,
    /// The memory for messages that are being opened, in bytes. A message waits until its estimated size in memory is
    /// free. Default: 64 MiB.
    pub max_opening_bytes: usize,
    /// How many DID documents of senders are fetched at once; half of them for peers with a connection. Default: 16.
    pub max_fetches: usize,
    /// How long a message waits for the document of its sender, in milliseconds, from the first attempt to resolve the
    /// sender. Default: 24 hours.
    pub wait_for_sender: Millis,
    /// The same for a sender that could not be resolved on arrival and has no connection. Default: 10 minutes.
    pub wait_for_stranger: Millis,
    /// How often a message is tried after a token has opened its outer layer and the rest cannot be opened, or after a
    /// worker has panicked. Default: 5.
    pub max_attempts: u32,
    /// How long the agent tries to send a reply, in milliseconds. Default: 7 days.
    pub reply_lifetime: Millis,
    /// The same for replies that are of no use later (ping responses, disclosed features, problem reports), and for every
    /// reply to a stranger. Default: 10 minutes.
    pub momentary_lifetime: Millis,
    /// How many problems are reported to a peer.
    pub problems: ProblemLimits,
    /// How often a message must not open, although the token answers known-answer checks rightly, before it is refused.
    /// Default: 2.
    pub open_attempts: u32,
    /// How often a token must refuse a message, although it answers known-answer checks rightly, before the message is let
    /// go. Default: 8.
    pub refused_attempts: u32,
    /// How long a token must refuse a message, although it answers known-answer checks rightly, before the message is
    /// let go, in milliseconds. Default: 10 minutes.
    pub refused_time: Millis,
    /// Whether a message of a sender without a connection may prompt a person for a PIN or a touch. Default: no.
    pub prompt_strangers: bool,
    /// Whether the application gets basic messages without an authenticated sender. Default: no. It gets messages that no
    /// protocol handles in any case.
    pub accept_anonymous: bool,
}

impl Default for InboxOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            workers: 64,
            max_age: 30 * DAY,
            max_opening_bytes: 64 << 20,
            max_fetches: 16,
            wait_for_sender: DAY,
            wait_for_stranger: 10 * 60 * 1000,
            max_attempts: 5,
            reply_lifetime: 7 * DAY,
            momentary_lifetime: 10 * 60 * 1000,
            problems: ProblemLimits::default(),
            open_attempts: 2,
            refused_attempts: 8,
            refused_time: 10 * 60 * 1000,
            prompt_strangers: false,
            accept_anonymous: false,
        }
    }
}
