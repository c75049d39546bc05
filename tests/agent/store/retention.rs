//! The deletion of expired content, and the usage.

use claviger::agent::store::{
    Change, Commit, CommitOutcome, Delivery, HandledMessage, NewEnvelope, OutboxEntry, ReceiveOutcome, Record,
    Retention, SendOutcome,
};

use crate::store::{
    fixtures::{
        DAY, HOUR, commit_of, delivery, handled_message, large_envelope, new_envelope, now, outgoing, pending_ids,
        process_envelope, record, unread_ids,
    },
    suite::{StoreLocation, commit_ok, open, receive, reopen},
};

pub async fn expired_content_is_deleted(location: &dyn StoreLocation) {
    let store = open(location).await;
    let start = now();
    let pending = receive(&*store, NewEnvelope { received: start + DAY, ..new_envelope(1) }).await;
    let processed = receive(&*store, new_envelope(2)).await;
    let marked = Commit { envelope: Some(processed), handled: Some(handled_message(1)), ..commit_of([]) };
    commit_ok(&*store, marked).await;
    let peer = "did:example:them";
    let mut changes: Vec<_> = [1, 2].map(|number| Change::Deliver(delivery(number))).into();
    changes.extend([3, 4, 5, 6].map(|number| Change::Send(outgoing(number, peer))));
    changes.push(Change::Put(Record { expires: Some(start + 2 * DAY), ..record("a", 0, "") }));
    changes.push(Change::Put(record("b", 0, "")));
    commit_ok(&*store, commit_of(changes)).await;
    store.acknowledge(&[delivery(1).id]).await.unwrap();
    store.record_send_outcome("outgoing 3", SendOutcome::Sent(now()), None).await.unwrap();
    store.record_send_outcome("outgoing 4", SendOutcome::Failed(now(), String::new()), None).await.unwrap();
    store.record_send_outcome("outgoing 5", SendOutcome::Expired(now()), None).await.unwrap();

    // Each kind of content expires at its own time.
    let retention = Retention::default();
    let delete_at = async |at| store.delete_expired(at, &retention, 100).await.unwrap();
    assert_eq!(delete_at(start).await, 0);
    assert_eq!(delete_at(start + HOUR - 1).await, 0);
    assert_eq!(delete_at(start + 2 * HOUR).await, 1, "the mark");
    assert_eq!(delete_at(start + DAY - 1).await, 0);
    assert_eq!(store.receive(new_envelope(2)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    assert_eq!(delete_at(start + DAY + HOUR).await, 1, "the digest");
    assert_eq!(delete_at(start + 2 * DAY - 1).await, 0);
    assert_eq!(delete_at(start + 2 * DAY).await, 1, "the record");
    assert_eq!(store.record("connection", "a").await.unwrap(), None);
    assert_eq!(delete_at(start + 30 * DAY - 1).await, 0);
    assert_eq!(pending_ids(&*store).await, [pending]);
    assert_eq!(delete_at(start + 30 * DAY + HOUR).await, 1 + 3, "the delivery and the concluded messages");
    // Envelopes are deleted by a request of their own, which returns them.
    assert!(store.expire_envelopes(start + DAY - 1, 10).await.unwrap().is_empty());
    assert!(store.expire_envelopes(start + DAY, 0).await.unwrap().is_empty());
    assert_eq!(store.expire_envelopes(start + DAY, 10).await.unwrap().len(), 1);
    assert!(pending_ids(&*store).await.is_empty());
    assert_eq!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    assert_eq!(delete_at(start + 40 * DAY).await, 1, "its digest");

    // Kept for ever by default: unread deliveries, waiting messages, and records that do not expire.
    assert_eq!(delete_at(start + 10_000 * DAY).await, 0);
    let store = reopen(location, store).await;
    assert_eq!(unread_ids(&*store).await, [delivery(2).id]);
    assert_eq!(store.outbox_entries(peer, &[], &[], 10).await.unwrap().len(), 1);
    assert!(store.record("connection", "b").await.unwrap().is_some());
    // Deleted marks and digests are unknown again.
    commit_ok(&*store, Commit { handled: Some(handled_message(1)), ..commit_of([]) }).await;
    let again = NewEnvelope { received: start + DAY, ..new_envelope(2) };
    assert!(matches!(store.receive(again).await.unwrap(), ReceiveOutcome::Stored(_)));

    let with_deliveries = Retention { deliveries: DAY, ..Retention::default() };
    assert_eq!(store.delete_expired(start + DAY - 1, &with_deliveries, 100).await.unwrap(), 1, "the mark");
    assert_eq!(unread_ids(&*store).await.len(), 1);
    assert_eq!(store.delete_expired(start + DAY + HOUR, &with_deliveries, 100).await.unwrap(), 1, "the delivery");
    assert!(unread_ids(&*store).await.is_empty());
}

/// A mark stays while an envelope waits that arrived before the mark's end: it may be a copy of the message.
pub async fn a_mark_outlives_the_copies_that_wait(location: &dyn StoreLocation) {
    let store = open(location).await;
    let copy = receive(&*store, new_envelope(1)).await;
    let mark = HandledMessage { until: now() + HOUR, ..handled_message(1) };
    commit_ok(&*store, Commit { handled: Some(mark.clone()), ..commit_of([]) }).await;
    assert_eq!(store.delete_expired(now() + 2 * DAY, &Retention::default(), 100).await.unwrap(), 0);
    let again = Commit { envelope: Some(copy), handled: Some(mark), ..commit_of([]) };
    assert_eq!(store.commit(again).await.unwrap(), CommitOutcome::Duplicate);
    assert_eq!(store.delete_expired(now() + 2 * DAY, &Retention::default(), 100).await.unwrap(), 1 + 1);
}

pub async fn deletion_stops_at_its_limit(location: &dyn StoreLocation) {
    let store = open(location).await;
    for number in 0..5 {
        let id = receive(&*store, new_envelope(number)).await;
        commit_ok(&*store, process_envelope(id)).await;
    }
    commit_ok(&*store, commit_of([0, 1, 2, 3, 4].map(|number| Change::Deliver(delivery(number))))).await;
    store.acknowledge(&[delivery(0).id, delivery(1).id, delivery(2).id]).await.unwrap();
    let retention = Retention { deliveries: DAY, ..Retention::default() };
    let later = now() + 40 * DAY;
    let mut gone = Vec::new();
    for _ in 0..5 {
        gone.push(store.delete_expired(later, &retention, 2).await.unwrap());
    }
    assert_eq!(gone, [4, 4, 2, 0, 0]);
    assert_eq!(store.delete_expired(later, &retention, 0).await.unwrap(), 0);
}

pub async fn usage_counts_the_content(location: &dyn StoreLocation) {
    let store = open(location).await;
    let empty = store.usage().await.unwrap();
    assert_eq!((empty.envelopes, empty.envelope_bytes, empty.deliveries, empty.outgoing), (0, 0, 0, 0));
    assert_eq!((empty.oldest_envelope, empty.oldest_delivery, empty.oldest_outgoing), (None, None, None));
    let first = receive(&*store, NewEnvelope { received: 20, ..large_envelope(1, 1000) }).await;
    receive(&*store, NewEnvelope { received: 10, ..large_envelope(2, 500) }).await;
    let changes = vec![
        Change::Deliver(Delivery { received: 40, ..delivery(1) }),
        Change::Deliver(Delivery { received: 30, ..delivery(2) }),
        Change::Send(OutboxEntry { created: 60, ..outgoing(1, "did:example:a") }),
        Change::Send(OutboxEntry { created: 50, ..outgoing(2, "did:example:b") }),
    ];
    commit_ok(&*store, commit_of(changes)).await;
    let store = reopen(location, store).await;
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.envelopes, usage.envelope_bytes, usage.deliveries, usage.outgoing), (2, 1500, 2, 2));
    assert_eq!(usage.delivery_bytes, 40);
    assert_eq!((usage.oldest_envelope, usage.oldest_delivery, usage.oldest_outgoing), (Some(10), Some(30), Some(50)));
    assert!(usage.bytes > 0);
    assert_eq!(store.pending_count(&new_envelope(1).recipient).await.unwrap(), 2);
    assert_eq!(store.pending_count("did:example:nobody").await.unwrap(), 0);
    commit_ok(&*store, process_envelope(first)).await;
    store.acknowledge(&[delivery(2).id]).await.unwrap();
    store.record_send_outcome("outgoing 2", SendOutcome::Sent(now()), None).await.unwrap();
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.envelopes, usage.envelope_bytes, usage.deliveries, usage.outgoing), (1, 500, 1, 1));
    assert_eq!(usage.delivery_bytes, 20);
    assert_eq!((usage.oldest_envelope, usage.oldest_delivery, usage.oldest_outgoing), (Some(10), Some(40), Some(60)));
}
