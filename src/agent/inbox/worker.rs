//! The workers, which take envelopes from the queue and the store, and open them.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    arrivals::MAX_DIGESTS,
    failure::{UnpackFailure, classify},
    opening::Opening,
    return_route::ReturnRouteRequest,
    sender_resolver::{OpeningMemory, SenderResolver},
    state::{Inbox, Job, lock},
};
use crate::{
    agent::{
        clock::now,
        metrics::UNOPENED,
        protocol::{connections::Connection, issued_invitation::IssuedInvitation},
        spans::SPAN_TARGET,
    },
    did::did_of,
    didcomm::{Error, Message, UnpackOptions},
    jose::JoseError,
};

/// How often the store is searched for envelopes that are due.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);
/// How many envelopes are read from the store at once. The number is small, since each envelope may have the largest
/// allowed size.
const PAGE_SIZE: usize = 64;
/// How many connections are read to tell known senders from strangers. An agent whose keys prompt a person is expected
/// to have fewer.
const MAX_KNOWN: usize = 10_000;

impl Inbox {
    /// Opens envelopes until `shutdown` is cancelled, and then completes the running tasks.
    pub async fn work(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(mut jobs) = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let permits = Arc::new(Semaphore::new(self.parts.options.workers));
        let mut tasks = JoinSet::new();
        let inbox = self.clone();
        tasks.spawn(async move { inbox.read_known().await });
        let mut keys = self.parts.own_dids.secrets().keys();
        // False once nothing reports changes any more: the keys are then what they are.
        let mut may_change = true;
        let mut search = tokio::time::interval(SEARCH_INTERVAL);
        // What each task works on, without its bytes, in case the task panics.
        let mut running: HashMap<Id, Opening> = HashMap::new();
        loop {
            // Without a ready key no message is opened. Envelopes wait in the store.
            let ready = self.can_open_messages();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = keys.changed(), if may_change => {
                    may_change = changed.is_ok();
                    keys.borrow_and_update();
                    self.parts.own_dids.refresh();
                    // A token that is back may open what was postponed.
                    if let Err(error) = self.parts.store.inner().make_due(self.parts.options.max_attempts).await {
                        tracing::warn!(%error, "postponed envelopes not made due");
                    }
                    self.note_backlog();
                }
                () = self.parts.store.unlocked(), if !self.parts.store.is_unlocked() => self.note_backlog(),
                job = next(&mut jobs, &permits), if ready => {
                    let Some((job, permit)) = job else { break };
                    let envelope = &job.opening.envelope;
                    self.queued_bytes.fetch_sub(envelope.packed.len(), Ordering::AcqRel);
                    if envelope.id != 0 && !lock(&self.in_progress).insert(envelope.id) {
                        continue;
                    }
                    let inbox = self.clone();
                    let opening = job.opening.without_bytes();
                    let task = tasks.spawn(async move {
                        let (id, tries) = (job.opening.id(), job.opening.envelope.tries);
                        let span = tracing::info_span!(target: SPAN_TARGET, "handle", envelope = id, tries);
                        let Job { opening, return_route } = job;
                        inbox.open(&opening, return_route).instrument(span).await;
                        inbox.end_opening(&opening).await;
                        drop(permit);
                    });
                    running.insert(task.id(), opening);
                }
                () = self.wakeup.notified(), if ready => {}
                _ = search.tick() => self.has_backlog.store(true, Ordering::Release),
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    let (id, error) = match ended {
                        Ok((id, ())) => (id, None),
                        Err(error) => (error.id(), Some(error)),
                    };
                    let opening = running.remove(&id);
                    if let (Some(error), Some(opening)) = (error, opening) {
                        tracing::error!(%error, envelope = opening.id(), "inbox worker panicked");
                        let inbox = self.clone();
                        tasks.spawn(async move {
                            inbox.conclude_panic(&opening).await;
                            inbox.end_opening(&opening).await;
                        });
                    }
                }
            }
            if ready && self.is_queue_empty() && self.has_backlog.swap(false, Ordering::AcqRel) {
                self.refill().await;
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Reads which peers are known, and the digests of the envelopes that the store knows.
    async fn read_known(&self) {
        match self.parts.store.inner().known_connections(MAX_KNOWN).await {
            Ok(connections) if connections.len() < MAX_KNOWN => self.parts.store.records.complete(&connections),
            Ok(_) => tracing::debug!("very many peers are known: the store is asked whether a sender is new"),
            Err(error) => tracing::warn!(%error, "known peers not read: the store is asked whether a sender is new"),
        }
        match self.parts.store.inner().known_digests(MAX_DIGESTS).await {
            Ok(digests) => self.arrivals.complete(digests),
            Err(error) => tracing::warn!(%error, "digests not read: every envelope is stored before it is opened"),
        }
    }

    /// Reads pending envelopes from the store into the queue.
    async fn refill(&self) {
        let except: Vec<i64> = lock(&self.in_progress).iter().copied().collect();
        match self.parts.store.inner().pending_envelopes(now(), &except, PAGE_SIZE).await {
            Ok(envelopes) => {
                if envelopes.len() == PAGE_SIZE {
                    self.has_backlog.store(true, Ordering::Release);
                }
                for envelope in envelopes {
                    let opening = Opening::stored(envelope);
                    if self.enqueue(Job { opening, return_route: None }).is_err() {
                        self.has_backlog.store(true, Ordering::Release);
                        break;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "pending envelopes not read"),
        }
    }

    async fn open(&self, opening: &Opening, return_route: Option<oneshot::Sender<ReturnRouteRequest>>) {
        let envelope = &opening.envelope;
        let memory = OpeningMemory::acquire(&self.opening, self.estimated_kib(envelope.packed.len())).await;
        let identities = self.parts.own_dids.identities();
        let opened_layers = Arc::<AtomicU32>::default();
        let options = UnpackOptions {
            opened_layers: Some(opened_layers.clone()),
            arrived: Some(UNIX_EPOCH + Duration::from_millis(envelope.received.unsigned_abs())),
            ..self.unpack_options().await
        };
        let text = match std::str::from_utf8(&envelope.packed) {
            Ok(text) => text,
            Err(_) => return self.refuse(opening, UNOPENED, "the envelope is not UTF-8").await,
        };
        let resolver = SenderResolver {
            resolver: &*self.parts.resolver,
            store: &self.parts.store,
            limits: &self.fetch_limits,
            memory,
            recipient: &envelope.recipient,
            was_limited: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
        };
        match Message::unpack_or_refuse(text, &resolver, &identities, &options).await {
            Ok((message, provenance)) => {
                self.forget_doubts(opening);
                self.handle(opening, message, provenance, return_route).await;
            }
            Err((error, refused)) => {
                let worked = opened_layers.load(Ordering::Relaxed) > 0;
                let is_known = resolver.is_known.load(Ordering::Relaxed);
                match resolver.was_limited.load(Ordering::Relaxed) {
                    // A token has worked in vain, and the document that was not fetched may have another key by now.
                    true if worked || matches!(error, Error::Envelope(JoseError::Decrypt(_))) => {
                        self.postpone_after_work(opening, &error.to_string()).await;
                    }
                    true => self.postpone(opening, UNOPENED, &error.to_string()).await,
                    false => match refused.filter(|_| classify(&error) == UnpackFailure::Permanent) {
                        Some(refused) => {
                            self.refuse_opened(opening, *refused, &error.to_string(), return_route).await;
                        }
                        None => self.conclude_failure(opening, &error, worked, is_known).await,
                    },
                }
            }
        }
    }

    /// Postpones or refuses an envelope that did not open. `worked` says whether a token has opened its outer layer, and
    /// `is_known` whether its sender has a connection.
    async fn conclude_failure(&self, opening: &Opening, error: &Error, worked: bool, is_known: bool) {
        let reason = &error.to_string();
        let failure = classify(error);
        if !matches!(failure, UnpackFailure::Doubtful(_)) {
            self.forget_doubts(opening);
        }
        match (failure, error) {
            // The sender has encrypted to us what is for others. A DID may be ours if no token has shown its keys yet.
            (UnpackFailure::RetryLater, Error::NotForUs(kids))
                if worked
                    && !kids.iter().filter_map(|kid| did_of(kid)).any(|did| self.parts.own_dids.may_be_own(did)) =>
            {
                self.refuse(opening, UNOPENED, reason).await;
            }
            (UnpackFailure::RetryLater, _) if worked => self.postpone_after_work(opening, reason).await,
            (UnpackFailure::RetryLater, _) => self.postpone(opening, UNOPENED, reason).await,
            (UnpackFailure::SenderUnresolved, _) => self.wait_for_sender(opening, reason, worked, is_known).await,
            (UnpackFailure::Doubtful(doubt), _) => self.wait_in_doubt(opening, doubt, reason).await,
            (UnpackFailure::Permanent, _) => self.refuse(opening, UNOPENED, reason).await,
        }
    }

    /// Estimates the memory that opening an envelope takes, in KiB: several copies of its bytes, and its JSON values.
    fn estimated_kib(&self, length: usize) -> u32 {
        let values = self.parts.options.limits.json_values.min(length / 3);
        let bytes = 6 * length + 200 * values;
        let kib = bytes.div_ceil(1024).min(self.parts.options.max_opening_bytes.div_ceil(1024)).max(1);
        u32::try_from(kib).unwrap_or(u32::MAX)
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
        let keys = self.parts.store.inner().known_connections(MAX_KNOWN).await.unwrap_or_default();
        let peers = keys.iter().filter_map(|key| Connection::peer_did_of_key(key));
        let peers = peers.filter(|peer| !self.parts.blocked.contains(peer));
        options.prompt_for = Some(peers.map(str::to_owned).collect());
        options
    }
}

/// Returns the next envelope with a permit to open it. `None` once the queue is closed.
async fn next(jobs: &mut mpsc::Receiver<Job>, permits: &Arc<Semaphore>) -> Option<(Job, OwnedSemaphorePermit)> {
    // Wait for the permit first: a job that was taken must not be dropped when another branch of the select wins.
    let permit = permits.clone().acquire_owned().await.ok()?;
    jobs.recv().await.map(|job| (job, permit))
}
