//! The state of the inbox: its queue.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::{
    arrivals::Arrivals,
    failure::Doubts,
    opening::Opening,
    options::InboxOptions,
    return_route::{Handlings, ReturnRouteRequest},
    sender_resolver::FetchLimits,
};
use crate::{
    agent::{
        blocked_peers::BlockedPeers,
        known_peers::KnownPeers,
        metrics::Metrics,
        own_dids::OwnDids,
        protocol::{Features, Registry},
        sealed_store::SealedStore,
        shared_dids::SharedDids,
    },
    did::Resolver,
};

/// The most envelopes that wait in memory for a worker. Further envelopes wait in the store only.
const MAX_QUEUED: usize = 1024;
/// The most bytes of envelopes that wait in memory.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// Accepts envelopes, and has workers open and handle them.
pub struct Inbox {
    pub(super) parts: InboxParts,
    pub(super) handlings: Handlings,
    pub(super) arrivals: Arrivals,
    /// The ids of the stored envelopes that workers have.
    pub(super) in_progress: Mutex<HashSet<i64>>,
    pub(super) doubts: Doubts,
    queue: mpsc::Sender<Job>,
    pub(super) jobs: Mutex<Option<mpsc::Receiver<Job>>>,
    /// The bytes of the envelopes in the queue.
    pub(super) queued_bytes: AtomicUsize,
    /// Whether the store has pending envelopes that are not in the queue.
    pub(super) has_backlog: AtomicBool,
    pub(super) fetch_limits: FetchLimits,
    /// The memory for envelopes that are being opened, in KiB.
    pub(super) opening: Arc<Semaphore>,
    /// Wakes the loop that reads pending envelopes from the store.
    pub(super) wakeup: Notify,
}

/// The parts of an inbox.
pub struct InboxParts {
    pub store: Arc<SealedStore>,
    pub own_dids: Arc<OwnDids>,
    pub shared_dids: Arc<SharedDids>,
    pub resolver: Arc<dyn Resolver>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub blocked: Arc<BlockedPeers>,
    pub known_peers: Arc<KnownPeers>,
    pub features: Features,
    pub options: InboxOptions,
}

/// An envelope to open, and the connection that waits for a return route.
pub(super) struct Job {
    pub opening: Opening,
    pub return_route: Option<oneshot::Sender<ReturnRouteRequest>>,
}

impl Inbox {
    /// Makes an inbox. The inbox opens envelopes only while [`Inbox::work`] runs.
    pub fn new(parts: InboxParts) -> Self {
        let (queue, jobs) = mpsc::channel(MAX_QUEUED);
        let fetch_limits = FetchLimits::new(parts.options.max_fetches);
        let opening = parts.options.max_opening_bytes.div_ceil(1024).clamp(1, u32::MAX as usize);
        Self {
            parts,
            handlings: Handlings::default(),
            arrivals: Arrivals::default(),
            in_progress: Mutex::default(),
            doubts: Doubts::default(),
            queue,
            jobs: Mutex::new(Some(jobs)),
            queued_bytes: AtomicUsize::new(0),
            has_backlog: AtomicBool::new(true),
            fetch_limits,
            opening: Arc::new(Semaphore::new(opening)),
            wakeup: Notify::new(),
        }
    }

    /// Returns the size of the largest accepted message, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.parts.options.limits.bytes
    }

    /// Whether a token is ready to open messages. Otherwise they wait.
    pub fn can_open_messages(&self) -> bool {
        self.parts.store.is_unlocked() && !self.parts.own_dids.ready_agreement_keys().is_empty()
    }

    /// Whether a message that arrives now is opened soon. If not, its sender should not wait for a reply.
    pub fn opens_soon(&self) -> bool {
        self.can_open_messages() && self.queue.max_capacity() - self.queue.capacity() < 2 * self.parts.options.workers
    }

    /// Whether no envelope waits in memory.
    pub(super) fn is_queue_empty(&self) -> bool {
        self.queue.capacity() == self.queue.max_capacity()
    }

    /// Puts an envelope into the queue. Returns it if the queue has no room for it.
    pub(super) fn enqueue(&self, job: Job) -> Result<(), Job> {
        let bytes = job.opening.envelope.packed.len();
        // An empty queue accepts one envelope of any size.
        let add = |queued: usize| (queued == 0 || queued + bytes <= MAX_QUEUED_BYTES).then_some(queued + bytes);
        if self.queued_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_err() {
            return Err(job);
        }
        self.queue.try_send(job).map_err(|unsent| {
            self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            unsent.into_inner()
        })
    }

    /// Has the workers look for pending envelopes in the store.
    pub(in crate::agent) fn note_backlog(&self) {
        self.has_backlog.store(true, Ordering::Release);
        self.wakeup.notify_one();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
