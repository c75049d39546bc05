//! Concurrent requests, cancelled callers, and requests to a closed store.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger::agent::store::{
    Change, Commit, CommitOutcome, OutboxQuery, ReceiveOutcome, Retention, SendOutcome, StoreError, ThreadPosition,
};

use crate::store::{
    fixtures::{all, commit_of, delivery, handled_message, new_envelope, now, outgoing, pending_ids, record, value_of},
    suite::{StoreLocation, commit_ok, open, reopen},
};

pub async fn a_closed_store_refuses_requests(location: &dyn StoreLocation) {
    let store = open(location).await;
    store.probe_write().await.unwrap();
    // A request that has begun is completed.
    let begun = tokio::spawn({
        let store = store.clone();
        async move { store.receive(new_envelope(1)).await }
    });
    store.close().await.unwrap();
    let begun = begun.await.unwrap();
    assert!(matches!(begun, Ok(ReceiveOutcome::Stored(_)) | Err(StoreError::Closed)), "{begun:?}");
    macro_rules! closed {
        ($($call:expr),* $(,)?) => {$(
            assert!(matches!($call.await, Err(StoreError::Closed)), stringify!($call));
        )*};
    }
    closed!(
        store.receive(new_envelope(2)),
        store.pending_envelopes(now(), &[], 1),
        store.peer_quota("", false),
        store.postpone(1, Default::default()),
        store.make_due(1),
        store.expire_envelopes(0, 1),
        store.commit(Commit::default()),
        store.deliveries(all()),
        store.acknowledge(&[]),
        store.outbox_peers(),
        store.outbox_entries("", &[], &[], 1),
        store.outbox_entry(""),
        store.record_send_outcome("", SendOutcome::Sent(0), None),
        store.outbox(OutboxQuery::default()),
        store.cancel_outgoing("", 1),
        store.thread_entries("", ThreadPosition::default(), 1),
        store.record("", ""),
        store.records("", "", 1),
        store.delete_expired(0, &Retention::default(), 1),
        store.usage(),
        store.probe_write(),
        store.close(),
    );
    drop(store);
    let store = open(location).await;
    assert_eq!(pending_ids(&*store).await.len(), usize::from(begun.is_ok()));
}

pub async fn hundreds_of_concurrent_envelopes_are_durable(location: &dyn StoreLocation) {
    let store = open(location).await;
    // Each envelope arrives twice.
    let tasks: Vec<_> = (0..600)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { (number % 300, store.receive(new_envelope(number % 300)).await.unwrap()) })
        })
        .collect();
    let mut receipts = BTreeMap::<u64, Vec<ReceiveOutcome>>::new();
    for task in tasks {
        let (number, receipt) = task.await.unwrap();
        receipts.entry(number).or_default().push(receipt);
    }
    let store = reopen(location, store).await;
    let stored: BTreeMap<_, _> = store
        .pending_envelopes(now(), &[], usize::MAX)
        .await
        .unwrap()
        .into_iter()
        .map(|envelope| (envelope.id, envelope.packed))
        .collect();
    assert_eq!(stored.len(), 300);
    for (number, receipts) in receipts {
        let id =
            receipts.iter().find_map(|receipt| if let ReceiveOutcome::Stored(id) = receipt { Some(*id) } else { None });
        let id = id.expect("one of them is stored");
        assert!(receipts.contains(&ReceiveOutcome::AlreadyPending(id)), "{receipts:?}");
        assert_eq!(stored[&id], new_envelope(number).packed);
    }
}

pub async fn a_write_is_visible_to_reads(location: &dyn StoreLocation) {
    let store = open(location).await;
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                commit_ok(&*store, commit_of([Change::Send(outgoing(number, &format!("did:example:{number}")))])).await;
                assert!(store.outbox_entry(&format!("outgoing {number}")).await.unwrap().is_some());
                store
                    .record_send_outcome(&format!("outgoing {number}"), SendOutcome::Later(7, String::new()), None)
                    .await
                    .unwrap();
                let found = store.outbox_entries(&format!("did:example:{number}"), &[], &[], 1).await.unwrap();
                assert_eq!(found[0].time, 7);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

pub async fn a_cancelled_caller_does_no_harm(location: &dyn StoreLocation) {
    let store = open(location).await;
    for number in 0..200 {
        // The envelope is stored only if the request was queued before the caller gave up. Both outcomes are valid.
        let call = store.receive(new_envelope(number));
        let _ = tokio::time::timeout(Duration::ZERO, call).await;
    }
    store.probe_write().await.unwrap();
    let stored = pending_ids(&*store).await.len();
    let store = reopen(location, store).await;
    assert_eq!(pending_ids(&*store).await.len(), stored);
    for number in 0..200 {
        store.receive(new_envelope(number)).await.unwrap();
    }
    assert_eq!(pending_ids(&*store).await.len(), 200);
}

/// A change that cannot be made fails its request, and no other one of the batch.
pub async fn a_change_that_fails_fails_its_request_alone(location: &dyn StoreLocation) {
    let store = open(location).await;
    commit_ok(&*store, commit_of([Change::Deliver(delivery(5))])).await;
    let commits = (0..20).map(|number| {
        let changes = commit_of([
            Change::Put(record(&number.to_string(), 0, "")),
            Change::Deliver(delivery(number)),
            Change::Send(outgoing(number, "did:example:them")),
        ]);
        store.commit(Commit { handled: Some(handled_message(number)), ..changes })
    });
    for (number, done) in (0..).zip(futures_util::future::join_all(commits).await) {
        // The id of this delivery is taken.
        let is_made = number != 5;
        match done {
            Ok(outcome) => assert!(is_made && outcome == CommitOutcome::Committed, "{number}"),
            Err(error) => assert!(!is_made && !error.is_retryable(), "{number}: {error}"),
        }
        let is_marked = !store.is_certainly_new(&handled_message(number), None).await.unwrap();
        let is_sent = store.outbox_entry(&format!("outgoing {number}")).await.unwrap().is_some();
        let is_written = value_of(&*store, &number.to_string()).await.is_some();
        assert_eq!((is_marked, is_sent, is_written), (is_made, is_made, is_made), "{number}");
    }
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.deliveries, usage.outgoing), (20, 19));
    store.close().await.unwrap();
}
