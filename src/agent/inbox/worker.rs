//! The workers: from the queue and the store to opened messages.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use tracing::Instrument;

use super::{Inbox, Job, verdict};
use crate::{
    agent::{
        SPANS,
        clock::now,
        metrics::UNOPENED,
        protocol::{
            connections::CONNECTION,
            invitations::{INVITATION, Issued},
        },
        store::{Commit, Envelope, Millis},
        told_to_end,
    },
    didcomm::{Message, UnpackOptions},
};

/// A message that was opened and asks for replies on the connection that it came on.
#[derive(Debug)]
pub struct Fate {
    /// Who sent it, proved.
    pub sender: String,
    /// What may go back.
    pub return_route: ReturnRoute,
    /// To be rung when the way back is open: before that it is not handled.
    pub go: oneshot::Sender<()>,
    /// Whether there are replies, once it is handled.
    pub replied: oneshot::Receiver<bool>,
}

/// What may go back on the connection that a message came on (extension `return_route`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnRoute {
    /// Every message for its sender.
    All,
    /// Those of one thread.
    Thread(String),
}

/// The first pause before a message is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the store is looked through for what has waited long enough.
const LOOK: Duration = Duration::from_secs(5);
/// Envelopes that are read from the store at once: each may be of the largest size.
const PAGE: usize = 64;
/// Connections that are looked at to know who is no stranger, at most: a person has not more.
const KNOWN: usize = 10_000;
/// When a token comes back, what waits for it need not wait any longer: all that is due within an hour.
const AHEAD: Millis = 60 * 60 * 1000;

impl Inbox {
    /// Works until `shutdown` says so, and then ends what was begun.
    pub async fn work(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let Some(mut jobs) = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let permits = Arc::new(Semaphore::new(self.parts.options.workers));
        let in_hand: Arc<Mutex<HashSet<i64>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let mut keys = self.parts.ours.secrets().keys();
        let mut look = tokio::time::interval(LOOK);
        let mut ahead = AHEAD;
        loop {
            // Without a key that is ready nothing is begun; what comes meanwhile waits in the store.
            let ready = self.is_ready();
            tokio::select! {
                biased;
                () = told_to_end(&mut shutdown) => break,
                changed = keys.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    keys.borrow_and_update();
                    self.parts.ours.refresh();
                    ahead = AHEAD;
                    self.more();
                }
                () = self.parts.books.unlocked(), if !self.parts.books.is_unlocked() => self.more(),
                job = next(&mut jobs, &permits), if ready => {
                    let Some((job, permit)) = job else { break };
                    self.queued.fetch_sub(job.envelope.packed.len(), Ordering::AcqRel);
                    if !lock(&in_hand).insert(job.envelope.id) {
                        continue;
                    }
                    let (inbox, in_hand) = (self.clone(), in_hand.clone());
                    tasks.spawn(async move {
                        let id = job.envelope.id;
                        let span = tracing::info_span!(target: SPANS, "handle", envelope = id, tries = job.envelope.tries);
                        inbox.open(job).instrument(span).await;
                        lock(&in_hand).remove(&id);
                        drop(permit);
                    });
                }
                () = self.bell.notified(), if ready => {}
                _ = look.tick() => self.backlog.store(true, Ordering::Release),
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a worker of the inbox ended by a fault of this program");
                    }
                }
            }
            if ready && self.queue.capacity() == self.queue.max_capacity() && self.backlog.swap(false, Ordering::AcqRel)
            {
                self.refill(&in_hand, std::mem::take(&mut ahead)).await;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Brings what waits in the store into the queue.
    async fn refill(&self, in_hand: &Mutex<HashSet<i64>>, ahead: Millis) {
        let except: Vec<i64> = lock(in_hand).iter().copied().collect();
        match self.parts.books.store().waiting(now() + ahead, &except, PAGE).await {
            Ok(envelopes) => {
                if envelopes.len() == PAGE {
                    self.backlog.store(true, Ordering::Release);
                }
                for envelope in envelopes {
                    if !self.enqueue(Job { envelope, fate: None }) {
                        self.backlog.store(true, Ordering::Release);
                        break;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "what waits in the store cannot be read"),
        }
    }

    async fn open(&self, job: Job) {
        let Job { envelope, fate } = job;
        let me = self.parts.ours.identities();
        let options = self.unpack_options().await;
        let text = match std::str::from_utf8(&envelope.packed) {
            Ok(text) => text,
            Err(_) => return self.let_go(&envelope, UNOPENED, "it is not UTF-8").await,
        };
        match Message::unpack(text, &self.parts.resolver, &me, &options).await {
            Ok((message, provenance)) => self.handle(&envelope, message, provenance, fate).await,
            Err(error) => {
                let age = now().saturating_sub(envelope.received);
                match verdict::of(&error) {
                    verdict::Verdict::AwaitsToken => self.postpone(&envelope, UNOPENED, &error.to_string()).await,
                    verdict::Verdict::AwaitsSender if age < verdict::PATIENCE_WITH_SENDERS => {
                        self.postpone(&envelope, UNOPENED, &error.to_string()).await;
                    }
                    _ => self.let_go(&envelope, UNOPENED, &error.to_string()).await,
                }
            }
        }
    }

    /// If a key asks a person at all, it does so only for those with whom there is a connection; while an invitation of ours is
    /// open, for everyone: who accepts it is not known yet.
    async fn unpack_options(&self) -> UnpackOptions {
        let mut options = UnpackOptions { limits: self.parts.options.limits, ..UnpackOptions::default() };
        let held = self.parts.ours.secrets().keys().borrow().clone();
        if self.parts.options.prompt_strangers || !held.iter().any(|held| held.asks_pin || held.asks_touch) {
            return options;
        }
        let invited = self.parts.books.list::<Issued>(INVITATION, "", KNOWN).await.unwrap_or_default();
        if invited.iter().any(|(_, issued)| issued.is_open(now())) {
            return options;
        }
        let known = self.parts.books.store().records(CONNECTION, "", KNOWN).await.unwrap_or_default();
        // A connection's key is our DID and theirs.
        let theirs = known.iter().filter_map(|record| Some(record.key.split_once(' ')?.1.to_owned()));
        options.prompt_for = Some(theirs.collect());
        options
    }

    /// Has a message of this type, if that is known, tried again, the later the more often it was.
    pub(super) async fn postpone(&self, envelope: &Envelope, kind: &str, why: &str) {
        self.parts.metrics.handled(kind, "later");
        tracing::info!(envelope = envelope.id, tries = envelope.tries + 1, why, "a message waits");
        let pause = FIRST_PAUSE.saturating_mul(1 << envelope.tries.min(10)).min(LONGEST_PAUSE);
        let until = now() + Millis::try_from(pause.as_millis()).unwrap_or(0);
        if let Err(error) = self.parts.books.store().postpone(envelope.id, until, why).await {
            // It stays as it was, and is found when the store is looked through.
            tracing::warn!(envelope = envelope.id, %error, "the store");
        }
    }

    /// It will never be handled.
    pub(super) async fn let_go(&self, envelope: &Envelope, kind: &str, why: &str) {
        self.parts.metrics.handled(kind, "refused");
        tracing::warn!(envelope = envelope.id, why, "a message is refused");
        let commit = Commit { envelope: Some(envelope.id), ..Commit::default() };
        if let Err(error) = self.parts.books.store().commit(commit).await {
            tracing::warn!(envelope = envelope.id, %error, "the store");
        }
    }
}

async fn next(jobs: &mut mpsc::Receiver<Job>, permits: &Arc<Semaphore>) -> Option<(Job, OwnedSemaphorePermit)> {
    // The permit first: a job that was taken out must not be dropped when another branch is quicker.
    let permit = permits.clone().acquire_owned().await.ok()?;
    jobs.recv().await.map(|job| (job, permit))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
