//! A cache in front of a resolver.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, EntryAction, EntryResult},
};

use super::{
    canonical::with_capital_escapes,
    document::Document,
    resolve_error::ResolveError,
    resolver::Resolver,
    url::{is_did, is_mutable},
};

/// Caches the documents that a resolver found, and for a shorter time its failures.
///
/// Concurrent calls for the same DID lead to one call of the resolver. A document that is not about the requested DID
/// is refused, whatever the resolver returns. The `ttl` of a did:webvh shortens the time for which its document is kept,
/// to [`CacheLimits::refetch_interval`] at least.
///
/// Documents of `did:key` and `did:peer` have a cache of their own. A stranger can name a new such DID in each envelope,
/// and must not displace the documents that servers were asked for.
pub struct CachedResolver<R> {
    inner: R,
    limits: CacheLimits,
    /// The documents of `did:key` and `did:peer`.
    contained: Entries,
    /// All other documents.
    fetched: Entries,
    refetches: Mutex<RefetchBudget>,
}

/// How much [`CachedResolver`] keeps, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// The approximate memory for documents that are fetched, in bytes. Default: 64 MiB.
    pub bytes: u64,
    /// The approximate memory for documents that are made from their DIDs (`did:key` and `did:peer`), in bytes. Making one
    /// again takes microseconds. Default: 4 MiB, which is about 1,000 documents.
    pub contained_bytes: u64,
    /// How long a document is kept. Default: 10 minutes. A key that its owner removes from the document may still be
    /// used for that long.
    pub ttl: Duration,
    /// How long a failure is kept. Default: 10 seconds.
    pub negative_ttl: Duration,
    /// The shortest time between two fetches of one document before its `ttl` ends. Default: 1 second.
    pub refetch_interval: Duration,
    /// How many documents are fetched again before their `ttl` ends, in any minute. Default: 600.
    pub refetches_per_minute: u32,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024 * 1024,
            contained_bytes: 4 * 1024 * 1024,
            ttl: Duration::from_secs(600),
            negative_ttl: Duration::from_secs(10),
            refetch_interval: Duration::from_secs(1),
            refetches_per_minute: 600,
        }
    }
}

#[derive(Clone)]
struct Entry {
    expires: Instant,
    /// When the resolver was asked last, with or without success.
    asked: Instant,
    outcome: Result<Arc<Document>, ResolveError>,
}

/// Cached outcomes, by DID.
type Entries = Cache<String, Entry, ByMemorySize>;

/// Makes a cache. `hot` is the part of it for documents that are used again and again; a new document is dropped once the
/// rest is full. Each shard needs room for the largest document, so the number of shards does not depend on the number of
/// processors.
fn entries(bytes: u64, shards: usize, hot: f64) -> Entries {
    // The number of entries is only an estimate for the size of the tables.
    let options = OptionsBuilder::new()
        .estimated_items_capacity((bytes / 8192) as usize + 1)
        .weight_capacity(bytes)
        .shards(shards)
        .hot_allocation(hot)
        .build()
        .expect("both capacities are given");
    Cache::with_options(options, ByMemorySize, DefaultHashBuilder::default(), DefaultLifecycle::default())
}

#[derive(Clone)]
struct ByMemorySize;

impl Weighter<String, Entry> for ByMemorySize {
    fn weight(&self, did: &String, entry: &Entry) -> u64 {
        // Estimates, in bytes: 400 for a failure, and 200 for the entry itself.
        let document = entry.outcome.as_ref().map_or(400, |document| document.memory_size());
        (did.len() + document + 200) as u64
    }
}

impl<R: Resolver> CachedResolver<R> {
    /// A cache with the default limits.
    pub fn new(inner: R) -> Self {
        Self::with_limits(inner, CacheLimits::default())
    }

    /// A cache with these limits.
    pub fn with_limits(inner: R, limits: CacheLimits) -> Self {
        let refetches = RefetchBudget { left: f64::from(limits.refetches_per_minute), counted: Instant::now() };
        // A message of a new peer needs its document several times, while many other messages are handled.
        let contained = entries(limits.contained_bytes, 1, 0.5);
        let fetched = entries(limits.bytes, 4, 0.97);
        Self { inner, limits, contained, fetched, refetches: Mutex::new(refetches) }
    }

    /// The resolver behind the cache.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Removes a DID from the cache. The next call resolves it again.
    pub fn forget(&self, did: &str) {
        self.entries(did).remove(&*with_capital_escapes(did));
    }

    fn entries(&self, did: &str) -> &Entries {
        if is_mutable(did) { &self.fetched } else { &self.contained }
    }

    async fn resolve_now(&self, did: &str) -> Entry {
        let outcome = self.inner.resolve(did).await.and_then(|document| match document.is_about(did) {
            true => Ok(document),
            false => Err(ResolveError::wrong_id(did, document.id())),
        });
        let limits = &self.limits;
        let ttl = match &outcome {
            // A stranger chooses the `ttl`, which may be 0. Each fetch costs us a request.
            Ok(document) => document.ttl().map_or(limits.ttl, |ttl| ttl.max(limits.refetch_interval).min(limits.ttl)),
            Err(_) => limits.negative_ttl,
        };
        let now = Instant::now();
        Entry { expires: now + ttl, asked: now, outcome }
    }

    /// Takes one fetch from the budget for all DIDs. Returns whether there was one left.
    fn may_refetch(&self) -> bool {
        self.refetches.lock().unwrap_or_else(PoisonError::into_inner).take(self.limits.refetches_per_minute)
    }
}

/// How many documents may be fetched again now. The budget fills up evenly within a minute.
struct RefetchBudget {
    left: f64,
    counted: Instant,
}

impl RefetchBudget {
    fn take(&mut self, per_minute: u32) -> bool {
        let full = f64::from(per_minute);
        let new = self.counted.elapsed().as_secs_f64() / 60.0 * full;
        self.left = (self.left + new).min(full);
        self.counted = Instant::now();
        let has_one = self.left >= 1.0;
        if has_one {
            self.left -= 1.0;
        }
        has_one
    }
}

#[async_trait]
impl<R: Resolver> Resolver for CachedResolver<R> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        let did = &*with_capital_escapes(did);
        let entries = self.entries(did);
        if let Some(entry) = entries.get(did).filter(|entry| Instant::now() < entry.expires) {
            return entry.outcome;
        }
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        let retain_or_replace = |_: &String, entry: &mut Entry| match Instant::now() < entry.expires {
            true => EntryAction::Retain(entry.outcome.clone()),
            false => EntryAction::ReplaceWithGuard,
        };
        match entries.entry_async(did, retain_or_replace).await {
            EntryResult::Retained(outcome) => outcome,
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                let entry = self.resolve_now(did).await;
                let outcome = entry.outcome.clone();
                // `LongFormUnknown` is not cached: the long form may arrive with the next message, and looking for it
                // again costs nothing.
                if !matches!(outcome, Err(ResolveError::LongFormUnknown(_))) {
                    // `insert` fails if `forget` was called meanwhile. The entry must not be kept then.
                    let _ = guard.insert(entry);
                }
                outcome
            }
            // Neither can happen here. Asking the resolver is correct in every case.
            EntryResult::Removed(..) | EntryResult::Timeout => self.resolve_now(did).await.outcome,
        }
    }

    /// Asks the resolver again, unless it was asked within [`CacheLimits::refetch_interval`], or the budget of
    /// [`CacheLimits::refetches_per_minute`] is used up. If the resolver fails, the cached document stays.
    async fn resolve_again(&self, did: &str) -> Result<Option<Arc<Document>>, ResolveError> {
        if !is_mutable(did) {
            return Ok(None);
        }
        let did = &*with_capital_escapes(did);
        let cached = self.fetched.get(did);
        if cached.as_ref().is_some_and(|entry| entry.asked.elapsed() < self.limits.refetch_interval) {
            return Ok(None);
        }
        if !self.may_refetch() {
            tracing::warn!("document not fetched again: too many were fetched again within a minute");
            return Ok(None);
        }
        // Set first, so that other messages of the same sender do not fetch the document too.
        if let Some(entry) = cached {
            self.fetched.insert(did.to_owned(), Entry { asked: Instant::now(), ..entry });
        }
        let entry = self.resolve_now(did).await;
        let document = entry.outcome.clone()?;
        self.fetched.insert(did.to_owned(), entry);
        Ok(Some(document))
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        let did = &*with_capital_escapes(did);
        match self.entries(did).get(did).filter(|entry| Instant::now() < entry.expires) {
            Some(entry) => entry.outcome.ok(),
            None => self.inner.resolve_offline(did).await,
        }
    }
}
