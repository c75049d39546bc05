//! The tasks of the outbox: one for each peer, which sends its messages and pauses while the peer is unreachable.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::Attempt,
    left_out::{LeftOut, MAX_LEFT_OUT},
    round::{Batch, PeerWindow, READ_AHEAD, Round, most_unrecorded},
    state::Outbox,
    unrecorded::Unrecorded,
    waits::Pause,
    wakeups::TaskSignals,
};
use crate::agent::store::{
    StoreError,
    types::{OutboxEntry, SendState},
};

/// How long the task waits after a failure of the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// How long the task waits after a panic.
const PANIC_PAUSE: Duration = Duration::from_secs(5);

impl Outbox {
    /// Sends messages until `shutdown` is cancelled, and then completes the running attempts.
    pub async fn work(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        // Nothing can be packed before a token unlocks the store.
        tokio::select! {
            () = self.parts.store.unlocked() => {}
            () = shutdown.cancelled() => return,
        }
        loop {
            match self.wake_all().await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "outbox not read"),
            }
            tokio::select! {
                () = tokio::time::sleep(STORE_PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
        }
        loop {
            for (peer, signals) in self.parts.wakeups.take_new() {
                tasks.spawn(self.clone().keep_serving(peer, signals, shutdown.clone()));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.parts.wakeups.added() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Wakes the tasks of all peers for which messages wait, here or, if the peer has a return route here, elsewhere.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn wake_all(&self) -> Result<(), StoreError> {
        self.wake_connected();
        let peers = self.parts.store.inner().outbox_peers().await?;
        peers.iter().for_each(|peer| self.parts.wakeups.wake(peer));
        Ok(())
    }

    /// Serves a peer until no message waits for it. A task that panics begins again, since otherwise nothing would be sent
    /// to the peer until a restart.
    async fn keep_serving(self: Arc<Self>, peer: String, signals: Arc<TaskSignals>, shutdown: CancellationToken) {
        let mut unrecorded = Unrecorded::default();
        loop {
            let serving = self.serve_peer(&peer, &signals, &mut unrecorded, &shutdown);
            if AssertUnwindSafe(serving).catch_unwind().await.is_ok() {
                return unrecorded.shrink_to(0).await;
            }
            tracing::error!(peer, "outbox task panicked, and begins again");
            tokio::select! {
                () = tokio::time::sleep(PANIC_PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn serve_peer(
        self: &Arc<Self>,
        peer: &str,
        signals: &TaskSignals,
        unrecorded: &mut Unrecorded,
        shutdown: &CancellationToken,
    ) {
        // How many times in a row the peer was unreachable.
        let mut failures: u32 = 0;
        let mut left_out = LeftOut::default();
        // Whether the store has no other message for the peer, unless the task is woken.
        let mut is_drained = false;
        let options = &self.parts.options;
        let mut window = PeerWindow::new(options.concurrent_per_peer, options.concurrent_per_origin);
        // Whether the messages that were read last are left out now, so that more are read to find others.
        let mut reads_on = false;
        // Why messages wait for a token, as it was logged: once, and not for each message and each attempt.
        let mut logged_wait = None;
        while !shutdown.is_cancelled() {
            left_out.forget_due();
            signals.take_cancelled().iter().for_each(|id| left_out.forget(id));
            signals.show(left_out.waits());
            unrecorded.shrink_to(most_unrecorded(&window)).await;
            // After a failure, one message is tried.
            let limit = match failures {
                _ if std::mem::take(&mut reads_on) => READ_AHEAD,
                0 => window.size().min(READ_AHEAD),
                _ => 1,
            };
            let (is_woken, was_drained) = (signals.take_wakeup(), std::mem::take(&mut is_drained));
            let mut batch = match was_drained && !is_woken {
                true => Batch { is_rest: true, ..Batch::default() },
                false => match self.next_batch(peer, &left_out, unrecorded.ids(), limit, signals).await {
                    Ok(batch) => batch,
                    Err(error) => {
                        tracing::warn!(%error, "outbox not read");
                        self.pause(STORE_PAUSE, peer, &mut left_out, signals, shutdown).await;
                        continue;
                    }
                },
            };
            if !batch.is_requested {
                reads_on = left_out.leave_out_behind(&mut batch.entries) && batch.entries.is_empty();
                if failures > 0 && batch.entries.len() > 1 {
                    batch.entries.truncate(1);
                    batch.is_rest = false;
                }
            }
            if batch.entries.is_empty() && (reads_on || left_out.clear_failed()) {
                continue;
            }
            if batch.entries.is_empty() {
                let next_claim = self.next_claim(peer);
                match left_out.next_due().into_iter().chain(next_claim).min() {
                    Some(due) => self.wait_until(due, &mut left_out, signals, shutdown).await,
                    None if !unrecorded.is_empty() => tokio::select! {
                        () = unrecorded.shrink_to(0) => is_drained = true,
                        () = signals.wakeup.notified() => {}
                    },
                    None if self.parts.wakeups.remove(peer) => return,
                    // The task was woken since it has read. It reads again.
                    None => {}
                }
                continue;
            }
            let (mut any_concluded, mut is_deferred, reads_all) = (false, false, left_out.is_empty());
            let mut unavailable: Option<(Duration, String)> = None;
            let task = (peer, signals, shutdown);
            let mut round = Round::new(self, task, failures.saturating_add(1), left_out.next_due(), batch);
            while let Some((entry, attempt)) = round.next(&mut window, &left_out, unrecorded).await {
                if matches!(attempt, Attempt::Sent { .. } | Attempt::Concluded) && left_out.conclude(&entry) {
                    round.end();
                }
                match attempt {
                    Attempt::Sent { time, .. } => {
                        self.claims.sent(peer);
                        (any_concluded, logged_wait) = (true, None);
                        unrecorded.record(self, entry, time, shutdown);
                    }
                    Attempt::Concluded => (any_concluded, logged_wait) = (true, None),
                    Attempt::Deferred => is_deferred = true,
                    Attempt::TokenAway(pause, problem) => {
                        if logged_wait.as_ref() != Some(&problem) {
                            tracing::info!(id = entry.message, reason = problem, "message waits for a token");
                            logged_wait = Some(problem.clone());
                        }
                        left_out.leave_out_sender(entry.sender, pause, problem);
                    }
                    Attempt::Postponed(pause) => left_out.postpone(entry, pause),
                    Attempt::PeerUnavailable { pause, problem, is_refused } => {
                        if unavailable.as_ref().is_none_or(|(longest, _)| pause > *longest) {
                            unavailable = Some((pause, problem));
                        }
                        left_out.fail(entry, is_refused);
                    }
                }
            }
            let is_complete = round.is_complete();
            if round.was_woken() {
                // A pause ends if the peer has connected meanwhile.
                signals.wakeup.notify_one();
            }
            drop(round);
            match unavailable {
                Some((pause, problem)) => {
                    window.close();
                    failures = failures.saturating_add(1);
                    left_out.peer = Some(Pause::new(pause, problem));
                    self.pause(pause, peer, &mut left_out, signals, shutdown).await;
                }
                None if is_deferred => {
                    self.pause(STORE_PAUSE, peer, &mut left_out, signals, shutdown).await;
                }
                None if any_concluded => {
                    failures = 0;
                    left_out.peer = None;
                    is_drained = is_complete && reads_all && left_out.is_empty();
                    left_out.clear_failed();
                }
                // Messages are tried early.
                None if left_out.postponed.len() >= MAX_LEFT_OUT => {
                    self.pause(STORE_PAUSE, peer, &mut left_out, signals, shutdown).await;
                }
                None => {}
            }
        }
    }

    /// Returns the messages to try next: those that are requested, else the oldest that are not left out.
    async fn next_batch(
        &self,
        peer: &str,
        left_out: &LeftOut,
        unrecorded: &HashSet<String>,
        limit: usize,
        signals: &TaskSignals,
    ) -> Result<Batch, StoreError> {
        let store = self.parts.store.inner();
        let mut requested = Vec::new();
        for id in signals.take_requests(self.parts.options.concurrent_per_peer) {
            let entry = store.outbox_entry(&id).await?;
            let is_waiting = |entry: &OutboxEntry| entry.state == SendState::Waiting && entry.peer == peer;
            requested.extend(entry.filter(|entry| is_waiting(entry) && !unrecorded.contains(&entry.id)));
        }
        for entry in &requested {
            self.allow_attempt(entry).await;
        }
        match requested.is_empty() {
            true => {
                let except: Vec<_> = left_out.messages().chain(unrecorded).cloned().collect();
                self.read_waiting(peer, &left_out.sender_names(), &except, limit).await
            }
            false => Ok(Batch { entries: requested, is_rest: false, is_requested: true }),
        }
    }

    /// Reads the oldest messages that wait for a peer, which may have waited elsewhere.
    pub(super) async fn read_waiting(
        &self,
        peer: &str,
        except_senders: &[String],
        except: &[String],
        limit: usize,
    ) -> Result<Batch, StoreError> {
        self.claim_if_connected(peer).await?;
        let entries = self.parts.store.inner().outbox_entries(peer, except_senders, except, limit).await?;
        let is_rest = entries.len() < limit;
        Ok(Batch { entries, is_rest, is_requested: false })
    }

    /// Ends the pauses of the servers of a message's peer.
    async fn allow_attempt(&self, entry: &OutboxEntry) {
        let Ok(prepared) = self.prepare(entry).await else { return };
        let Ok(routes) = self.routes(&prepared).await else { return };
        for route in &routes.usable {
            self.origins.allow_attempt(&route.service.service_endpoint);
        }
    }

    /// Waits until the pause is over. A wakeup announces a new message, a new return route or a request to try a message;
    /// a new message does not end the pause. A return route may take one message only: then the oldest goes first, although
    /// it failed before.
    async fn pause(
        &self,
        pause: Duration,
        peer: &str,
        left_out: &mut LeftOut,
        signals: &TaskSignals,
        shutdown: &CancellationToken,
    ) {
        let until = Instant::now() + pause;
        signals.show(left_out.waits());
        while !signals.has_requests() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = shutdown.cancelled() => return,
                () = signals.wakeup.notified() => if self.parts.routes.has_any_route(peer) {
                    left_out.clear_failed();
                    return;
                },
            }
        }
    }

    /// Waits until a message that is left out is due, or there is a new message. A change of the keys ends the wait for
    /// tokens.
    async fn wait_until(
        &self,
        due: Instant,
        left_out: &mut LeftOut,
        signals: &TaskSignals,
        shutdown: &CancellationToken,
    ) {
        let mut keys = self.parts.own_dids.secrets().keys();
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = shutdown.cancelled() => {}
            () = signals.wakeup.notified() => {}
            Ok(()) = keys.changed(), if !left_out.senders.is_empty() => left_out.senders.clear(),
        }
    }
}
