//! The messages of a peer that are left out for a while, and what they wait for.

use std::time::Duration;

use tokio::time::Instant;

use super::waits::{Pause, Waits};

/// The most messages that are left out because they failed, and because they are postponed. Leaving them out keeps one
/// message from blocking the others.
pub(super) const MAX_LEFT_OUT: usize = 100;

/// The messages of a peer that are left out for a while.
#[derive(Default)]
pub(super) struct LeftOut {
    /// The last pause of the peer, until it gets messages again.
    pub peer: Option<Pause>,
    /// The senders whose token is away, until when they are left out, and the same as it is shown.
    pub senders: Vec<(String, Instant, Pause)>,
    /// The messages that are postponed, and until when.
    pub postponed: Vec<(String, Instant)>,
    /// The messages that failed since the peer is unreachable. They are left out until the others were tried.
    pub failed: Vec<String>,
}

impl LeftOut {
    /// Leaves out the messages of a sender whose token is away.
    pub fn leave_out_sender(&mut self, sender: String, pause: Duration, problem: String) {
        self.senders.retain(|(other, ..)| *other != sender);
        self.senders.push((sender, Instant::now() + pause, Pause::new(pause, problem)));
    }

    /// Leaves out one message.
    pub fn postpone(&mut self, message: String, pause: Duration) {
        // Beyond the limit, the message that has waited longest is tried early.
        if self.postponed.len() >= MAX_LEFT_OUT {
            self.postponed.remove(0);
        }
        self.postponed.push((message, Instant::now() + pause));
    }

    /// Forgets what is not left out any more.
    pub fn forget_due(&mut self) {
        let now = Instant::now();
        self.senders.retain(|(_, until, _)| *until > now);
        self.postponed.retain(|(_, until)| *until > now);
    }

    /// When the next of them is due.
    pub fn next_due(&self) -> Option<Instant> {
        let postponed = self.postponed.iter().map(|(_, until)| *until);
        self.senders.iter().map(|(_, until, _)| *until).chain(postponed).min()
    }

    /// What the messages wait for.
    pub fn waits(&self) -> Waits {
        Waits {
            peer: self.peer.clone(),
            senders: self.senders.iter().map(|(sender, _, pause)| (sender.clone(), pause.clone())).collect(),
            postponed: self.postponed.iter().map(|(message, _)| message.clone()).collect(),
        }
    }

    /// The senders that are left out.
    pub fn sender_names(&self) -> Vec<String> {
        self.senders.iter().map(|(sender, ..)| sender.clone()).collect()
    }

    /// The messages that are left out by themselves.
    pub fn messages(&self) -> impl Iterator<Item = &String> {
        self.failed.iter().chain(self.postponed.iter().map(|(message, _)| message))
    }

    /// Whether none is left out.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.senders.is_empty() && self.postponed.is_empty()
    }
}
