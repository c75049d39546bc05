//! Documents that were resolved lately.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, EntryAction, EntryResult},
};

use super::{Document, ResolveError, Resolver, is_did};

/// Remembers what a resolver found, and for a shorter time what it did not find.
///
/// Of many that ask for one DID at once, one asks the resolver and the others wait for it. A document that is not of the
/// DID asked for is refused here, whatever the resolver says.
pub struct Cached<R> {
    inner: R,
    limits: CacheLimits,
    entries: Cache<String, Entry, Weight>,
}

/// How much and how long [`Cached`] remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// About how much memory the documents may take, in bytes: 64 MiB.
    pub bytes: u64,
    /// How long a document is good: 10 minutes. A key that its owner withdrew is used as long.
    pub ttl: Duration,
    /// How long a failure is: 10 seconds.
    pub negative_ttl: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { bytes: 64 * 1024 * 1024, ttl: Duration::from_secs(600), negative_ttl: Duration::from_secs(10) }
    }
}

#[derive(Clone)]
struct Entry {
    until: Instant,
    outcome: Result<Arc<Document>, ResolveError>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<String, Entry> for Weight {
    fn weight(&self, did: &String, entry: &Entry) -> u64 {
        let document = entry.outcome.as_ref().map_or(400, |document| document.weight());
        (did.len() + document + 200) as u64
    }
}

impl<R: Resolver> Cached<R> {
    /// A cache with the default limits.
    pub fn new(inner: R) -> Self {
        Self::with_limits(inner, CacheLimits::default())
    }

    /// A cache with these limits.
    pub fn with_limits(inner: R, limits: CacheLimits) -> Self {
        // The number of entries is an estimate, for the size of the tables. Four shards, as each has to have room for the
        // largest document, and not more where there are more processors.
        let options = OptionsBuilder::new()
            .estimated_items_capacity((limits.bytes / 8192) as usize + 1)
            .weight_capacity(limits.bytes)
            .shards(4)
            .build()
            .expect("both capacities are given");
        let entries = Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { inner, limits, entries }
    }

    /// The resolver behind it.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Forgets what is known of a DID, so that it is resolved anew.
    pub fn forget(&self, did: &str) {
        self.entries.remove(did);
    }

    async fn resolve_now(&self, did: &str) -> Entry {
        let outcome = self.inner.resolve(did).await.and_then(|document| match document.id() == did {
            true => Ok(document),
            false => Err(ResolveError::wrong_id(did, document.id())),
        });
        let ttl = if outcome.is_ok() { self.limits.ttl } else { self.limits.negative_ttl };
        Entry { until: Instant::now() + ttl, outcome }
    }
}

#[async_trait]
impl<R: Resolver> Resolver for Cached<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if let Some(entry) = self.entries.get(did).filter(|entry| Instant::now() < entry.until) {
            return entry.outcome;
        }
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        let known = |_: &String, entry: &mut Entry| match Instant::now() < entry.until {
            true => EntryAction::Retain(entry.outcome.clone()),
            false => EntryAction::ReplaceWithGuard,
        };
        match self.entries.entry_async(did, known).await {
            EntryResult::Retained(outcome) => outcome,
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                let entry = self.resolve_now(did).await;
                let outcome = entry.outcome.clone();
                // The long form may arrive with the next message, and looking for it again costs nothing.
                if !matches!(outcome, Err(ResolveError::LongFormUnknown(_))) {
                    // It fails if the entry was forgotten meanwhile: then it is not kept, as was asked.
                    let _ = guard.insert(entry);
                }
                outcome
            }
            // Neither is ever asked for above; the resolver itself is the answer that is always right.
            EntryResult::Removed(..) | EntryResult::Timeout => self.resolve_now(did).await.outcome,
        }
    }
}
