//! Remembers the records that most messages need: connections and rotations, also that there is none.
//!
//! What this process writes is forgotten at once. What another process has written, or the store has deleted by itself, is not
//! seen here: who needs to know has the commit compare the revisions ([`Commit::expects`]), or asks for recent records.
//!
//! A peer that has no record is new, or nearly always: its digest is not among those of the records that were read or written
//! lately, nor of the connections with known peers.
//!
//! Strangers share a small part of the room, and push out nobody else. A known peer has a few records here, whatever it sends.
//!
//! [`Commit::expects`]: super::store::Commit::expects

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache};

use super::{
    clock::now,
    recent_digests::RecentDigests,
    store::{
        digests::record_digest,
        types::{CONNECTION_KIND, Change, OWN_ROTATION_KIND, PEER_ROTATION_KIND, Record, digest_beginning},
    },
};

/// The room for the records of known peers, in bytes: some 10,000 connections with DIDs of 500 characters.
const KNOWN_BYTES: u64 = 16 * 1024 * 1024;
/// The room for all other records, in bytes.
const OTHER_BYTES: u64 = 1024 * 1024;
/// What an entry takes beside its texts, in bytes.
const ENTRY_BYTES: u64 = 200;

/// How many digests of records that exist are remembered, in each of two generations: together about 2 MB.
const MAX_SEEN: usize = 50_000;

type Digest = [u8; 32];

/// Records as they were read, by their digests.
pub struct RecordCache {
    known: Cache<Digest, Remembered, ByBytes>,
    others: Cache<Digest, Remembered, ByBytes>,
    /// How often records of these kinds were changed.
    changes: AtomicU64,
    seen: Mutex<Seen>,
}

/// The records of these kinds that exist, or have existed.
struct Seen {
    digests: RecentDigests,
    /// Whether the connections with known peers are among them.
    is_complete: bool,
}

#[derive(Clone)]
struct Remembered {
    read: Instant,
    record: Option<Arc<Record>>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Digest, Remembered> for ByBytes {
    fn weight(&self, _: &Digest, Remembered { record, .. }: &Remembered) -> u64 {
        let texts = record.as_ref().map_or(0, |record| record.kind.len() + record.key.len() + record.value.len());
        ENTRY_BYTES + texts as u64
    }
}

/// The state of the cache before a read. What is read is remembered unless records were changed since.
#[derive(Clone, Copy)]
pub struct BeforeRead(u64);

impl Default for RecordCache {
    fn default() -> Self {
        let with_room = |bytes: u64| Cache::with_weighter((bytes / 1024) as usize, bytes, ByBytes);
        let seen = Mutex::new(Seen { digests: RecentDigests::new(MAX_SEEN), is_complete: false });
        Self { known: with_room(KNOWN_BYTES), others: with_room(OTHER_BYTES), changes: AtomicU64::new(0), seen }
    }
}

impl RecordCache {
    /// Returns records as they were read within `max_age`, or `None` if one of them is not remembered.
    pub fn find(&self, places: &[(&str, &str)], max_age: Duration) -> Option<Vec<Option<Arc<Record>>>> {
        let find = |(kind, key): &(&str, &str)| {
            let digest = Some(record_digest(kind, key)).filter(|_| is_remembered(kind))?;
            let found = self.known.get(&digest).or_else(|| self.others.get(&digest))?;
            let has_expired =
                found.record.as_ref().is_some_and(|record| record.expires.is_some_and(|time| time <= now()));
            (!has_expired && found.read.elapsed() < max_age).then_some(found.record)
        };
        places.iter().map(find).collect()
    }

    /// Adds the keys of all connections with known peers. Before, no record is taken to be absent.
    pub fn complete(&self, known_connections: &[String]) {
        let digests = known_connections.iter().map(|key| record_digest(CONNECTION_KIND, key));
        let mut seen = self.seen();
        seen.digests.add_older(digests.map(|digest| digest_beginning(&digest)));
        seen.is_complete = true;
    }

    /// Whether none of these records exists, as far as this process knows: not if a stranger has left it before the process
    /// began, or a very long time ago.
    pub fn are_new(&self, places: &[(&str, &str)]) -> bool {
        let mut digests = places.iter().map(|(kind, key)| is_remembered(kind).then(|| record_digest(kind, key)));
        let seen = self.seen();
        seen.is_complete
            && digests.all(|digest| digest.is_some_and(|digest| !seen.digests.contains(digest_beginning(&digest))))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call this before reading records to remember.
    pub fn before_read(&self) -> BeforeRead {
        BeforeRead(self.changes.load(Ordering::SeqCst))
    }

    /// Remembers records that were read together: those of the kinds that most messages need. `of_known_peer` says whether the
    /// connection with a known peer is among them.
    pub fn remember(
        &self,
        places: &[(&str, &str)],
        records: Vec<Option<Record>>,
        before: BeforeRead,
        of_known_peer: bool,
    ) {
        let read = Instant::now();
        let (room, other_room) = match of_known_peer {
            true => (&self.known, &self.others),
            false => (&self.others, &self.known),
        };
        for ((kind, key), record) in places.iter().zip(records).filter(|((kind, _), _)| is_remembered(kind)) {
            let digest = record_digest(kind, key);
            if record.is_some() {
                self.seen().digests.insert(digest_beginning(&digest));
            }
            other_room.remove(&digest);
            room.insert(digest, Remembered { read, record: record.map(Arc::new) });
            // A change since then is either seen here, or removes the entry.
            if self.changes.load(Ordering::SeqCst) != before.0 {
                room.remove(&digest);
            }
        }
    }

    /// Forgets the records that a commit may have changed.
    pub fn forget(&self, changed: &[Digest]) {
        if changed.is_empty() {
            return;
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        for digest in changed {
            self.seen().digests.insert(digest_beginning(digest));
            self.known.remove(digest);
            self.others.remove(digest);
        }
    }

    /// Returns the digests of the records in a commit's changes that may be remembered.
    pub fn digests(changes: &[Change]) -> Vec<Digest> {
        let changed = changes.iter().filter_map(|change| match change {
            Change::Put(Record { kind, key, .. })
            | Change::Remember(Record { kind, key, .. })
            | Change::Delete { kind, key } => is_remembered(kind).then(|| record_digest(kind, key)),
            Change::Deliver(_) | Change::Send(_) | Change::Keep(_) | Change::Event(_) => None,
        });
        changed.collect()
    }
}

fn is_remembered(kind: &str) -> bool {
    [CONNECTION_KIND, PEER_ROTATION_KIND, OWN_ROTATION_KIND].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, bytes: usize) -> Record {
        let (kind, key) = (CONNECTION_KIND.to_owned(), key.to_owned());
        Record { kind, key, revision: 1, value: vec![0; bytes], expires: None }
    }

    impl RecordCache {
        fn read(&self, key: &str, bytes: usize, of_known_peer: bool) {
            let read = vec![Some(record(key, bytes))];
            self.remember(&[(CONNECTION_KIND, key)], read, self.before_read(), of_known_peer);
        }

        fn has(&self, key: &str) -> bool {
            self.find(&[(CONNECTION_KIND, key)], Duration::MAX).is_some()
        }
    }

    /// However many strangers come, and however often, the known peers are remembered; and the room is limited.
    #[test]
    fn strangers_push_out_no_known_peer() {
        let cache = RecordCache::default();
        let known = |number: usize| format!("known {number}");
        (0..1000).for_each(|number| cache.read(&known(number), 1000, true));
        for _ in 0..3 {
            for number in 0..5000 {
                cache.read(&format!("stranger {number}"), 1000, false);
                cache.has(&format!("stranger {number}"));
            }
        }
        assert!((0..1000).all(|number| cache.has(&known(number))));
        assert!(cache.others.weight() <= OTHER_BYTES && cache.others.len() > 100, "{}", cache.others.len());
        (0..50_000).for_each(|number| cache.read(&known(number), 1000, true));
        assert!(cache.known.weight() <= KNOWN_BYTES && cache.known.len() > 5000, "{}", cache.known.len());
    }

    #[test]
    fn what_has_changed_or_expired_is_not_returned() {
        let cache = RecordCache::default();
        let change = |key: &str| cache.forget(&RecordCache::digests(&[Change::Put(record(key, 1))]));
        for of_known_peer in [true, false] {
            cache.read("a", 1, of_known_peer);
            cache.read("b", 1, of_known_peer);
            assert!(cache.find(&[(CONNECTION_KIND, "a"), (CONNECTION_KIND, "b")], Duration::MAX).is_some());
            assert!(cache.find(&[(CONNECTION_KIND, "a"), ("thread", "b")], Duration::MAX).is_none());
            std::thread::sleep(Duration::from_millis(2));
            assert!(cache.find(&[(CONNECTION_KIND, "a")], Duration::from_millis(1)).is_none());
            change("a");
            assert!(!cache.has("a") && cache.has("b"));
        }
        // A record that was changed while it was read is not remembered.
        let before = cache.before_read();
        change("c");
        cache.remember(&[(CONNECTION_KIND, "c")], vec![None], before, true);
        assert!(!cache.has("c"));
        let expired = Record { expires: Some(1), ..record("d", 1) };
        cache.remember(&[(CONNECTION_KIND, "d")], vec![Some(expired)], cache.before_read(), true);
        assert!(!cache.has("d"));
    }

    /// A peer is new until a record of it is read or written, and no peer is before the known ones are told.
    #[test]
    fn who_has_no_record_is_new() {
        let cache = RecordCache::default();
        let is_new = |key: &str| cache.are_new(&[(CONNECTION_KIND, key), (PEER_ROTATION_KIND, key)]);
        assert!(!is_new("a"));
        cache.complete(&["known".to_owned()]);
        assert!(is_new("a") && !is_new("known") && !cache.are_new(&[("thread", "a")]));
        cache.remember(&[(CONNECTION_KIND, "a")], vec![None], cache.before_read(), false);
        assert!(is_new("a"));
        cache.read("a", 1, false);
        cache.forget(&RecordCache::digests(&[Change::Remember(record("b", 1))]));
        assert!(!is_new("a") && !is_new("b") && is_new("c"));
    }
}
