//! What is written together, once, or not at all.

use std::collections::BTreeSet;

use claviger::agent::store::{Change, Commit, Committed, Handled, Receipt, SendState, Store};

use crate::store::{
    suite::{Place, done, open, receive, reopen},
    things::{PAST, arrival, concluding, delivered, delivery, handled, outgoing, record, turn, waiting},
};

pub async fn a_turn_is_made_whole(place: &dyn Place) {
    let store = open(place).await;
    let id = receive(&*store, arrival(1)).await;
    done(&*store, turn([Change::Put(record("old", 0, "value"))])).await;
    let changes = vec![
        Change::Deliver(delivery(1)),
        Change::Send(outgoing(1, "did:example:them")),
        Change::Put(record("new", 0, "one")),
        // In their order: this is the second change of it.
        Change::Put(record("new", 1, "two")),
        Change::Delete { kind: "connection".to_owned(), key: "old".to_owned() },
        Change::Delete { kind: "connection".to_owned(), key: "never was".to_owned() },
    ];
    done(&*store, Commit { envelope: Some(id), handled: Some(handled(1)), changes }).await;
    let store = reopen(place, store).await;
    assert!(waiting(&*store).await.is_empty());
    assert_eq!(delivered(&*store).await, [delivery(1).id]);
    let sent = store.sending("outgoing 1").await.unwrap().unwrap();
    assert_eq!((sent.state, sent.tries, sent.sealed), (SendState::Waiting, 0, Some(vec![1; 20])));
    assert_eq!(store.record("connection", "new").await.unwrap(), Some(record("new", 2, "two")));
    assert_eq!(store.record("connection", "old").await.unwrap(), None);
    // One without anything is no fault, nor is one whose envelope has gone.
    done(&*store, Commit::default()).await;
    done(&*store, concluding(id)).await;
}

pub async fn a_conflict_undoes_the_whole_turn(place: &dyn Place) {
    let store = open(place).await;
    let id = receive(&*store, arrival(1)).await;
    done(&*store, turn([Change::Put(record("a", 0, "one"))])).await;
    for wrong in [0, 2] {
        let changes = vec![
            Change::Deliver(delivery(1)),
            Change::Send(outgoing(1, "did:example:them")),
            Change::Put(record("b", 0, "new")),
            Change::Put(record("a", wrong, "two")),
        ];
        let turn = Commit { envelope: Some(id), handled: Some(handled(1)), changes };
        assert_eq!(store.commit(turn).await.unwrap(), Committed::Conflict);
    }
    let store = reopen(place, store).await;
    assert_eq!(waiting(&*store).await, [id]);
    assert!(delivered(&*store).await.is_empty() && store.peers().await.unwrap().is_empty());
    assert_eq!(store.record("connection", "b").await.unwrap(), None);
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 1, "one")));
    // The turn is taken again, and is not one that was handled before.
    let again = turn([Change::Put(record("a", 1, "two")), Change::Deliver(delivery(1))]);
    done(&*store, Commit { envelope: Some(id), handled: Some(handled(1)), ..again }).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 2, "two")));
    // There is none whose revision could be another's.
    assert_eq!(store.commit(turn([Change::Put(record("c", 1, ""))])).await.unwrap(), Committed::Conflict);
}

pub async fn a_message_is_handled_once(place: &dyn Place) {
    let store = open(place).await;
    let commit = |envelope, handled, number| Commit {
        envelope: Some(envelope),
        handled: Some(handled),
        changes: vec![Change::Deliver(delivery(number))],
    };
    let first = receive(&*store, arrival(1)).await;
    done(&*store, commit(first, handled(1), 1)).await;
    let store = reopen(place, store).await;
    // The same message in another envelope: it is concluded, too, even if a record has changed meanwhile.
    let second = receive(&*store, arrival(2)).await;
    let mut again = commit(second, handled(1), 2);
    again.changes.push(Change::Put(record("a", 7, "")));
    assert_eq!(store.commit(again).await.unwrap(), Committed::HandledBefore);
    assert!(waiting(&*store).await.is_empty());
    assert_eq!(store.receive(arrival(2)).await.unwrap(), Receipt::Concluded);
    assert_eq!(delivered(&*store).await, [delivery(1).id]);
    // Each of the three counts, and where one ends.
    let others = [
        Handled { sender: String::new(), ..handled(1) },
        Handled { recipient: "did:example:us2".to_owned(), ..handled(1) },
        handled(2),
        Handled { sender: "did:example:themd".to_owned(), recipient: "id:example:us".to_owned(), ..handled(1) },
    ];
    let mut places = vec![place_of(&*store, &handled(1)).await];
    for (number, other) in (3..).zip(others) {
        assert_eq!(place_of(&*store, &other).await, None);
        let envelope = receive(&*store, arrival(number)).await;
        done(&*store, commit(envelope, other.clone(), number)).await;
        places.push(place_of(&*store, &other).await);
    }
    assert!(places.iter().all(Option::is_some) && places.is_sorted_by(|one, next| one < next), "{places:?}");
}

async fn place_of(store: &dyn Store, it: &Handled) -> Option<i64> {
    store.handled(&it.sender, &it.recipient, &it.message).await.unwrap()
}

pub async fn an_expired_mark_counts_for_nothing(place: &dyn Place) {
    let store = open(place).await;
    let expired = Commit { handled: Some(Handled { until: PAST, ..handled(1) }), ..turn([]) };
    done(&*store, expired.clone()).await;
    done(&*store, expired).await;
    let lasting = Commit { handled: Some(handled(1)), ..turn([]) };
    done(&*store, lasting.clone()).await;
    assert_eq!(store.commit(lasting).await.unwrap(), Committed::HandledBefore);
}

pub async fn turns_at_once_are_all_or_nothing(place: &dyn Place) {
    let store = open(place).await;
    let tasks: Vec<_> = (0..300)
        .map(|number: u64| {
            let store = store.clone();
            tokio::spawn(async move {
                let id = receive(&*store, arrival(number)).await;
                // Thirty count one record up; who is late takes all changes back, and tries again.
                let mut turns = 0;
                loop {
                    turns += 1;
                    let key = format!("counter {}", number % 10);
                    let revision = store.record("connection", &key).await.unwrap().map_or(0, |found| found.revision);
                    let changes = [Change::Deliver(delivery(number)), Change::Put(record(&key, revision, ""))];
                    let turn = Commit { envelope: Some(id), handled: Some(handled(number)), changes: changes.into() };
                    match store.commit(turn).await.unwrap() {
                        Committed::Done => return turns,
                        Committed::Conflict => {}
                        Committed::HandledBefore => panic!("a turn that was undone left its mark"),
                    }
                }
            })
        })
        .collect();
    let mut turns = 0;
    for task in tasks {
        turns += task.await.unwrap();
    }
    assert!(turns >= 300);
    let store = reopen(place, store).await;
    assert!(waiting(&*store).await.is_empty());
    assert_eq!(delivered(&*store).await.into_iter().collect::<BTreeSet<_>>().len(), 300);
    let counters = store.records("connection", "", 100).await.unwrap();
    assert!(counters.len() == 10 && counters.iter().all(|counter| counter.revision == 30), "{counters:?}");
}
