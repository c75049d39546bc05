//! The messages of a peer that are left out for a while, and what they wait for.
//!
//! A message that was tried and not sent is left out by itself. The messages behind it in its thread are left out with it, and
//! only their ids are kept, so that they are not read again: also while it is tried again. They are free once it is sent, given
//! up or refused. Older messages of the thread are not behind it: somebody asked for it before its turn, or they were refused.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::waits::{Pause, Waits};
use crate::agent::{clock::Millis, store::types::OutboxEntry};

/// The most messages that are left out because they failed, and because they are postponed. Leaving them out keeps one
/// message from blocking the others.
pub(super) const MAX_LEFT_OUT: usize = 100;
/// The most messages that are left out because they are behind others. Beyond that, the messages after them wait too.
pub(super) const MAX_BEHIND: usize = 1000;

/// The messages of a peer that are left out for a while.
#[derive(Default)]
pub(super) struct LeftOut {
    /// The last pause of the peer, until it gets messages again.
    pub peer: Option<Pause>,
    /// The senders whose token is away, until when they are left out, and the same as it is shown.
    pub senders: Vec<(String, Instant, Pause)>,
    /// The messages that are postponed.
    pub postponed: Vec<Postponed>,
    /// The messages that failed since the peer is unreachable. They are left out until the others were tried.
    failed: Vec<Failed>,
    /// The messages behind others, by thread.
    behind: HashMap<String, Behind>,
}

/// A message that is postponed.
pub(super) struct Postponed {
    first: First,
    thread: String,
    until: Instant,
}

/// A message that failed.
struct Failed {
    first: First,
    /// The thread that waits for the message. `None` if the peer has refused the message.
    thread: Option<String>,
}

/// The messages of a thread that are behind another one.
struct Behind {
    /// The message that goes first. It may be tried now.
    first: First,
    ids: Vec<String>,
}

/// A message that others of its thread wait for.
#[derive(Clone)]
struct First {
    id: String,
    created: Millis,
}

impl LeftOut {
    /// Leaves out the messages of a sender whose token is away.
    pub fn leave_out_sender(&mut self, sender: String, pause: Duration, problem: String) {
        self.senders.retain(|(other, ..)| *other != sender);
        self.senders.push((sender, Instant::now() + pause, Pause::new(pause, problem)));
    }

    /// Leaves out one message, and those behind it in its thread.
    pub fn postpone(&mut self, entry: OutboxEntry, pause: Duration) {
        self.postponed.retain(|other| other.first.id != entry.id);
        // Beyond the limit, the message that has waited longest is tried early.
        if self.postponed.len() >= MAX_LEFT_OUT {
            self.postponed.remove(0);
        }
        let first = First { id: entry.id, created: entry.created };
        self.postponed.push(Postponed { first, thread: entry.thread, until: Instant::now() + pause });
    }

    /// Leaves out a message that failed. One that the peer has refused is passed by those behind it in its thread.
    pub fn fail(&mut self, entry: OutboxEntry, is_refused: bool) {
        self.failed.retain(|other| other.first.id != entry.id);
        if is_refused {
            self.free_behind(&entry);
        }
        let thread = (!is_refused).then_some(entry.thread);
        self.failed.push(Failed { first: First { id: entry.id, created: entry.created }, thread });
        if self.failed.len() > MAX_LEFT_OUT {
            self.clear_failed();
        }
    }

    /// A message was sent or given up. Returns whether others were left out because they are behind it: they go first now.
    pub fn conclude(&mut self, entry: &OutboxEntry) -> bool {
        self.postponed.retain(|other| other.first.id != entry.id);
        self.failed.retain(|other| other.first.id != entry.id);
        self.free_behind(entry)
    }

    /// Forgets a message that was cancelled. Those behind it are free.
    pub fn forget(&mut self, id: &str) {
        self.postponed.retain(|other| other.first.id != id);
        self.failed.retain(|other| other.first.id != id);
        self.behind.retain(|_, behind| behind.first.id != id);
    }

    fn free_behind(&mut self, first: &OutboxEntry) -> bool {
        let is_first = self.behind.get(&first.thread).is_some_and(|behind| behind.first.id == first.id);
        is_first && self.behind.remove(&first.thread).is_some()
    }

    /// The messages that failed are left out no more. Those behind them are, until these are tried again; but not if one
    /// that goes first has not failed since the last call, since it may be gone. Returns whether any message is free now.
    pub fn clear_failed(&mut self) -> bool {
        let any = !self.failed.is_empty() || !self.behind.is_empty();
        let count = self.behind.len();
        let failed = std::mem::take(&mut self.failed);
        let postponed = self.postponed.iter().map(|other| &other.thread);
        let held: HashSet<&String> = failed.iter().filter_map(|other| other.thread.as_ref()).chain(postponed).collect();
        self.behind.retain(|thread, _| held.contains(thread));
        any && (!failed.is_empty() || self.behind.len() < count)
    }

    /// Whether a message must not be sent before another one of its thread.
    pub fn is_behind(&self, entry: &OutboxEntry) -> bool {
        self.first_of(&entry.thread).is_some_and(|first| first.id != entry.id && first.created <= entry.created)
    }

    /// The message of a thread that goes first, if others are left out for it: the oldest of them.
    fn first_of(&self, thread: &str) -> Option<&First> {
        let behind = self.behind.get(thread).map(|behind| &behind.first);
        let failed = self.failed.iter().filter(|other| other.thread.as_deref() == Some(thread));
        let postponed = self.postponed.iter().filter(|other| other.thread == thread);
        let waiting = failed.map(|other| &other.first).chain(postponed.map(|other| &other.first));
        behind.into_iter().chain(waiting).min_by_key(|first| first.created)
    }

    /// Takes away those of these messages for which [`LeftOut::is_behind`] holds. Returns whether any of them is left out from
    /// now on. If none is, the limit is reached, and the next read would return them again.
    pub fn leave_out_behind(&mut self, entries: &mut Vec<OutboxEntry>) -> bool {
        let behind: Vec<OutboxEntry> = entries.extract_if(.., |entry| self.is_behind(entry)).collect();
        let mut count: usize = self.behind.values().map(|behind| behind.ids.len()).sum();
        let mut any = false;
        for OutboxEntry { id, thread, .. } in behind {
            let Some(first) = self.first_of(&thread).filter(|_| count < MAX_BEHIND).cloned() else { break };
            let behind = self.behind.entry(thread).or_insert_with(|| Behind { first: first.clone(), ids: Vec::new() });
            behind.first = first;
            behind.ids.push(id);
            (count, any) = (count + 1, true);
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
            postponed: self.postponed.iter().map(|it| it.first.id.clone()).collect(),
        }
    }

    /// The senders that are left out.
    pub fn sender_names(&self) -> Vec<String> {
        self.senders.iter().map(|(sender, ..)| sender.clone()).collect()
    }

    /// The messages that are left out by themselves, and those behind them.
    pub fn messages(&self) -> impl Iterator<Item = &String> {
        let first = self.failed.iter().map(|failed| &failed.first.id);
        let first = first.chain(self.postponed.iter().map(|postponed| &postponed.first.id));
        first.chain(self.behind.values().flat_map(|behind| &behind.ids))
    }

    /// Whether none is left out.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty() && self.messages().next().is_none()
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
            // The number in the id is the place in the thread.
            created: id.trim_start_matches(char::is_alphabetic).parse().unwrap_or(Millis::MAX),
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
        // The oldest is tried again. Those behind it need not be read meanwhile.
        assert!(left_out.clear_failed());
        assert_eq!(left_out.messages().collect::<Vec<_>>(), ["a2"]);
        assert_eq!(rest(&mut left_out, &[("a1", "a"), ("a3", "a")]), ["a1"]);
        assert!(left_out.conclude(&entry("a1", "a")));
        assert!(left_out.is_empty());
        assert_eq!(rest(&mut left_out, &[("a2", "a"), ("a3", "a")]), ["a2", "a3"]);
    }

    #[test]
    fn a_message_that_is_refused_in_the_end_is_passed() {
        let mut left_out = LeftOut::default();
        left_out.fail(entry("a1", "a"), false);
        assert!(rest(&mut left_out, &[("a2", "a")]).is_empty());
        left_out.clear_failed();
        left_out.fail(entry("a1", "a"), true);
        assert_eq!(left_out.messages().collect::<Vec<_>>(), ["a1"]);
        assert_eq!(rest(&mut left_out, &[("a2", "a")]), ["a2"]);
    }

    /// Somebody asked for a message before its turn, and our token refuses it. Older ones do not wait for it.
    #[test]
    fn an_older_message_of_the_thread_is_not_behind() {
        let mut left_out = LeftOut::default();
        left_out.postpone(entry("a5", "a"), Duration::from_secs(100));
        let all: Vec<_> = ["a1", "a2", "a4", "a6"].map(|id| (id, "a")).to_vec();
        assert_eq!(rest(&mut left_out, &all), ["a1", "a2", "a4"]);
        // The oldest fails, and the others wait for it.
        left_out.fail(entry("a1", "a"), false);
        assert!(rest(&mut left_out, &all[1..3]).is_empty());
        left_out.clear_failed();
        assert_eq!(rest(&mut left_out, &[("a1", "a"), ("a3", "a")]), ["a1"]);
        // Once it is sent, they go before the message that waits by itself.
        assert!(left_out.conclude(&entry("a1", "a")));
        assert_eq!(rest(&mut left_out, &all[1..]), ["a2", "a4"]);
        assert_eq!(left_out.messages().collect::<Vec<_>>(), ["a5", "a6"]);
    }

    /// The oldest message is cancelled while it waits, so it is never tried again.
    #[test]
    fn messages_behind_one_that_is_gone_are_free_again() {
        let mut left_out = LeftOut::default();
        left_out.fail(entry("a1", "a"), false);
        assert!(rest(&mut left_out, &[("a2", "a")]).is_empty());
        assert!(left_out.clear_failed() && left_out.clear_failed());
        assert!(left_out.is_empty() && !left_out.clear_failed());
    }

    #[test]
    fn a_thread_waits_as_long_as_its_postponed_message() {
        let mut left_out = LeftOut::default();
        left_out.postpone(entry("a1", "a"), Duration::from_secs(100));
        assert_eq!(rest(&mut left_out, &[("a2", "a"), ("b1", "b")]), ["b1"]);
        assert_eq!(left_out.waits().postponed, ["a1"]);
        assert_eq!(left_out.messages().count(), 2);
        assert!(!left_out.clear_failed(), "nothing has failed");
        left_out.postponed.iter_mut().for_each(|postponed| postponed.until = Instant::now());
        left_out.forget_due();
        assert_eq!(left_out.messages().collect::<Vec<_>>(), ["a2"]);
        assert!(left_out.conclude(&entry("a1", "a")) && left_out.is_empty());
    }

    #[test]
    fn what_is_left_out_is_bounded() {
        let mut left_out = LeftOut::default();
        left_out.postpone(entry("a0", "a"), Duration::from_secs(100));
        for number in 1..=MAX_BEHIND {
            assert!(left_out.leave_out_behind(&mut vec![entry(&format!("a{number}"), "a")]));
        }
        // The limit is reached. A message of another thread that is read with them is still tried, and the first one waits.
        let mut entries = vec![entry("one more", "a"), entry("b1", "b")];
        assert!(!left_out.leave_out_behind(&mut entries));
        assert_eq!(entries.len(), 1);
        assert_eq!((left_out.messages().count(), left_out.waits().postponed), (MAX_BEHIND + 1, vec!["a0".to_owned()]));
        // So are the messages that go first.
        for number in 0..MAX_LEFT_OUT {
            left_out.postpone(entry(&format!("c{number}"), &format!("c{number}")), Duration::from_secs(100));
        }
        assert_eq!(left_out.waits().postponed.len(), MAX_LEFT_OUT);
        assert_eq!(rest(&mut left_out, &[("a0", "a"), ("one more", "a")]), ["a0"], "the oldest is tried early");
        for number in 0..=MAX_LEFT_OUT {
            left_out.fail(entry(&format!("d{number}"), "d"), false);
        }
        assert!(left_out.failed.is_empty());
    }
}
