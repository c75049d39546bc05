//! What the trait [`Store`] says of itself, sentence by sentence. Each backend is run against all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use claviger::agent::store::{
    Arrival, Change, Commit, Committed, Delivery, DeliveryQuery, Handled, Outgoing, Receipt, Record, Retention,
    SendOutcome, SendState, Store, StoreError, ThreadEntry,
};

pub use crate::quotas::*;
use crate::things::{
    DAY, HOUR, PAST, all, arrival, concluding, delivered, delivery, digest, handled, large, now, outgoing, record,
    turn, waiting,
};

/// Where a store is: opened again, after it was closed, it is the same one.
#[async_trait]
pub trait Place: Send + Sync {
    async fn open(&self, limits: Limits) -> Arc<dyn Store>;
}

/// How much a store may take.
#[derive(Clone, Copy)]
pub struct Limits {
    pub envelope_bytes: u64,
    pub envelopes_for: u64,
    pub envelope_bytes_for: u64,
    pub unread_bytes: u64,
    pub unread_from: u64,
    pub unread_bytes_from: u64,
    pub replies_to: u64,
}

pub const NO_LIMITS: Limits = Limits {
    envelope_bytes: 1 << 30,
    envelopes_for: 100_000,
    envelope_bytes_for: 1 << 30,
    unread_bytes: 1 << 30,
    unread_from: 100_000,
    unread_bytes_from: 1 << 30,
    replies_to: 100_000,
};

/// The tests, for the places that `$make` makes.
#[macro_export]
macro_rules! suite {
    ($make:expr) => {
        $crate::suite! { $make =>
            what_comes_is_kept_as_it_came
            a_known_digest_is_not_kept_again
            envelopes_wait_in_their_order
            a_postponed_envelope_waits_for_its_time
            a_clock_set_back_loses_no_envelope
            numbers_and_cursors_are_never_given_twice
            a_turn_is_made_whole
            a_conflict_undoes_the_whole_turn
            a_message_is_handled_once
            an_expired_mark_counts_for_nothing
            deliveries_come_in_their_order_and_by_query
            what_is_acknowledged_is_forgotten_once
            the_outbox_keeps_its_order_for_each_peer
            what_became_of_a_message_is_kept
            a_thread_has_both_sides_by_time
            records_are_kept_by_name_and_revision
            a_record_past_its_time_is_not_there
            a_sweep_takes_what_is_past_its_time
            a_sweep_takes_no_more_than_it_is_told
            usage_tells_how_much_there_is
            limits_are_kept
            a_recipient_has_so_much
            a_sender_leaves_so_many
            a_sender_leaves_so_much
            all_senders_leave_so_much
            a_peer_has_so_many_replies
            a_closed_store_says_so
            hundreds_at_once_are_all_durable
            turns_at_once_are_all_or_nothing
            what_was_written_is_read
            a_caller_that_went_away_harms_nobody
        }
        #[test]
        fn a_model_in_memory_agrees() {
            $crate::model::agrees($make);
        }
    };
    ($make:expr => $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $crate::suite::$test(&$make()).await;
        }
    )*};
}

async fn open(place: &dyn Place) -> Arc<dyn Store> {
    place.open(NO_LIMITS).await
}

async fn reopen(place: &dyn Place, store: Arc<dyn Store>) -> Arc<dyn Store> {
    store.close().await.expect("the store closes");
    drop(store);
    open(place).await
}

async fn receive(store: &dyn Store, arrival: Arrival) -> i64 {
    match store.receive(arrival).await.expect("it is kept") {
        Receipt::New(id) => id,
        other => panic!("{other:?}"),
    }
}

async fn done(store: &dyn Store, turn: Commit) {
    assert_eq!(store.commit(turn).await.expect("it is written"), Committed::Done);
}

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

pub async fn deliveries_come_in_their_order_and_by_query(place: &dyn Place) {
    let store = open(place).await;
    let other = Delivery { sender: String::new(), kind: "other".to_owned(), received: PAST, ..delivery(4) };
    let made = [delivery(1), delivery(2), delivery(3), other.clone()];
    done(&*store, turn(made.clone().map(Change::Deliver))).await;
    let store = reopen(place, store).await;
    let found = store.deliveries(all()).await.unwrap();
    let numbered: Vec<_> = found.iter().cloned().map(|found| Delivery { cursor: 0, ..found }).collect();
    let same = |one: &Delivery, other: &Delivery| one.id == other.id && one.sealed == other.sealed;
    assert!(numbered.len() == 4 && numbered.iter().zip(&made).all(|(one, other)| same(one, other)), "{found:?}");
    assert_eq!(numbered[3], other);
    assert!(found.is_sorted_by(|one, next| one.cursor < next.cursor));
    store.acknowledge(&[delivery(2).id]).await.unwrap();

    let ask = async |query| {
        let found = store.deliveries(query).await.unwrap();
        found.into_iter().map(|delivery| delivery.message).collect::<Vec<_>>().join(", ")
    };
    let query = DeliveryQuery { limit: 10, ..DeliveryQuery::default() };
    assert_eq!(ask(query.clone()).await, "message 1, message 3, message 4");
    assert_eq!(ask(DeliveryQuery { limit: 2, ..query.clone() }).await, "message 1, message 3");
    assert_eq!(ask(DeliveryQuery { limit: 0, ..query.clone() }).await, "");
    assert_eq!(ask(DeliveryQuery { after: found[0].cursor, ..query.clone() }).await, "message 3, message 4");
    assert_eq!(ask(DeliveryQuery { after: found[0].cursor, ..all() }).await, "message 2, message 3, message 4");
    assert_eq!(ask(DeliveryQuery { after: found[3].cursor, ..all() }).await, "");
    let thread = Some("thread 0".to_owned());
    assert_eq!(ask(DeliveryQuery { thread: thread.clone(), ..query.clone() }).await, "message 4");
    assert_eq!(ask(DeliveryQuery { thread: thread.clone(), ..all() }).await, "message 2, message 4");
    assert_eq!(ask(DeliveryQuery { kind: Some("other".to_owned()), ..query.clone() }).await, "message 4");
    assert_eq!(ask(DeliveryQuery { sender: Some(delivery(1).sender), ..query.clone() }).await, "message 1, message 3");
    assert_eq!(ask(DeliveryQuery { sender: Some(String::new()), ..query.clone() }).await, "message 4");
    let nothing = DeliveryQuery { thread, kind: Some("other".to_owned()), sender: Some(delivery(1).sender), ..all() };
    assert_eq!(ask(nothing).await, "");
}

pub async fn what_is_acknowledged_is_forgotten_once(place: &dyn Place) {
    let store = open(place).await;
    done(&*store, turn([1, 2, 3].map(|number| Change::Deliver(delivery(number))))).await;
    let ids = |numbers: &[u64]| numbers.iter().map(|number| delivery(*number).id).collect::<Vec<_>>();
    assert_eq!(store.acknowledge(&[]).await.unwrap(), 0);
    assert_eq!(store.acknowledge(&ids(&[1, 2, 2, 77])).await.unwrap(), 2);
    let store = reopen(place, store).await;
    assert_eq!(store.acknowledge(&ids(&[1, 2])).await.unwrap(), 0);
    assert_eq!(store.acknowledge(&ids(&[2, 3])).await.unwrap(), 1);
    let found = store.deliveries(all()).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|delivery| delivery.sealed.is_none()), "{found:?}");
    assert_eq!(store.usage().await.unwrap().deliveries, 0);
}

pub async fn the_outbox_keeps_its_order_for_each_peer(place: &dyn Place) {
    let store = open(place).await;
    assert!(store.peers().await.unwrap().is_empty());
    for number in 0..6 {
        let peer = if number % 2 == 0 { "did:example:even" } else { "did:example:odd" };
        // Neither the id nor the time says anything of the order.
        let outgoing =
            Outgoing { id: format!("{}", 9 - number), created: now() - number as i64, ..outgoing(number, peer) };
        done(&*store, turn([Change::Send(outgoing)])).await;
    }
    done(&*store, turn([Change::Send(Outgoing { peer: String::new(), ..outgoing(9, "") })])).await;
    let store = reopen(place, store).await;
    let peers: BTreeSet<_> = store.peers().await.unwrap().into_iter().collect();
    assert_eq!(peers, ["", "did:example:even", "did:example:odd"].map(str::to_owned).into());
    let ask = async |peer: &str, except: &[&str], limit| {
        let except: Vec<_> = except.iter().map(|id| id.to_string()).collect();
        let found = store.outgoing(peer, &except, limit).await.unwrap();
        found.into_iter().map(|outgoing| outgoing.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ask("did:example:even", &[], 10).await, "9 7 5");
    assert_eq!(ask("did:example:odd", &[], 10).await, "8 6 4");
    assert_eq!(ask("did:example:odd", &[], 2).await, "8 6");
    assert_eq!(ask("did:example:odd", &["8", "9", "none"], 10).await, "6 4");
    assert_eq!(ask("did:example:nobody", &[], 10).await, "");
    for id in ["9", "5", "7"] {
        store.sent(id, SendOutcome::Sent(now())).await.unwrap();
    }
    assert_eq!(ask("did:example:even", &[], 10).await, "");
    let peers: BTreeSet<_> = store.peers().await.unwrap().into_iter().collect();
    assert_eq!(peers, ["", "did:example:odd"].map(str::to_owned).into());
}

pub async fn what_became_of_a_message_is_kept(place: &dyn Place) {
    let store = open(place).await;
    let peer = "did:example:them";
    let made = [1, 2, 3, 4].map(|number| outgoing(number, peer));
    done(&*store, turn(made.clone().map(Change::Send))).await;
    let [sent, failed, expired, later] = made;
    assert_eq!(store.sending(&sent.id).await.unwrap(), Some(sent.clone()));
    assert_eq!(store.sending("none").await.unwrap(), None);
    store.sent("none", SendOutcome::Sent(1)).await.unwrap();

    let outcomes = [
        (&later.id, SendOutcome::Later(50, "no answer".to_owned())),
        (&later.id, SendOutcome::Later(60, "no answer yet".to_owned())),
        (&expired.id, SendOutcome::Later(50, "no answer".to_owned())),
        (&expired.id, SendOutcome::Expired(70)),
        (&sent.id, SendOutcome::Later(50, "no answer".to_owned())),
        (&sent.id, SendOutcome::Sent(80)),
        (&failed.id, SendOutcome::Failed(90, "no endpoint".to_owned())),
        // What is done with stays so.
        (&sent.id, SendOutcome::Failed(100, "late".to_owned())),
        (&failed.id, SendOutcome::Later(100, "late".to_owned())),
        (&expired.id, SendOutcome::Sent(100)),
    ];
    for (id, outcome) in outcomes {
        store.sent(id, outcome).await.unwrap();
    }
    let store = reopen(place, store).await;
    let now_is = async |outgoing: Outgoing, state, tries, time, problem: Option<&str>| {
        let sealed = outgoing.sealed.clone().filter(|_| state == SendState::Waiting);
        let wanted = Outgoing { state, tries, time, problem: problem.map(str::to_owned), sealed, ..outgoing };
        assert_eq!(store.sending(&wanted.id).await.unwrap(), Some(wanted));
    };
    now_is(later.clone(), SendState::Waiting, 2, 60, Some("no answer yet")).await;
    now_is(expired, SendState::Expired, 1, 70, Some("no answer")).await;
    now_is(sent, SendState::Sent, 1, 80, None).await;
    now_is(failed, SendState::Failed, 0, 90, Some("no endpoint")).await;
    let waiting = store.outgoing(peer, &[], 10).await.unwrap();
    assert_eq!(waiting.into_iter().map(|outgoing| outgoing.id).collect::<Vec<_>>(), [later.id]);
}

pub async fn a_thread_has_both_sides_by_time(place: &dyn Place) {
    let store = open(place).await;
    let changes = vec![
        Change::Send(Outgoing { created: 40, ..outgoing(0, "did:example:them") }),
        Change::Deliver(Delivery { received: 30, ..delivery(2) }),
        Change::Send(Outgoing { created: 20, ..outgoing(4, "did:example:them") }),
        Change::Deliver(Delivery { received: 10, ..delivery(6) }),
        Change::Deliver(Delivery { received: 15, ..delivery(7) }),
        // At one time, what came first stands first; an answer follows what it answers.
        Change::Send(Outgoing { created: 30, ..outgoing(8, "did:example:them") }),
        Change::Send(Outgoing { created: 30, ..outgoing(10, "did:example:them") }),
    ];
    done(&*store, turn(changes)).await;
    store.acknowledge(&[delivery(6).id]).await.unwrap();
    let store = reopen(place, store).await;
    let ask = async |thread: &str, limit| {
        let entries = store.thread(thread, limit).await.unwrap();
        let message = |entry| match entry {
            ThreadEntry::Received(delivery) => format!("< {}", delivery.message),
            ThreadEntry::Sent(outgoing) => format!("> {}", outgoing.message),
        };
        entries.into_iter().map(message).collect::<Vec<_>>().join(", ")
    };
    let whole = "< message 6, > message 4, < message 2, > message 8, > message 10, > message 0";
    assert_eq!(ask("thread 0", 10).await, whole);
    assert_eq!(ask("thread 0", 3).await, "< message 6, > message 4, < message 2");
    assert_eq!(ask("thread 1", 10).await, "< message 7");
    assert_eq!(ask("thread 2", 10).await, "");
}

pub async fn records_are_kept_by_name_and_revision(place: &dyn Place) {
    let store = open(place).await;
    let profile = Record { kind: "profile".to_owned(), ..record("a", 0, "another kind") };
    let names = ["b", "a", "ab", "é", "B", "a\0"];
    let mut changes: Vec<_> = names.map(|key| Change::Put(record(key, 0, key))).into();
    changes.push(Change::Put(profile.clone()));
    done(&*store, turn(changes)).await;
    let store = reopen(place, store).await;
    assert_eq!(store.record("connection", "ab").await.unwrap(), Some(record("ab", 1, "ab")));
    assert_eq!(store.record("profile", "a").await.unwrap(), Some(Record { revision: 1, ..profile }));
    assert_eq!(store.record("profile", "b").await.unwrap(), None);
    let ask = async |after: &str, limit| {
        let found = store.records("connection", after, limit).await.unwrap();
        found.into_iter().map(|record| record.key).collect::<Vec<_>>()
    };
    assert_eq!(ask("", 10).await, ["B", "a", "a\0", "ab", "b", "é"]);
    assert_eq!(ask("a", 2).await, ["a\0", "ab"]);
    assert!(ask("é", 10).await.is_empty());
    let all_at_once = names.map(|key| Change::Delete { kind: "connection".to_owned(), key: key.to_owned() });
    done(&*store, turn(all_at_once)).await;
    assert!(ask("", 10).await.is_empty());
    // It begins anew.
    done(&*store, turn([Change::Put(record("a", 0, "again"))])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 1, "again")));
}

pub async fn a_record_past_its_time_is_not_there(place: &dyn Place) {
    let store = open(place).await;
    let expired = Record { expires: Some(PAST), ..record("a", 0, "old") };
    let lasting = Record { expires: Some(now() + HOUR), ..record("b", 0, "new") };
    done(&*store, turn([Change::Put(expired.clone()), Change::Put(lasting)])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), None);
    let found = store.records("connection", "", 10).await.unwrap();
    assert_eq!(found.into_iter().map(|record| record.key).collect::<Vec<_>>(), ["b"]);
    let over = Change::Put(Record { revision: 1, ..expired });
    assert_eq!(store.commit(turn([over])).await.unwrap(), Committed::Conflict);
    done(&*store, turn([Change::Put(record("a", 0, "new"))])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 1, "new")));
}

pub async fn a_sweep_takes_what_is_past_its_time(place: &dyn Place) {
    let store = open(place).await;
    let start = now();
    let kept = receive(&*store, arrival(1)).await;
    let concluded = receive(&*store, arrival(2)).await;
    let marked = Commit { envelope: Some(concluded), handled: Some(handled(1)), ..turn([]) };
    done(&*store, marked).await;
    let peer = "did:example:them";
    let mut changes: Vec<_> = [1, 2].map(|number| Change::Deliver(delivery(number))).into();
    changes.extend([3, 4, 5, 6].map(|number| Change::Send(outgoing(number, peer))));
    changes.push(Change::Put(Record { expires: Some(start + 2 * DAY), ..record("a", 0, "") }));
    changes.push(Change::Put(record("b", 0, "")));
    done(&*store, turn(changes)).await;
    store.acknowledge(&[delivery(1).id]).await.unwrap();
    store.sent("outgoing 3", SendOutcome::Sent(now())).await.unwrap();
    store.sent("outgoing 4", SendOutcome::Failed(now(), String::new())).await.unwrap();
    store.sent("outgoing 5", SendOutcome::Expired(now())).await.unwrap();

    // One by one, as time goes on.
    let retention = Retention::default();
    let sweep = async |at| store.sweep(at, &retention, 100).await.unwrap();
    assert_eq!(sweep(start).await, 0);
    assert_eq!(sweep(start + HOUR - 1).await, 0);
    assert_eq!(sweep(start + 2 * HOUR).await, 1, "the mark");
    assert_eq!(sweep(start + DAY - 1).await, 0);
    assert_eq!(store.receive(arrival(2)).await.unwrap(), Receipt::Concluded);
    assert_eq!(sweep(start + DAY + HOUR).await, 1, "the digest");
    assert_eq!(sweep(start + 2 * DAY - 1).await, 0);
    assert_eq!(sweep(start + 2 * DAY).await, 1, "the record");
    assert_eq!(store.record("connection", "a").await.unwrap(), None);
    assert_eq!(sweep(start + 30 * DAY - 1).await, 0);
    assert_eq!(waiting(&*store).await, [kept]);
    assert_eq!(sweep(start + 30 * DAY + HOUR).await, 1 + 1 + 3, "the envelope, the delivery and what is done with");
    assert!(waiting(&*store).await.is_empty());

    // For ever, unless it is told otherwise: what is unread, what is to be sent, and a record without an end.
    assert_eq!(sweep(start + 10_000 * DAY).await, 0);
    let store = reopen(place, store).await;
    assert_eq!(delivered(&*store).await, [delivery(2).id]);
    assert_eq!(store.outgoing(peer, &[], 10).await.unwrap().len(), 1);
    assert!(store.record("connection", "b").await.unwrap().is_some());
    // What is forgotten is new.
    done(&*store, Commit { handled: Some(handled(1)), ..turn([]) }).await;
    assert!(matches!(store.receive(arrival(2)).await.unwrap(), Receipt::New(_)));

    let told = Retention { deliveries: DAY, ..Retention::default() };
    assert_eq!(store.sweep(start + DAY - 1, &told, 100).await.unwrap(), 1, "the mark");
    assert_eq!(delivered(&*store).await.len(), 1);
    assert_eq!(store.sweep(start + DAY + HOUR, &told, 100).await.unwrap(), 1, "the delivery");
    assert!(delivered(&*store).await.is_empty());
}

pub async fn a_sweep_takes_no_more_than_it_is_told(place: &dyn Place) {
    let store = open(place).await;
    for number in 0..5 {
        let id = receive(&*store, arrival(number)).await;
        done(&*store, concluding(id)).await;
    }
    done(&*store, turn([0, 1, 2, 3, 4].map(|number| Change::Deliver(delivery(number))))).await;
    store.acknowledge(&[delivery(0).id, delivery(1).id, delivery(2).id]).await.unwrap();
    let retention = Retention { deliveries: DAY, ..Retention::default() };
    let later = now() + 40 * DAY;
    let mut gone = Vec::new();
    for _ in 0..5 {
        gone.push(store.sweep(later, &retention, 2).await.unwrap());
    }
    assert_eq!(gone, [4, 4, 2, 0, 0]);
    assert_eq!(store.sweep(later, &retention, 0).await.unwrap(), 0);
}

pub async fn usage_tells_how_much_there_is(place: &dyn Place) {
    let store = open(place).await;
    let empty = store.usage().await.unwrap();
    assert_eq!((empty.envelopes, empty.envelope_bytes, empty.deliveries, empty.outgoing), (0, 0, 0, 0));
    assert_eq!((empty.oldest_envelope, empty.oldest_delivery, empty.oldest_outgoing), (None, None, None));
    let first = receive(&*store, Arrival { received: 20, ..large(1, 1000) }).await;
    receive(&*store, Arrival { received: 10, ..large(2, 500) }).await;
    let changes = vec![
        Change::Deliver(Delivery { received: 40, ..delivery(1) }),
        Change::Deliver(Delivery { received: 30, ..delivery(2) }),
        Change::Send(Outgoing { created: 60, ..outgoing(1, "did:example:a") }),
        Change::Send(Outgoing { created: 50, ..outgoing(2, "did:example:b") }),
    ];
    done(&*store, turn(changes)).await;
    let store = reopen(place, store).await;
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.envelopes, usage.envelope_bytes, usage.deliveries, usage.outgoing), (2, 1500, 2, 2));
    assert_eq!(usage.delivery_bytes, 40);
    assert_eq!((usage.oldest_envelope, usage.oldest_delivery, usage.oldest_outgoing), (Some(10), Some(30), Some(50)));
    assert!(usage.bytes > 0);
    assert_eq!(store.waiting_for(&arrival(1).recipient).await.unwrap(), 2);
    assert_eq!(store.waiting_for("did:example:nobody").await.unwrap(), 0);
    done(&*store, concluding(first)).await;
    store.acknowledge(&[delivery(2).id]).await.unwrap();
    store.sent("outgoing 2", SendOutcome::Sent(now())).await.unwrap();
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.envelopes, usage.envelope_bytes, usage.deliveries, usage.outgoing), (1, 500, 1, 1));
    assert_eq!(usage.delivery_bytes, 20);
    assert_eq!((usage.oldest_envelope, usage.oldest_delivery, usage.oldest_outgoing), (Some(10), Some(40), Some(60)));
}

pub async fn limits_are_kept(place: &dyn Place) {
    let store = place.open(Limits { envelope_bytes: 10_000, envelopes_for: 3, ..NO_LIMITS }).await;
    let refused = async |arrival| match store.receive(arrival).await {
        Err(error @ StoreError::Full(_)) => assert!(error.passes()),
        other => panic!("{other:?}"),
    };
    let first = receive(&*store, large(1, 6000)).await;
    refused(large(2, 4001)).await;
    receive(&*store, large(3, 4000)).await;
    refused(large(4, 1)).await;
    // It is kept already, and answered so.
    assert_eq!(store.receive(large(1, 6000)).await.unwrap(), Receipt::Waiting(first));
    store.probe().await.unwrap();
    done(&*store, concluding(first)).await;
    receive(&*store, large(5, 1)).await;
    receive(&*store, large(6, 1)).await;
    refused(large(7, 1)).await;
    assert_eq!(store.receive(large(1, 6000)).await.unwrap(), Receipt::Concluded);
    // One DID's queue is not another's.
    let second = receive(&*store, Arrival { recipient: "did:example:ours".to_owned(), ..large(7, 1) }).await;
    store.close().await.unwrap();
    drop(store);
    let store = place.open(Limits { envelope_bytes: 10_000, envelopes_for: 1, ..NO_LIMITS }).await;
    assert!(matches!(store.receive(large(8, 1)).await, Err(StoreError::Full(_))));
    done(&*store, concluding(second)).await;
    receive(&*store, Arrival { recipient: "did:example:ours".to_owned(), ..large(9, 1) }).await;
}

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
