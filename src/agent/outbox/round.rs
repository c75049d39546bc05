//! A round of a peer's task: messages are tried, several at once, and more are read while these are under way. The round ends
//! when one of them is not sent, when others are requested, or when none is left.
//!
//! How many are under way at once is the peer's window. It grows while the peer's server has room, so that a distant server
//! gets messages as fast as a near one. It shrinks to [`OutboxOptions::concurrent_per_peer`](super::OutboxOptions) when messages
//! wait for their turn at the server, since others have messages for it too, or when our token is what they wait for. Messages
//! of one thread are sent one after the other: one that was not sent is passed by those behind it only if its peer has refused it.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{attempt::Attempt, left_out::LeftOut, state::Outbox, unrecorded::Unrecorded, wakeups::TaskSignals};
use crate::agent::store::{StoreError, types::OutboxEntry};

/// The most messages of a peer that are read at once. How large they are is known afterwards.
pub(super) const READ_AHEAD: usize = 16;
/// The largest of small messages, in bytes.
const SMALL: usize = 64 * 1024;
/// The most messages that are read and wait for others of their threads, if the last ones were small.
const MAX_QUEUED: usize = 100;

/// How many messages of a peer may be under way at once.
pub(super) struct PeerWindow {
    size: usize,
    smallest: usize,
    largest: usize,
}

impl PeerWindow {
    pub fn new(smallest: usize, largest: usize) -> Self {
        let smallest = smallest.max(1);
        Self { size: smallest, smallest, largest: largest.max(smallest) }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// A message was sent. `had_room` is that of [`Attempt::Sent`]. `was_full`: other messages of the peer waited for it.
    fn sent(&mut self, had_room: bool, was_full: bool) {
        if !had_room {
            self.size = (self.size - 1).max(self.smallest);
        } else if was_full {
            self.size = (self.size + 1).min(self.largest);
        }
    }

    /// The peer is unreachable.
    pub fn close(&mut self) {
        self.size = self.smallest;
    }
}

/// Messages that were read.
#[derive(Default)]
pub(super) struct Batch {
    pub entries: Vec<OutboxEntry>,
    /// Whether the store has no others.
    pub is_rest: bool,
    /// Whether somebody asked for these messages to be tried now: all of them are.
    pub is_requested: bool,
}

/// What ended.
enum Step {
    Attempt(Box<(OutboxEntry, Attempt)>),
    Read(Result<Batch, StoreError>),
}

/// A round.
pub(super) struct Round<'a> {
    outbox: &'a Arc<Outbox>,
    peer: &'a str,
    /// The failures in a row if an attempt fails. After a failure, one message is tried.
    failures: u32,
    signals: &'a TaskSignals,
    shutdown: &'a CancellationToken,
    /// When a message is due that was left out. No more are read then, so that the next round tries it.
    until: Option<Instant>,
    running: FuturesUnordered<BoxFuture<'a, Step>>,
    /// The ids and threads of the messages under way.
    under_way: Vec<(String, String)>,
    is_reading: bool,
    /// The messages that are read and not begun.
    queue: VecDeque<OutboxEntry>,
    /// Whether the store has no other messages.
    is_rest: bool,
    /// Whether requested messages are to be begun, whatever their threads.
    is_requested: bool,
    /// Whether the first messages were begun. Requests that came meanwhile do not prevent that.
    has_begun: bool,
    /// Whether the task was woken meanwhile.
    was_woken: bool,
    /// Whether no other is begun, such as after one that was not sent.
    is_over: bool,
    /// Whether the last messages that were read were small.
    are_small: bool,
}

impl<'a> Round<'a> {
    /// A round that begins with these messages.
    pub fn new(
        outbox: &'a Arc<Outbox>,
        (peer, signals, shutdown): (&'a str, &'a TaskSignals, &'a CancellationToken),
        failures: u32,
        until: Option<Instant>,
        batch: Batch,
    ) -> Self {
        let mut round = Self {
            outbox,
            peer,
            failures,
            signals,
            shutdown,
            until,
            running: FuturesUnordered::new(),
            under_way: Vec::new(),
            is_reading: false,
            queue: VecDeque::new(),
            is_rest: batch.is_rest,
            is_requested: batch.is_requested,
            has_begun: false,
            was_woken: false,
            is_over: false,
            are_small: true,
        };
        round.add(batch.entries);
        round
    }

    /// Begins no other message: some that were not read go before those that were.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// Whether the task was woken during the round. A pause that follows must notice it.
    pub fn was_woken(&self) -> bool {
        self.was_woken
    }

    /// Whether nothing is left to do in the store, unless the task is woken.
    pub fn is_complete(&self) -> bool {
        self.is_rest && self.queue.is_empty()
    }

    /// Returns the next message whose attempt has ended, or `None` at the end of the round.
    pub async fn next(
        &mut self,
        window: &mut PeerWindow,
        left_out: &LeftOut,
        unrecorded: &mut Unrecorded,
    ) -> Option<(OutboxEntry, Attempt)> {
        loop {
            let is_behind = unrecorded.len() > most_unrecorded(window);
            if !is_behind {
                self.begin(window, left_out);
                if self.wants_more(window, left_out) {
                    self.read(left_out, unrecorded);
                }
            }
            if self.running.is_empty() && (!is_behind || self.ends()) {
                return None;
            }
            tokio::select! {
                Some(step) = self.running.next() => match step {
                    Step::Attempt(ended) => {
                        let (entry, attempt) = *ended;
                        let was_full = self.under_way.len() >= window.size();
                        self.under_way.retain(|(id, _)| *id != entry.id);
                        match attempt {
                            Attempt::Sent { had_room, .. } => window.sent(had_room, was_full),
                            Attempt::Concluded => {}
                            _ => self.is_over = true,
                        }
                        return Some((entry, attempt));
                    }
                    Step::Read(Ok(batch)) => {
                        (self.is_reading, self.is_rest) = (false, batch.is_rest);
                        self.add(batch.entries);
                    }
                    // The next round reads again. If that fails too, a pause follows.
                    Step::Read(Err(error)) => {
                        tracing::warn!(%error, "outbox not read");
                        (self.is_reading, self.is_over) = (false, true);
                    }
                },
                () = unrecorded.shrink_to(most_unrecorded(window)), if is_behind => {}
                () = self.signals.wakeup.notified(), if self.is_rest => {
                    (self.is_rest, self.was_woken) = (false, true);
                }
            }
        }
    }

    fn add(&mut self, batch: Vec<OutboxEntry>) {
        let is_small = |entry: &OutboxEntry| entry.sealed.as_ref().is_none_or(|sealed| sealed.len() <= SMALL);
        self.are_small = batch.iter().all(is_small);
        self.queue.extend(batch);
    }

    /// Begins messages until the window is full. A message waits while another one of its thread is under way, or is left out and
    /// goes first.
    fn begin(&mut self, window: &PeerWindow, left_out: &LeftOut) {
        while self.under_way.len() < self.most(window) && !self.ends() {
            let at = self.queue.iter().position(|entry| self.is_requested || self.is_free(entry, left_out));
            let Some(entry) = at.and_then(|at| self.queue.remove(at)) else { break };
            self.under_way.push((entry.id.clone(), entry.thread.clone()));
            let (outbox, failures, shutdown) = (self.outbox, self.failures, self.shutdown);
            let attempt = async move {
                let attempt = outbox.attempt(&entry, failures, shutdown).await;
                Step::Attempt(Box::new((entry, attempt)))
            };
            self.running.push(attempt.boxed());
        }
        (self.has_begun, self.is_requested) = (true, false);
    }

    /// Whether no message of the same thread is under way or goes first.
    fn is_free(&self, entry: &OutboxEntry, left_out: &LeftOut) -> bool {
        !left_out.is_behind(entry) && self.under_way.iter().all(|(_, thread)| *thread != entry.thread)
    }

    /// Whether no other message is begun.
    fn ends(&self) -> bool {
        self.shutdown.is_cancelled() || self.has_begun && (self.is_over || self.signals.has_requests())
    }

    /// How many messages may be under way: large ones would fill the memory.
    fn most(&self, window: &PeerWindow) -> usize {
        if self.are_small { window.size() } else { window.smallest }
    }

    /// Whether more messages should be read: the window is not full, and few of those that were read may be begun.
    fn wants_more(&self, window: &PeerWindow, left_out: &LeftOut) -> bool {
        let is_due = self.until.is_some_and(|until| until <= Instant::now());
        let may_read = self.failures == 1 && !self.is_rest && !self.is_reading && !self.ends() && !is_due;
        let most_queued = if self.are_small { MAX_QUEUED } else { READ_AHEAD };
        let is_needed = || self.queue.iter().filter(|entry| self.is_free(entry, left_out)).count() < READ_AHEAD / 4;
        may_read && self.under_way.len() < self.most(window) && self.queue.len() < most_queued && is_needed()
    }

    fn read(&mut self, left_out: &LeftOut, unrecorded: &mut Unrecorded) {
        let here = self.under_way.iter().map(|(id, _)| id).chain(self.queue.iter().map(|entry| &entry.id));
        let except: Vec<String> = here.chain(left_out.messages()).chain(unrecorded.ids()).cloned().collect();
        let (outbox, peer, senders) = (self.outbox, self.peer, left_out.sender_names());
        self.is_reading = true;
        let read = async move { Step::Read(outbox.read_waiting(peer, &senders, &except, READ_AHEAD).await) };
        self.running.push(read.boxed());
    }
}

/// How many messages may be sent and not yet recorded as sent before no other is begun. With those under way, a receiver gets
/// twice as many again, at most, if the agent ends before.
pub(super) fn most_unrecorded(window: &PeerWindow) -> usize {
    window.size().max(READ_AHEAD)
}
