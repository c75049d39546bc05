//! What comes, and waits to be opened.

use claviger::agent::store::{Arrival, Change, Commit, Committed, Receipt, Retention, Store};

use crate::store::{
    suite::{Place, done, open, receive, reopen},
    things::{DAY, HOUR, all, arrival, concluding, delivery, now, record, turn, waiting},
};

pub async fn what_comes_is_kept_as_it_came(place: &dyn Place) {
    let store = open(place).await;
    let came = arrival(1);
    let id = receive(&*store, came.clone()).await;
    let check = async |store: &dyn Store| {
        let envelopes = store.waiting(now(), &[], 10).await.unwrap();
        let [envelope] = &envelopes[..] else { panic!("{envelopes:?}") };
        assert_eq!((envelope.id, &envelope.packed, &envelope.recipient), (id, &came.packed, &came.recipient));
        assert_eq!((envelope.received, envelope.tries, envelope.charged), (came.received, 0, false));
    };
    check(&*store).await;
    check(&*reopen(place, store).await).await;
}

pub async fn a_known_digest_is_not_kept_again(place: &dyn Place) {
    let store = open(place).await;
    let id = receive(&*store, arrival(1)).await;
    assert_eq!(store.receive(arrival(1)).await.unwrap(), Receipt::Waiting(id));
    let store = reopen(place, store).await;
    assert_eq!(store.receive(arrival(1)).await.unwrap(), Receipt::Waiting(id));
    assert_eq!(waiting(&*store).await, [id]);
    done(&*store, concluding(id)).await;
    assert_eq!(store.receive(arrival(1)).await.unwrap(), Receipt::Concluded);
    let store = reopen(place, store).await;
    assert_eq!(store.receive(arrival(1)).await.unwrap(), Receipt::Concluded);
    assert!(waiting(&*store).await.is_empty());
    assert_eq!(store.usage().await.unwrap().envelopes, 0);
    assert_eq!(store.waiting_for(&arrival(1).recipient).await.unwrap(), 0);
}

pub async fn envelopes_wait_in_their_order(place: &dyn Place) {
    let store = open(place).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        // The peer's or our clock says nothing of the order.
        ids.push(receive(&*store, Arrival { received: now() - number as i64, ..arrival(number) }).await);
    }
    assert_eq!(waiting(&*store).await, ids);
    let some = store.waiting(now(), &[ids[0], ids[2], 999_999], 3).await.unwrap();
    assert_eq!(some.iter().map(|envelope| envelope.id).collect::<Vec<_>>(), [ids[1], ids[3], ids[4]]);
    assert!(store.waiting(now(), &[], 0).await.unwrap().is_empty());
    assert!(store.waiting(now(), &ids, 10).await.unwrap().is_empty());
}

pub async fn a_postponed_envelope_waits_for_its_time(place: &dyn Place) {
    let store = open(place).await;
    let (first, second) = (receive(&*store, arrival(1)).await, receive(&*store, arrival(2)).await);
    let until = now() + HOUR / 2;
    store.postpone(first, until, "the token is away").await.unwrap();
    store.postpone(999_999, until, "there is none").await.unwrap();
    let store = reopen(place, store).await;
    assert_eq!(waiting(&*store).await, [second]);
    assert!(store.waiting(until - 1, &[second], 10).await.unwrap().is_empty());
    let due = store.waiting(until, &[], 10).await.unwrap();
    assert_eq!(due.iter().map(|envelope| (envelope.id, envelope.tries)).collect::<Vec<_>>(), [(first, 1), (second, 0)]);
    store.postpone(first, until, "still").await.unwrap();
    assert_eq!(store.waiting(until, &[second], 10).await.unwrap()[0].tries, 2);
}

pub async fn a_clock_set_back_loses_no_envelope(place: &dyn Place) {
    let store = open(place).await;
    let id = receive(&*store, Arrival { received: now() + 30 * DAY, ..arrival(1) }).await;
    assert_eq!(waiting(&*store).await, [id]);
    store.postpone(id, now() + 30 * DAY, "the clock was ahead").await.unwrap();
    assert_eq!(waiting(&*store).await, [id]);
}

pub async fn numbers_and_cursors_are_never_given_twice(place: &dyn Place) {
    let mut store = open(place).await;
    let (mut numbers, mut cursors) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let id = receive(&*store, arrival(round)).await;
        done(&*store, Commit { envelope: Some(id), ..turn([Change::Deliver(delivery(round))]) }).await;
        let cursor = store.deliveries(all()).await.unwrap()[0].cursor;
        numbers.push(id);
        cursors.push(cursor);
        store.acknowledge(&[delivery(round).id]).await.unwrap();
        store.sweep(now() + 60 * DAY, &Retention::default(), 100).await.unwrap();
        assert!(store.deliveries(all()).await.unwrap().is_empty());
        // One that is not kept takes no cursor back either.
        let conflict = turn([Change::Deliver(delivery(100)), Change::Put(record("none", 7, ""))]);
        assert_eq!(store.commit(conflict).await.unwrap(), Committed::Conflict);
        if round == 1 {
            store = reopen(place, store).await;
        }
    }
    for given in [numbers, cursors] {
        assert!(given[0] > 0 && given.is_sorted_by(|one, next| one < next), "{given:?}");
    }
}
