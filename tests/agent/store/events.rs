//! The events for the application.

use claviger::agent::store::{
    Change, Commit, CommitOutcome, NewEvent, OutboxEntry, Retention, SendOutcome, Store, StoreError, StoredEvent,
    Stranger,
};

use crate::store::{
    fixtures::{DAY, commit_of, handled_message, now, outgoing, record},
    suite::{Limits, NO_LIMITS, StoreLocation, commit_ok, open, reopen},
};

const ALL: [&str; 3] = ["a", "b", "message.expired"];

fn event(kind: &str, data: &str) -> NewEvent {
    NewEvent { time: now(), kind: kind.to_owned(), data: data.to_owned() }
}

async fn write(store: &dyn Store, kinds: &[&str]) {
    let changes = kinds.iter().map(|kind| Change::Event(event(kind, "{}")));
    commit_ok(store, commit_of(changes.collect::<Vec<_>>())).await;
}

async fn read(store: &dyn Store, after: i64, kinds: &[&str], limit: usize) -> Vec<StoredEvent> {
    store.events(after, kinds, limit).await.expect("the store reads")
}

pub async fn events_are_read_in_order_by_kind(location: &dyn StoreLocation) {
    let store = open(location).await;
    assert!(read(&*store, 0, &ALL, 10).await.is_empty());
    let one = NewEvent { time: 7, ..event("a", "{\"n\":1}") };
    commit_ok(&*store, commit_of([Change::Event(one), Change::Event(event("b", "{}"))])).await;
    write(&*store, &["a", "b", "a"]).await;
    let all = read(&*store, 0, &ALL, 10).await;
    assert_eq!(all.iter().map(|event| &*event.kind).collect::<Vec<_>>(), ["a", "b", "a", "b", "a"]);
    assert!(all[0].cursor > 0 && all.is_sorted_by(|one, next| one.cursor < next.cursor), "{all:?}");
    assert_eq!((all[0].time, &*all[0].data), (7, "{\"n\":1}"));
    let store = reopen(location, store).await;
    let [one, two, three, four, five] = &all[..] else { panic!("{all:?}") };
    assert_eq!(read(&*store, 0, &["a"], 10).await, [one, three, five].map(Clone::clone));
    assert_eq!(read(&*store, one.cursor, &["b", "a", "b"], 2).await, [two, three].map(Clone::clone));
    assert_eq!(read(&*store, three.cursor, &["b", "none"], 10).await, std::slice::from_ref(four));
    assert!(read(&*store, five.cursor, &ALL, 10).await.is_empty());
    assert!(read(&*store, 0, &[], 10).await.is_empty() && read(&*store, 0, &ALL, 0).await.is_empty());
    for unknown in [-1, one.cursor - 1, five.cursor + 1] {
        let asked = store.events(unknown, &ALL, 10).await;
        assert!(matches!(asked, Err(StoreError::UnknownCursor(cursor)) if cursor == unknown), "{asked:?}");
    }
}

/// An event is in the store if and only if what it tells of is.
pub async fn an_event_is_written_with_what_it_tells(location: &dyn StoreLocation) {
    let store = open(location).await;
    let told = |number| Commit {
        handled: Some(handled_message(number)),
        ..commit_of([Change::Put(record("a", 0, "")), Change::Event(event("a", "{}"))])
    };
    commit_ok(&*store, told(1)).await;
    assert_eq!(store.commit(told(1)).await.unwrap(), CommitOutcome::Duplicate);
    assert_eq!(store.commit(told(2)).await.unwrap(), CommitOutcome::Conflict);
    assert_eq!(read(&*store, 0, &ALL, 10).await.len(), 1);

    // The outcome of an attempt to send: only one that changes the message.
    commit_ok(&*store, commit_of([1, 2, 3].map(|number| Change::Send(outgoing(number, "did:example:them"))))).await;
    let sent = async |id: &str, outcome| {
        store.record_send_outcome(id, outcome, Some(event("b", &format!("{{\"id\":\"{id}\"}}")))).await.unwrap();
    };
    sent("outgoing 1", SendOutcome::Sent(1)).await;
    sent("outgoing 1", SendOutcome::Sent(2)).await;
    sent("outgoing 1", SendOutcome::Failed(3, "late".to_owned())).await;
    sent("none", SendOutcome::Sent(1)).await;
    let found = read(&*store, 0, &["b"], 10).await;
    assert_eq!(found.iter().map(|event| &*event.data).collect::<Vec<_>>(), ["{\"id\":\"outgoing 1\"}"]);

    // Messages that expire untried: those that the function chooses.
    let of = |entry: &OutboxEntry| entry.by_application.then(|| event("message.expired", &format!("{:?}", entry.id)));
    let expired = store.expire_outgoing(now() + 2 * DAY, 10, of).await.unwrap();
    assert_eq!(expired.len(), 2);
    let found = read(&*store, 0, &["message.expired"], 10).await;
    assert_eq!(found.iter().map(|event| &*event.data).collect::<Vec<_>>(), ["\"outgoing 3\""]);
    assert!(store.expire_outgoing(now() + 2 * DAY, 10, of).await.unwrap().is_empty());
    assert_eq!(read(&*store, 0, &ALL, 10).await.len(), 3);
}

pub async fn old_and_surplus_events_are_deleted(location: &dyn StoreLocation) {
    let store = location.open(Limits { events: 4, ..NO_LIMITS }).await;
    let start = now();
    let at = |time| Change::Event(NewEvent { time, ..event("a", "{}") });
    commit_ok(&*store, commit_of([at(start - 30 * DAY), at(start - 29 * DAY), at(start), at(start)])).await;
    let all = read(&*store, 0, &ALL, 10).await;
    let delete = async |time, limit| store.delete_expired(time, &Retention::default(), limit).await.unwrap();
    assert_eq!(delete(start - DAY, 10).await, 0, "there are as many as may be");
    assert_eq!(delete(start, 10).await, 1, "the history is over");
    assert_eq!(read(&*store, 0, &ALL, 10).await, all[1..]);
    // The cursor of a deleted event stays known.
    assert_eq!(read(&*store, all[0].cursor, &ALL, 10).await, all[1..]);
    write(&*store, &["b", "a", "a"]).await;
    assert_eq!(delete(start, 1).await, 1, "the limit holds");
    assert_eq!(delete(start, 10).await, 1, "the oldest beyond four");
    assert_eq!(delete(start, 10).await, 0);
    let left = read(&*store, 0, &ALL, 10).await;
    assert_eq!((left.len(), left[0].clone(), &*left[1].kind), (4, all[3].clone(), "b"));
    // No cursor is used again, also if all events are gone.
    assert_eq!(delete(start + 31 * DAY, 10).await, 4);
    write(&*store, &["a"]).await;
    assert!(read(&*store, left[3].cursor, &ALL, 10).await[0].cursor > left[3].cursor);
}

/// A stranger cannot push the events of others out.
pub async fn events_of_strangers_take_a_tenth(location: &dyn StoreLocation) {
    let store = location.open(Limits { events: 30, ..NO_LIMITS }).await;
    write(&*store, &["a", "a"]).await;
    for number in 0..20 {
        let stranger = Some(Stranger { did: format!("did:example:{number}"), created: None });
        let handled = Some(handled_message(number));
        commit_ok(&*store, Commit { stranger, handled, ..commit_of([Change::Event(event("b", "{}"))]) }).await;
    }
    write(&*store, &["a"; 26]).await;
    let before = read(&*store, 0, &["b"], 100).await;
    assert_eq!(store.delete_expired(now(), &Retention::default(), 100).await.unwrap(), 17 + 1);
    assert_eq!(read(&*store, 0, &["b"], 100).await, before[17..]);
    assert_eq!(read(&*store, 0, &["a"], 100).await.len(), 27);
}
