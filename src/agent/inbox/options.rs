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
    /// How long the agent tries to send a reply, in milliseconds. Default: 7 days.
    pub reply_lifetime: Millis,
    /// How many problems are reported to a peer.
    pub problems: ProblemLimits,
    /// Whether a message of a sender without a connection may prompt a person for a PIN or a touch. Default: no.
    pub prompt_strangers: bool,
}

impl Default for InboxOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            workers: 64,
            max_age: 30 * DAY,
            reply_lifetime: 7 * DAY,
            problems: ProblemLimits::default(),
            prompt_strangers: false,
        }
    }
}
