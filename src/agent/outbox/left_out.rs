//! The messages of a peer that are left out for a while, and what they wait for.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::waits::{Pause, Waits};
use crate::agent::store::types::OutboxEntry;

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
    /// The messages that are postponed, with those behind them in their threads.
    pub postponed: Vec<Postponed>,
    /// The messages that failed since the peer is unreachable. They are left out until the others were tried.
    failed: Vec<String>,
    /// The threads of those that the peer has not refused. Those behind them in these threads are left out with them.
    threads: HashSet<String>,
}

/// A message that is postponed.
pub(super) struct Postponed {
    id: String,
    thread: String,
    until: Instant,
    /// Whether it waits for another one of its thread, and not by itself.
    is_behind: bool,
}

impl LeftOut {
    /// Leaves out the messages of a sender whose token is away.
    pub fn leave_out_sender(&mut self, sender: String, pause: Duration, problem: String) {
        self.senders.retain(|(other, ..)| *other != sender);
        self.senders.push((sender, Instant::now() + pause, Pause::new(pause, problem)));
    }

    /// Leaves out one message, and those behind it in its thread.
    pub fn postpone(&mut self, entry: OutboxEntry, pause: Duration) {
        self.add_postponed(Postponed {
            id: entry.id,
            thread: entry.thread,
            until: Instant::now() + pause,
            is_behind: false,
        });
    }

    fn add_postponed(&mut self, postponed: Postponed) {
        // Beyond the limit, the message that has waited longest is tried early.
        if self.postponed.len() >= MAX_LEFT_OUT {
            self.postponed.remove(0);
        }
        self.postponed.push(postponed);
    }

    /// Leaves out a message that failed. One that the peer has refused is passed by those behind it in its thread.
    pub fn fail(&mut self, entry: OutboxEntry, is_refused: bool) {
        if !is_refused {
            self.threads.insert(entry.thread);
        }
        self.add_failed(entry.id);
    }

    fn add_failed(&mut self, id: String) {
        self.failed.push(id);
        if self.failed.len() > MAX_LEFT_OUT {
            self.clear_failed();
        }
    }

    /// Whether messages failed and are left out.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The messages that failed are left out no more.
    pub fn clear_failed(&mut self) {
        self.failed.clear();
        self.threads.clear();
    }

    /// Whether a message must not be sent before another one of its thread, which is left out.
    pub fn is_behind(&self, entry: &OutboxEntry) -> bool {
        self.threads.contains(&entry.thread) || self.postponed.iter().any(|other| other.thread == entry.thread)
    }

    /// Leaves out those of these messages for which [`LeftOut::is_behind`] holds. Returns whether there were any.
    pub fn leave_out_behind(&mut self, entries: &mut Vec<OutboxEntry>) -> bool {
        let behind: Vec<OutboxEntry> = entries.extract_if(.., |entry| self.is_behind(entry)).collect();
        let any = !behind.is_empty();
        for OutboxEntry { id, thread, .. } in behind {
            match self.postponed.iter().rfind(|other| other.thread == thread).map(|other| other.until) {
                Some(until) => self.add_postponed(Postponed { id, thread, until, is_behind: true }),
                None => self.add_failed(id),
            }
        }
        any
    }

    /// Forgets what is not left out any more.
    pub fn forget_due(&mut self) {
        let now = Instant::now();
        self.senders.retain(|(_, until, _)| *until > now);
        self.postponed.retain(|postponed| postponed.until > now);
    }

    /// When the next of them is due.
    pub fn next_due(&self) -> Option<Instant> {
        let postponed = self.postponed.iter().map(|postponed| postponed.until);
        self.senders.iter().map(|(_, until, _)| *until).chain(postponed).min()
    }

    /// What the messages wait for.
    pub fn waits(&self) -> Waits {
        Waits {
            peer: self.peer.clone(),
            senders: self.senders.iter().map(|(sender, _, pause)| (sender.clone(), pause.clone())).collect(),
            postponed: self.postponed.iter().filter(|it| !it.is_behind).map(|it| it.id.clone()).collect(),
        }
    }

    /// The senders that are left out.
    pub fn sender_names(&self) -> Vec<String> {
        self.senders.iter().map(|(sender, ..)| sender.clone()).collect()
    }

    /// The messages that are left out by themselves.
    pub fn messages(&self) -> impl Iterator<Item = &String> {
        self.failed.iter().chain(self.postponed.iter().map(|postponed| &postponed.id))
    }

    /// Whether none is left out.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.senders.is_empty() && self.postponed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::types::SendState;

    fn entry(id: &str, thread: &str) -> OutboxEntry {
        OutboxEntry {
            id: id.to_owned(),
            message: id.to_owned(),
            thread: thread.to_owned(),
            kind: "kind".to_owned(),
            sender: "did:example:us".to_owned(),
            peer: "did:example:peer".to_owned(),
            created: 1,
            expires: 1000,
            state: SendState::Waiting,
            tries: 0,
            time: 1,
            problem: None,
            to_stranger: false,
            by_application: false,
            sealed: None,
        }
    }

    /// Leaves out what is behind others. Returns the ids of the rest.
    fn rest(left_out: &mut LeftOut, entries: &[(&str, &str)]) -> Vec<String> {
        let mut entries: Vec<_> = entries.iter().map(|(id, thread)| entry(id, thread)).collect();
        left_out.leave_out_behind(&mut entries);
        entries.into_iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn a_thread_waits_for_its_oldest_message_unless_the_peer_has_refused_it() {
        let mut left_out = LeftOut::default();
        left_out.fail(entry("a1", "a"), false);
        left_out.fail(entry("b1", "b"), true);
        assert_eq!(rest(&mut left_out, &[("a2", "a"), ("b2", "b"), ("c1", "c")]), ["b2", "c1"]);
        assert_eq!(left_out.messages().collect::<Vec<_>>(), ["a1", "b1", "a2"]);
        left_out.clear_failed();
        assert!(left_out.is_empty());
        assert_eq!(rest(&mut left_out, &[("a1", "a"), ("a2", "a")]), ["a1", "a2"]);
    }

    #[test]
    fn a_thread_waits_as_long_as_its_postponed_message() {
        let mut left_out = LeftOut::default();
        left_out.postpone(entry("a1", "a"), Duration::from_secs(100));
        assert_eq!(rest(&mut left_out, &[("a2", "a"), ("b1", "b")]), ["b1"]);
        assert!(!left_out.has_failed());
        assert_eq!(left_out.waits().postponed, ["a1"]);
        assert_eq!(left_out.messages().count(), 2);
        left_out.postponed.iter_mut().for_each(|postponed| postponed.until = Instant::now());
        left_out.forget_due();
        assert!(left_out.is_empty());
    }

    #[test]
    fn what_is_left_out_is_bounded() {
        let mut left_out = LeftOut::default();
        left_out.fail(entry("0", "a"), false);
        for number in 1..=MAX_LEFT_OUT {
            left_out.leave_out_behind(&mut vec![entry(&number.to_string(), "a")]);
        }
        assert!(left_out.is_empty(), "the oldest is tried again");
    }
}
