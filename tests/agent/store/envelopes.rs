//! Tests of pending envelopes: received, postponed and processed.

use claviger::agent::store::{
    Change, Commit, CommitOutcome, NewEnvelope, Postponement, ReceiveOutcome, Retention, Store,
};

use crate::store::{
    fixtures::{
        DAY, HOUR, all, commit_of, delivery, new_envelope, now, pending_ids, postponement, process_envelope, record,
    },
    suite::{StoreLocation, commit_ok, open, receive, reopen},
};

pub async fn an_envelope_is_stored_as_received(location: &dyn StoreLocation) {
    let store = open(location).await;
    let envelope = new_envelope(1);
    let id = receive(&*store, envelope.clone()).await;
    let check = async |store: &dyn Store| {
        let envelopes = store.pending_envelopes(now(), &[], 10).await.unwrap();
        let [found] = &envelopes[..] else { panic!("{envelopes:?}") };
        assert_eq!((found.id, &found.packed, &found.recipient), (id, &envelope.packed, &envelope.recipient));
        assert_eq!((found.received, found.tries, found.quota_checked), (envelope.received, 0, false));
    };
    check(&*store).await;
    check(&*reopen(location, store).await).await;
}

pub async fn a_known_envelope_is_not_stored_again(location: &dyn StoreLocation) {
    let store = open(location).await;
    let id = receive(&*store, new_envelope(1)).await;
    assert_eq!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyPending(id));
    let store = reopen(location, store).await;
    assert_eq!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyPending(id));
    assert_eq!(pending_ids(&*store).await, [id]);
    commit_ok(&*store, process_envelope(id)).await;
    assert_eq!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    let store = reopen(location, store).await;
    assert_eq!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    assert!(pending_ids(&*store).await.is_empty());
    assert_eq!(store.usage().await.unwrap().envelopes, 0);
    assert_eq!(store.pending_count(&new_envelope(1).recipient).await.unwrap(), 0);
}

pub async fn pending_envelopes_keep_their_order(location: &dyn StoreLocation) {
    let store = open(location).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        // The order does not depend on clocks.
        ids.push(receive(&*store, NewEnvelope { received: now() - number as i64, ..new_envelope(number) }).await);
    }
    assert_eq!(pending_ids(&*store).await, ids);
    let some = store.pending_envelopes(now(), &[ids[0], ids[2], 999_999], 3).await.unwrap();
    assert_eq!(some.iter().map(|envelope| envelope.id).collect::<Vec<_>>(), [ids[1], ids[3], ids[4]]);
    assert!(store.pending_envelopes(now(), &[], 0).await.unwrap().is_empty());
    assert!(store.pending_envelopes(now(), &ids, 10).await.unwrap().is_empty());
}

pub async fn a_postponed_envelope_is_due_later(location: &dyn StoreLocation) {
    let store = open(location).await;
    let (first, second) = (receive(&*store, new_envelope(1)).await, receive(&*store, new_envelope(2)).await);
    let until = now() + HOUR / 2;
    store.postpone(first, postponement(until, "the token is away")).await.unwrap();
    store.postpone(999_999, postponement(until, "there is none")).await.unwrap();
    let store = reopen(location, store).await;
    assert_eq!(pending_ids(&*store).await, [second]);
    assert!(store.pending_envelopes(until - 1, &[second], 10).await.unwrap().is_empty());
    let due = store.pending_envelopes(until, &[], 10).await.unwrap();
    assert_eq!(due.iter().map(|envelope| (envelope.id, envelope.tries)).collect::<Vec<_>>(), [(first, 1), (second, 0)]);
    store.postpone(first, postponement(until, "still")).await.unwrap();
    assert_eq!(store.pending_envelopes(until, &[second], 10).await.unwrap()[0].tries, 2);
}

/// When a token is back, everything is due that may wait for it.
pub async fn postponed_envelopes_are_made_due(location: &dyn StoreLocation) {
    let store = open(location).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(receive(&*store, new_envelope(number)).await);
    }
    let later = postponement(now() + HOUR / 2, "later");
    store.postpone(ids[0], later.clone()).await.unwrap();
    let unresolved = Postponement { unresolved_since: Some(7), ..later.clone() };
    store.postpone(ids[1], unresolved.clone()).await.unwrap();
    store.postpone(ids[1], Postponement { unresolved_since: Some(8), ..unresolved }).await.unwrap();
    for _ in 0..2 {
        store.postpone(ids[2], Postponement { attempted: true, ..later.clone() }).await.unwrap();
    }
    assert_eq!(pending_ids(&*store).await, [ids[3]]);
    store.make_due(2).await.unwrap();
    assert_eq!(pending_ids(&*store).await, [ids[0], ids[3]]);
    store.make_due(3).await.unwrap();
    assert_eq!(pending_ids(&*store).await, [ids[0], ids[2], ids[3]]);
    let all = store.pending_envelopes(now() + HOUR, &[], 10).await.unwrap();
    let attempts: Vec<_> = all.iter().map(|it| (it.attempts, it.unresolved_since)).collect();
    assert_eq!(attempts, [(0, None), (0, Some(7)), (2, None), (0, None)]);
}

pub async fn a_clock_set_back_loses_no_envelope(location: &dyn StoreLocation) {
    let store = open(location).await;
    let id = receive(&*store, NewEnvelope { received: now() + 30 * DAY, ..new_envelope(1) }).await;
    assert_eq!(pending_ids(&*store).await, [id]);
    store.postpone(id, postponement(now() + 30 * DAY, "the clock was ahead")).await.unwrap();
    assert_eq!(pending_ids(&*store).await, [id]);
}

pub async fn ids_and_cursors_are_never_reused(location: &dyn StoreLocation) {
    let mut store = open(location).await;
    let (mut numbers, mut cursors) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let id = receive(&*store, new_envelope(round)).await;
        commit_ok(&*store, Commit { envelope: Some(id), ..commit_of([Change::Deliver(delivery(round))]) }).await;
        let cursor = store.deliveries(all()).await.unwrap()[0].cursor;
        numbers.push(id);
        cursors.push(cursor);
        store.acknowledge(&[delivery(round).id]).await.unwrap();
        store.delete_expired(now() + 60 * DAY, &Retention::default(), 100).await.unwrap();
        assert!(store.deliveries(all()).await.unwrap().is_empty());
        // The cursor of a commit that failed is not used again either.
        let conflict = commit_of([Change::Deliver(delivery(100)), Change::Put(record("none", 7, ""))]);
        assert_eq!(store.commit(conflict).await.unwrap(), CommitOutcome::Conflict);
        if round == 1 {
            store = reopen(location, store).await;
        }
    }
    for given in [numbers, cursors] {
        assert!(given[0] > 0 && given.is_sorted_by(|one, next| one < next), "{given:?}");
    }
}
