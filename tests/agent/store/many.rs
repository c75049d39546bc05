//! Many who ask at once, or go away, or come when it is closed.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger::agent::store::{Change, Commit, Receipt, Retention, SendOutcome, StoreError};

use crate::store::{
    suite::{Place, done, open, reopen},
    things::{all, arrival, digest, now, outgoing, turn, waiting},
};

pub async fn a_closed_store_says_so(place: &dyn Place) {
    let store = open(place).await;
    store.probe().await.unwrap();
    // What was begun is ended.
    let begun = tokio::spawn({
        let store = store.clone();
        async move { store.receive(arrival(1)).await }
    });
    store.close().await.unwrap();
    let begun = begun.await.unwrap();
    assert!(matches!(begun, Ok(Receipt::New(_)) | Err(StoreError::Closed)), "{begun:?}");
    macro_rules! closed {
        ($($call:expr),* $(,)?) => {$(
            assert!(matches!($call.await, Err(StoreError::Closed)), stringify!($call));
        )*};
    }
    closed!(
        store.receive(arrival(2)),
        store.waiting(now(), &[], 1),
        store.room(""),
        store.postpone(1, 0, ""),
        store.commit(Commit::default()),
        store.deliveries(all()),
        store.acknowledge(&[]),
        store.peers(),
        store.outgoing("", &[], 1),
        store.sending(""),
        store.sent("", SendOutcome::Sent(0)),
        store.thread("", 1),
        store.record("", ""),
        store.records("", "", 1),
        store.sweep(0, &Retention::default(), 1),
        store.usage(),
        store.probe(),
        store.close(),
    );
    drop(store);
    let store = open(place).await;
    assert_eq!(waiting(&*store).await.len(), usize::from(begun.is_ok()));
}

pub async fn hundreds_at_once_are_all_durable(place: &dyn Place) {
    let store = open(place).await;
    // Each message twice: one of the two is the first.
    let tasks: Vec<_> = (0..600)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { (number % 300, store.receive(arrival(number % 300)).await.unwrap()) })
        })
        .collect();
    let mut receipts = BTreeMap::<u64, Vec<Receipt>>::new();
    for task in tasks {
        let (number, receipt) = task.await.unwrap();
        receipts.entry(number).or_default().push(receipt);
    }
    let store = reopen(place, store).await;
    let kept: BTreeMap<_, _> = store
        .waiting(now(), &[], usize::MAX)
        .await
        .unwrap()
        .into_iter()
        .map(|envelope| (envelope.id, envelope.packed))
        .collect();
    assert_eq!(kept.len(), 300);
    for (number, receipts) in receipts {
        let id = receipts.iter().find_map(|receipt| if let Receipt::New(id) = receipt { Some(*id) } else { None });
        let id = id.expect("one of them is new");
        assert!(receipts.contains(&Receipt::Waiting(id)), "{receipts:?}");
        assert_eq!(kept[&id], arrival(number).packed);
        assert_eq!(digest(number), arrival(number).digest);
    }
}

pub async fn what_was_written_is_read(place: &dyn Place) {
    let store = open(place).await;
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                done(&*store, turn([Change::Send(outgoing(number, &format!("did:example:{number}")))])).await;
                assert!(store.sending(&format!("outgoing {number}")).await.unwrap().is_some());
                store.sent(&format!("outgoing {number}"), SendOutcome::Later(7, String::new())).await.unwrap();
                let found = store.outgoing(&format!("did:example:{number}"), &[], 1).await.unwrap();
                assert_eq!(found[0].time, 7);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

pub async fn a_caller_that_went_away_harms_nobody(place: &dyn Place) {
    let store = open(place).await;
    for number in 0..200 {
        // Whether it was asked by then or not, it is kept whole or not at all.
        let call = store.receive(arrival(number));
        let _ = tokio::time::timeout(Duration::ZERO, call).await;
    }
    store.probe().await.unwrap();
    let kept = waiting(&*store).await.len();
    let store = reopen(place, store).await;
    assert_eq!(waiting(&*store).await.len(), kept);
    for number in 0..200 {
        store.receive(arrival(number)).await.unwrap();
    }
    assert_eq!(waiting(&*store).await.len(), 200);
}
