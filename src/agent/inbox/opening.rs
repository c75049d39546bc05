//! An envelope while a worker opens it.
//!
//! An envelope that came by POST may be opened before it is stored ([`Arrival`]): `keep` brings it into the store.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::agent::store::types::{NewEnvelope, PendingEnvelope};

/// An envelope that a worker opens, or will open.
pub(super) struct Opening {
    /// The envelope. Its `id` is 0 if it was not stored before: [`Opening::id`] knows better.
    pub envelope: PendingEnvelope,
    pub arrival: Option<Arc<Arrival>>,
}

/// An envelope that is opened before it is stored.
pub(super) struct Arrival {
    pub digest: [u8; 32],
    pub state: Mutex<State>,
    /// The id in the store; 0 while it has none.
    pub id: AtomicI64,
    /// Cancelled once the envelope is stored or processed, or its worker has ended.
    pub settled: CancellationToken,
}

/// How far an envelope has come that is opened before it is stored.
pub(super) struct State {
    pub stage: Stage,
    /// Whether a worker has the envelope, or will have it.
    pub has_worker: bool,
    /// Whether the id is among those in progress because of this.
    pub is_listed: bool,
}

pub(super) enum Stage {
    /// The envelope is in memory alone.
    Unstored(Arc<NewEnvelope>),
    /// The envelope is in the store, with this id.
    Stored(i64),
    /// The message is handled or refused, and the digest of the envelope is remembered.
    Processed,
}

impl Opening {
    /// An envelope of the store.
    pub fn stored(envelope: PendingEnvelope) -> Self {
        Self { envelope, arrival: None }
    }

    /// An envelope that is not stored.
    pub fn unstored(envelope: PendingEnvelope, arrival: Arc<Arrival>) -> Self {
        Self { envelope, arrival: Some(arrival) }
    }

    /// The same without the bytes, in case the worker panics.
    pub fn without_bytes(&self) -> Self {
        let envelope = PendingEnvelope { packed: Vec::new(), recipient: String::new(), ..self.envelope };
        Self { envelope, arrival: self.arrival.clone() }
    }

    /// The id in the store. `None` while the envelope is not stored.
    pub fn id(&self) -> Option<i64> {
        let id = match &self.arrival {
            None => self.envelope.id,
            Some(arrival) => arrival.id.load(Ordering::Acquire),
        };
        Some(id).filter(|id| *id != 0)
    }
}

impl Arrival {
    pub fn new(envelope: NewEnvelope) -> Arc<Self> {
        let digest = envelope.digest;
        let state =
            Mutex::new(State { stage: Stage::Unstored(Arc::new(envelope)), has_worker: true, is_listed: false });
        Arc::new(Self { digest, state, id: AtomicI64::new(0), settled: CancellationToken::new() })
    }
}
