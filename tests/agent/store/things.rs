//! What is put into a store: each thing by its number.

use std::time::{SystemTime, UNIX_EPOCH};

use claviger::agent::store::{
    Arrival, Change, Commit, Delivery, DeliveryQuery, Handled, Millis, Outgoing, Record, SendState, Store,
};

pub const HOUR: Millis = 60 * 60 * 1000;
pub const DAY: Millis = 24 * HOUR;
/// What is long past.
pub const PAST: Millis = 1_000_000_000_000;

pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_millis().try_into().expect("a time of this age")
}

pub fn digest(number: u64) -> [u8; 32] {
    let mut digest = [0xd1; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    digest
}

pub fn arrival(number: u64) -> Arrival {
    let packed = format!("{{\"protected\":\"{number}\"}}").into_bytes();
    Arrival { packed, digest: digest(number), recipient: "did:example:us".to_owned(), sender: None, received: now() }
}

/// Of so many bytes.
pub fn large(number: u64, bytes: usize) -> Arrival {
    Arrival { packed: vec![b'x'; bytes], ..arrival(number) }
}

/// In the thread of its number's parity.
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

pub fn outgoing(number: u64, peer: &str) -> Outgoing {
    Outgoing {
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
        sealed: Some(vec![number as u8; 20]),
    }
}

pub fn record(key: &str, revision: i64, value: &str) -> Record {
    let value = value.as_bytes().to_vec();
    Record { kind: "connection".to_owned(), key: key.to_owned(), revision, value, expires: None }
}

pub fn handled(number: u64) -> Handled {
    Handled {
        sender: "did:example:them".to_owned(),
        recipient: "did:example:us".to_owned(),
        message: format!("message {number}"),
        until: now() + HOUR,
    }
}

pub fn turn(changes: impl Into<Vec<Change>>) -> Commit {
    Commit { changes: changes.into(), ..Commit::default() }
}

pub fn concluding(envelope: i64) -> Commit {
    Commit { envelope: Some(envelope), ..Commit::default() }
}

pub fn all() -> DeliveryQuery {
    DeliveryQuery { acknowledged: true, limit: usize::MAX, ..DeliveryQuery::default() }
}

pub async fn delivered(store: &dyn Store) -> Vec<String> {
    let query = DeliveryQuery { acknowledged: false, ..all() };
    store.deliveries(query).await.expect("the store reads").into_iter().map(|delivery| delivery.id).collect()
}

pub async fn waiting(store: &dyn Store) -> Vec<i64> {
    let waiting = store.waiting(now(), &[], usize::MAX).await.expect("the store reads");
    waiting.into_iter().map(|envelope| envelope.id).collect()
}
