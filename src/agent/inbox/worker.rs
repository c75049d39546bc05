//! The workers, which take envelopes from the queue and the store, and open them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    failure::{SENDER_RESOLUTION_TIMEOUT, UnpackFailure, classify},
    state::{Inbox, Job},
};
use crate::{
    agent::{
        clock::{Millis, now},
        metrics::UNOPENED,
        protocol::{connections::Connection, issued_invitation::IssuedInvitation},
        spans::SPAN_TARGET,
    },
    didcomm::{Message, UnpackOptions},
};

/// How often the store is searched for envelopes that are due.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);
/// How many envelopes are read from the store at once. The number is small, since each envelope may have the largest
/// allowed size.
const PAGE_SIZE: usize = 64;
/// How many connections are read to tell known senders from strangers. An agent whose keys prompt a person is expected
/// to have fewer.
const MAX_KNOWN: usize = 10_000;
/// When a token returns, the first page of the envelopes that are due within this time is tried at once. The others
/// follow when they are due.
const LOOKAHEAD: Millis = 60 * 60 * 1000;

impl Inbox {
    /// Opens envelopes until `shutdown` is cancelled, and then completes the running tasks.
    pub async fn work(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(mut jobs) = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let permits = Arc::new(Semaphore::new(self.parts.options.workers));
        let in_progress: Arc<Mutex<HashSet<i64>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let mut keys = self.parts.own_dids.secrets().keys();
        let mut search = tokio::time::interval(SEARCH_INTERVAL);
        let mut lookahead = LOOKAHEAD;
        loop {
            // Without a ready key no message is opened. Envelopes wait in the store.
            let ready = self.can_open_messages();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = keys.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    keys.borrow_and_update();
                    self.parts.own_dids.refresh();
                    lookahead = LOOKAHEAD;
                    self.note_backlog();
                }
                () = self.parts.store.unlocked(), if !self.parts.store.is_unlocked() => self.note_backlog(),
                job = next(&mut jobs, &permits), if ready => {
                    let Some((job, permit)) = job else { break };
                    self.queued_bytes.fetch_sub(job.envelope.packed.len(), Ordering::AcqRel);
                    if !lock(&in_progress).insert(job.envelope.id) {
                        continue;
                    }
                    let (inbox, in_progress) = (self.clone(), in_progress.clone());
                    tasks.spawn(async move {
                        let id = job.envelope.id;
                        let span = tracing::info_span!(target: SPAN_TARGET, "handle", envelope = id, tries = job.envelope.tries);
                        inbox.open(job).instrument(span).await;
                        lock(&in_progress).remove(&id);
                        drop(permit);
                    });
                }
                () = self.wakeup.notified(), if ready => {}
                _ = search.tick() => self.has_backlog.store(true, Ordering::Release),
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "inbox worker panicked");
                    }
                }
            }
            if ready && self.is_queue_empty() && self.has_backlog.swap(false, Ordering::AcqRel) {
                self.refill(&in_progress, std::mem::take(&mut lookahead)).await;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Reads pending envelopes from the store into the queue.
    async fn refill(&self, in_progress: &Mutex<HashSet<i64>>, lookahead: Millis) {
        let except: Vec<i64> = lock(in_progress).iter().copied().collect();
        match self.parts.store.inner().pending_envelopes(now() + lookahead, &except, PAGE_SIZE).await {
            Ok(envelopes) => {
                if envelopes.len() == PAGE_SIZE {
                    self.has_backlog.store(true, Ordering::Release);
                }
                for envelope in envelopes {
                    if !self.enqueue(Job { envelope, return_route: None }) {
                        self.has_backlog.store(true, Ordering::Release);
                        break;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "pending envelopes not read"),
        }
    }

    async fn open(&self, job: Job) {
        let Job { envelope, return_route } = job;
        let identities = self.parts.own_dids.identities();
        let options = self.unpack_options().await;
        let text = match std::str::from_utf8(&envelope.packed) {
            Ok(text) => text,
            Err(_) => return self.refuse(&envelope, UNOPENED, "the envelope is not UTF-8").await,
        };
        match Message::unpack(text, &self.parts.resolver, &identities, &options).await {
            Ok((message, provenance)) => self.handle(&envelope, message, provenance, return_route).await,
            Err(error) => {
                let age = now().saturating_sub(envelope.received);
                let reason = error.to_string();
                match classify(&error) {
                    UnpackFailure::RetryLater => self.postpone(&envelope, UNOPENED, &reason).await,
                    UnpackFailure::SenderUnresolved if age < SENDER_RESOLUTION_TIMEOUT => {
                        self.postpone(&envelope, UNOPENED, &reason).await;
                    }
                    _ => self.refuse(&envelope, UNOPENED, &reason).await,
                }
            }
        }
    }

    /// Returns the options for unpacking, which say whose messages may prompt a person for a PIN or a touch: only
    /// messages of senders with a connection. While an invitation is open, messages of all senders may, since the peer
    /// that will accept it is not known yet.
    async fn unpack_options(&self) -> UnpackOptions {
        let mut options = UnpackOptions { limits: self.parts.options.limits, ..UnpackOptions::default() };
        let held = self.parts.own_dids.secrets().keys().borrow().clone();
        if self.parts.options.prompt_strangers || !held.iter().any(|held| held.asks_pin || held.asks_touch) {
            return options;
        }
        let invitations = self.parts.store.list::<IssuedInvitation>("", MAX_KNOWN).await.unwrap_or_default();
        if invitations.iter().any(|(_, issued)| issued.is_open(now())) {
            return options;
        }
        let keys = self.parts.store.keys::<Connection>(MAX_KNOWN).await.unwrap_or_default();
        let peers = keys.iter().filter_map(|key| Connection::peer_did_of_key(key)).map(str::to_owned);
        options.prompt_for = Some(peers.collect());
        options
    }
}

/// Returns the next envelope with a permit to open it. `None` once the queue is closed.
async fn next(jobs: &mut mpsc::Receiver<Job>, permits: &Arc<Semaphore>) -> Option<(Job, OwnedSemaphorePermit)> {
    // Wait for the permit first: a job that was taken must not be dropped when another branch of the select wins.
    let permit = permits.clone().acquire_owned().await.ok()?;
    jobs.recv().await.map(|job| (job, permit))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
