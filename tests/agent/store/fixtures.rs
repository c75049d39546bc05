//! Envelopes, messages and records for the tests, made from numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use claviger::agent::store::{
    Attribution, Change, Commit, Delivery, DeliveryQuery, HandledMessage, Millis, NewEnvelope, OutboxEntry,
    Postponement, Record, SendState, Store,
};

pub const HOUR: Millis = 60 * 60 * 1000;
pub const DAY: Millis = 24 * HOUR;
/// A time long past.
pub const PAST: Millis = 1_000_000_000_000;

pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_millis().try_into().expect("a time that fits")
}

pub fn digest(number: u64) -> [u8; 32] {
    let mut digest = [0xd1; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    digest
}

pub fn new_envelope(number: u64) -> NewEnvelope {
    let packed = format!("{{\"protected\":\"{number}\"}}").into_bytes();
    NewEnvelope {
        packed,
        digest: digest(number),
        recipient: "did:example:us".to_owned(),
        sender: None,
        received: now(),
        attribution: Attribution::Fetched,
        keys: Vec::new(),
    }
}

/// A postponement until this time.
pub fn postponement(until: Millis, reason: &str) -> Postponement {
    Postponement { until, reason: reason.to_owned(), ..Postponement::default() }
}

/// An envelope of this many bytes.
pub fn large_envelope(number: u64, bytes: usize) -> NewEnvelope {
    NewEnvelope { packed: vec![b'x'; bytes], ..new_envelope(number) }
}

/// A delivery. Even numbers belong to one thread, odd numbers to another.
pub fn delivery(number: u64) -> Delivery {
    Delivery {
        id: format!("delivery {number}"),
        cursor: 0,
        message: format!("message {number}"),
        thread: format!("thread {}", number % 2),
        kind: "https://example.org/offer/1.0/offer".to_owned(),
        sender: "did:example:them".to_owned(),
        recipient: "did:example:us".to_owned(),
        received: now(),
        sealed: Some(vec![number as u8; 20]),
    }
}

pub fn outgoing(number: u64, peer: &str) -> OutboxEntry {
    OutboxEntry {
        id: format!("outgoing {number}"),
        message: format!("message {number}"),
        thread: format!("thread {}", number % 2),
        kind: "https://example.org/offer/1.0/accept".to_owned(),
        sender: "did:example:us".to_owned(),
        peer: peer.to_owned(),
        created: now(),
        expires: now() + DAY,
        state: SendState::Waiting,
        tries: 0,
        time: now(),
        problem: None,
        to_stranger: false,
        by_application: number % 2 == 1,
        sealed: Some(vec![number as u8; 20]),
    }
}

pub fn record(key: &str, revision: i64, value: &str) -> Record {
    let value = value.as_bytes().to_vec();
    Record { kind: "connection".to_owned(), key: key.to_owned(), revision, value, expires: None }
}

pub async fn value_of(store: &dyn Store, key: &str) -> Option<String> {
    let found = store.record("connection", key).await.expect("the store reads");
    found.map(|record| String::from_utf8(record.value).unwrap())
}

/// The revision of a record, or 0 if there is none.
pub async fn revision_of(store: &dyn Store, key: &str) -> i64 {
    store.record("connection", key).await.expect("the store reads").map_or(0, |record| record.revision)
}

pub fn handled_message(number: u64) -> HandledMessage {
    HandledMessage {
        sender: "did:example:them".to_owned(),
        recipient: "did:example:us".to_owned(),
        message: format!("message {number}"),
        until: now() + HOUR,
        received: now(),
        earlier: Vec::new(),
    }
}

pub fn commit_of(changes: impl Into<Vec<Change>>) -> Commit {
    Commit { changes: changes.into(), ..Commit::default() }
}

pub fn process_envelope(envelope: i64) -> Commit {
    Commit { envelope: Some(envelope), ..Commit::default() }
}

pub fn all() -> DeliveryQuery {
    DeliveryQuery { acknowledged: true, limit: usize::MAX, ..DeliveryQuery::default() }
}

pub async fn unread_ids(store: &dyn Store) -> Vec<String> {
    let query = DeliveryQuery { acknowledged: false, ..all() };
    store.deliveries(query).await.expect("the store reads").into_iter().map(|delivery| delivery.id).collect()
}

pub async fn pending_ids(store: &dyn Store) -> Vec<i64> {
    let waiting = store.pending_envelopes(now(), &[], usize::MAX).await.expect("the store reads");
    waiting.into_iter().map(|envelope| envelope.id).collect()
}
