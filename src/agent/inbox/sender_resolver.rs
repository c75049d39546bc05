//! Resolves the senders of received messages.
//!
//! A stranger chooses the server of its did:web, and the server may never answer. So only a few workers wait for
//! servers at the same time, and those of peers without a connection leave room for those of known peers. While they wait,
//! they hold no memory that others need.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    agent::{protocol::connections::Connection, sealed_store::SealedStore},
    did::{Document, ResolveError, Resolver, is_mutable},
};

/// How many documents are fetched at once: for peers with a connection, and for all others.
pub(super) struct FetchLimits {
    known: Semaphore,
    strangers: Semaphore,
}

impl FetchLimits {
    /// Half of `fetches` is for peers with a connection.
    pub fn new(fetches: usize) -> Self {
        let half = (fetches / 2).clamp(1, Semaphore::MAX_PERMITS);
        Self { known: Semaphore::new(half), strangers: Semaphore::new(half) }
    }
}

/// The memory for opening one message.
pub(super) struct OpeningMemory<'a> {
    all: &'a Semaphore,
    kib: u32,
    held: Mutex<Option<SemaphorePermit<'a>>>,
}

impl<'a> OpeningMemory<'a> {
    /// Waits until `kib` of `all` are free, and takes them until the result is dropped.
    pub async fn acquire(all: &'a Semaphore, kib: u32) -> Self {
        // Cannot fail: the semaphore is never closed.
        Self { all, kib, held: Mutex::new(all.acquire_many(kib).await.ok()) }
    }

    /// Awaits `waiting` without the memory, and then waits for the memory again.
    async fn release_during<T>(&self, waiting: impl Future<Output = T>) -> T {
        self.hold(None);
        let result = waiting.await;
        self.hold(self.all.acquire_many(self.kib).await.ok());
        result
    }

    fn hold(&self, permit: Option<SemaphorePermit<'a>>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

/// Resolves the sender of one message.
pub(super) struct SenderResolver<'a> {
    pub resolver: &'a dyn Resolver,
    pub store: &'a SealedStore,
    pub limits: &'a FetchLimits,
    pub memory: OpeningMemory<'a>,
    /// Our DID that the message is for.
    pub recipient: &'a str,
    /// Whether a document was not fetched, because too many others are being fetched.
    pub was_limited: AtomicBool,
    /// Whether a document of a peer with a connection was to be fetched.
    pub is_known: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
#[error("too many other documents are being fetched")]
struct TooManyFetches;

impl SenderResolver<'_> {
    async fn permit(&self, did: &str) -> Result<SemaphorePermit<'_>, ResolveError> {
        let has_connection = self.store.revision::<Connection>(&Connection::key(self.recipient, did)).await;
        let limit = match has_connection {
            Ok(revision) if revision > 0 => {
                self.is_known.store(true, Ordering::Relaxed);
                &self.limits.known
            }
            _ => &self.limits.strangers,
        };
        limit.try_acquire().map_err(|_| {
            self.was_limited.store(true, Ordering::Relaxed);
            ResolveError::unavailable(did, TooManyFetches)
        })
    }
}

#[async_trait]
impl Resolver for SenderResolver<'_> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if !is_mutable(did) {
            return self.resolver.resolve(did).await;
        }
        if let Some(document) = self.resolver.resolve_offline(did).await {
            return Ok(document);
        }
        let _permit = self.permit(did).await?;
        self.memory.release_during(self.resolver.resolve(did)).await
    }

    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        if !is_mutable(did) {
            return Ok(None);
        }
        let _permit = self.permit(did).await?;
        self.memory.release_during(self.resolver.resolve_again(did)).await
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        self.resolver.resolve_offline(did).await
    }
}
