//! The inbox: a message is checked without a token, kept, and only then taken over; afterwards it is opened and handled.
//!
//! What was taken over is never lost: it waits in the store until it was handled, refused for good, or is too old.

mod handle;
mod quota;
pub(in crate::agent) mod verdict;
mod worker;

pub use worker::{Fate, ReturnRoute};

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    books::Books,
    clock::now,
    metrics::Metrics,
    ours::{Ours, canonical},
    protocol::{Features, Registry, cascade::ProblemLimits},
    store::{Arrival, Change, Envelope as Waiting, Millis, Receipt, StoreError},
};
use crate::{
    did::{Resolver, did_of},
    jose::{Envelope, JoseError, Limits},
};

/// Messages that wait in memory for a worker, at most, and their bytes; more wait in the store alone.
const QUEUE: usize = 1024;
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// How the inbox works.
#[derive(Debug, Clone)]
pub struct InboxOptions {
    /// How large a message may be.
    pub limits: Limits,
    /// Messages that are opened at once, at most: 64.
    pub workers: usize,
    /// The age beyond which a message that does not expire is refused: 30 days. So long it is remembered that one was handled.
    pub longest_age: Millis,
    /// How long a reply is tried, in milliseconds: 7 days.
    pub life: Millis,
    /// How many problems a thread may have.
    pub problems: ProblemLimits,
    /// Whether a person is asked for a PIN or a touch for a message from someone with whom there is no connection yet.
    pub prompt_strangers: bool,
}

const DAY: Millis = 24 * 60 * 60 * 1000;

impl Default for InboxOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            workers: 64,
            longest_age: 30 * DAY,
            life: 7 * DAY,
            problems: ProblemLimits::default(),
            prompt_strangers: false,
        }
    }
}

/// Takes messages over, and has them handled.
pub struct Inbox {
    parts: Parts,
    queue: mpsc::Sender<Job>,
    jobs: Mutex<Option<mpsc::Receiver<Job>>>,
    /// The bytes of the messages in the queue.
    queued: AtomicUsize,
    /// More waits in the store than in the queue.
    backlog: AtomicBool,
    /// Rings when something may be tried that could not before.
    bell: Notify,
}

/// Who is told of changes.
pub(super) type After = Box<dyn Fn(&[Change]) + Send + Sync>;

/// What an inbox stands on.
pub(super) struct Parts {
    pub books: Arc<Books>,
    pub ours: Arc<Ours>,
    pub resolver: Arc<dyn Resolver>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub features: Features,
    pub options: InboxOptions,
    /// Is told of changes once they are made.
    pub after: After,
}

/// Two DIDs, by the envelope's words.
struct Addressed {
    recipient: String,
    sender: Option<String>,
}

/// One envelope on its way to be opened, and who waits for what becomes of it.
struct Job {
    envelope: Waiting,
    fate: Option<oneshot::Sender<Fate>>,
}

/// Why a message was not taken over. The peer is told little of it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is malformed: the peer is to blame, and sending it again does not help.
    #[error(transparent)]
    Malformed(#[from] JoseError),
    /// It is larger than what is taken.
    #[error("the message has more than {0} bytes")]
    TooLarge(usize),
    /// None of its recipients is one of our keys.
    #[error("the message is for none of our keys")]
    NotForUs {
        /// It may be for a DID of ours whose keys no token has shown yet.
        undecided: bool,
    },
    /// It is not encrypted.
    #[error("only encrypted messages are taken")]
    NotEncrypted,
    /// It cannot be kept now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// Its name as a label.
    fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too-large",
            Self::NotForUs { .. } => "not-for-us",
            Self::NotEncrypted => "not-encrypted",
            Self::Store(_) => "not-kept",
        }
    }
}

impl Inbox {
    /// One that has not begun to work.
    pub(super) fn new(parts: Parts) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        Self {
            parts,
            queue,
            jobs: Mutex::new(Some(jobs)),
            queued: AtomicUsize::new(0),
            backlog: AtomicBool::new(true),
            bell: Notify::new(),
        }
    }

    /// Takes a message over: returns once it is kept, and whoever sent it may forget it.
    ///
    /// If it asks for replies on its connection, that is told on the channel once it is opened; else that is dropped.
    ///
    /// # Errors
    /// Why it was not taken: then nothing of it is kept.
    pub async fn take(&self, packed: Vec<u8>) -> Result<oneshot::Receiver<Fate>, Refusal> {
        self.keep(packed, true).await.inspect_err(|refusal| self.parts.metrics.received(refusal.name()))
    }

    /// The same of a message that was fetched: who sent it is not there to be told to come again, and what waits behind it
    /// would wait too. So how much that one has left here is looked at once the message is opened.
    ///
    /// # Errors
    /// As [`Inbox::take`].
    pub async fn take_fetched(&self, packed: Vec<u8>) -> Result<oneshot::Receiver<Fate>, Refusal> {
        self.keep(packed, false).await.inspect_err(|refusal| self.parts.metrics.received(refusal.name()))
    }

    async fn keep(&self, packed: Vec<u8>, brought: bool) -> Result<oneshot::Receiver<Fate>, Refusal> {
        let Addressed { recipient, sender } = self.check(&packed)?;
        let sender = sender.filter(|_| brought);
        let charged = sender.is_some();
        let received = now();
        let digest: [u8; 32] = Sha256::digest(&packed).into();
        let arrival = Arrival { packed: packed.clone(), digest, recipient: recipient.clone(), sender, received };
        let (fate, told) = oneshot::channel();
        match self.parts.books.store().receive(arrival).await? {
            Receipt::New(id) => {
                self.parts.metrics.received("taken");
                let envelope = Waiting { id, packed, recipient, received, tries: 0, charged };
                if !self.enqueue(Job { envelope, fate: Some(fate) }) {
                    self.more();
                }
            }
            // The peer did not hear that it was taken. It is tried when its time comes, or was handled.
            Receipt::Waiting(_) | Receipt::Concluded => {
                self.parts.metrics.received("again");
                tracing::debug!("a message came again");
            }
        }
        Ok(told)
    }

    /// All that can be wrong without a key. Whom it is for, and of whom it says that it is.
    fn check(&self, packed: &[u8]) -> Result<Addressed, Refusal> {
        let limit = self.parts.options.limits.bytes;
        if packed.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        let Envelope::Encrypted(jwe) = Envelope::parse(packed, &self.parts.options.limits)? else {
            return Err(Refusal::NotEncrypted);
        };
        let (mut wrong_curve, mut undecided) = (None, false);
        for kid in jwe.recipient_kids() {
            let Some((did, key)) = self.parts.ours.recipient(kid) else {
                undecided |= did_of(kid).is_some_and(|did| self.parts.ours.is_undecided(did));
                continue;
            };
            if key.curve() == jwe.ephemeral_key().curve() {
                let sender = jwe.sender_kid().and_then(did_of).map(|did| canonical(did).to_owned());
                return Ok(Addressed { recipient: did, sender });
            }
            wrong_curve = Some(JoseError::Curve {
                kid: kid.to_owned(),
                curve: key.curve(),
                expected: jwe.ephemeral_key().curve(),
            });
        }
        Err(wrong_curve.map_or(Refusal::NotForUs { undecided }, Refusal::Malformed))
    }

    /// The largest message that is taken, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.parts.options.limits.bytes
    }

    /// Whether messages are opened now, or wait for a token.
    pub fn is_ready(&self) -> bool {
        self.parts.books.is_unlocked() && !self.parts.ours.ready_agreement_keys().is_empty()
    }

    /// Whether a message that is taken now is opened soon: a token that is slow makes nobody wait for a reply.
    pub fn is_quick(&self) -> bool {
        self.is_ready() && self.queue.max_capacity() - self.queue.capacity() < 2 * self.parts.options.workers
    }

    /// False if there is no room in the queue.
    fn enqueue(&self, job: Job) -> bool {
        let bytes = job.envelope.packed.len();
        // One alone may be larger.
        let room = |queued: usize| (queued == 0 || queued + bytes <= QUEUE_BYTES).then_some(queued + bytes);
        if self.queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return false;
        }
        let sent = self.queue.try_send(job).is_ok();
        if !sent {
            self.queued.fetch_sub(bytes, Ordering::AcqRel);
        }
        sent
    }

    /// There is more in the store than in the queue.
    fn more(&self) {
        self.backlog.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}
