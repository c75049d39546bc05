//! Commits: all changes are made, once, or none.

use std::{collections::BTreeSet, sync::Arc};

use claviger::agent::store::{
    Change, Commit, CommitOutcome, Expectation, HandledMessage, ReceiveOutcome, Record, SendState, Store, StoreError,
    UNREAD, digest_beginning,
};

use crate::store::{
    fixtures::{
        PAST, commit_of, delivery, handled_message, large_envelope, new_envelope, outgoing, pending_ids,
        process_envelope, record, revision_of, unread_ids, value_of,
    },
    suite::{Limits, NO_LIMITS, StoreLocation, commit_ok, open, receive, reopen},
};

pub async fn a_commit_makes_all_changes(location: &dyn StoreLocation) {
    let store = open(location).await;
    let id = receive(&*store, new_envelope(1)).await;
    commit_ok(&*store, commit_of([Change::Put(record("old", 0, "value"))])).await;
    let changes = vec![
        Change::Deliver(delivery(1)),
        Change::Send(outgoing(1, "did:example:them")),
        Change::Put(record("new", 0, "one")),
        // Changes are made in order: this one changes the record a second time.
        Change::Put(record("new", UNREAD, "two")),
        Change::Delete { kind: "connection".to_owned(), key: "old".to_owned() },
        Change::Delete { kind: "connection".to_owned(), key: "never was".to_owned() },
    ];
    commit_ok(&*store, Commit { envelope: Some(id), handled: Some(handled_message(1)), ..commit_of(changes) }).await;
    let store = reopen(location, store).await;
    assert!(pending_ids(&*store).await.is_empty());
    assert_eq!(unread_ids(&*store).await, [delivery(1).id]);
    let sent = store.outbox_entry("outgoing 1").await.unwrap().unwrap();
    assert_eq!((sent.state, sent.tries, sent.sealed), (SendState::Waiting, 0, Some(vec![1; 20])));
    assert_eq!((value_of(&*store, "new").await.as_deref(), value_of(&*store, "old").await), (Some("two"), None));
    // An empty commit is no error, nor is a commit whose envelope is gone.
    commit_ok(&*store, Commit::default()).await;
    commit_ok(&*store, process_envelope(id)).await;
}

pub async fn a_conflict_undoes_all_changes(location: &dyn StoreLocation) {
    let store = open(location).await;
    let id = receive(&*store, new_envelope(1)).await;
    commit_ok(&*store, commit_of([Change::Put(record("a", 0, "one"))])).await;
    let revision = revision_of(&*store, "a").await;
    for wrong in [0, revision + 1] {
        let changes = vec![
            Change::Deliver(delivery(1)),
            Change::Send(outgoing(1, "did:example:them")),
            Change::Put(record("b", 0, "new")),
            Change::Put(record("a", wrong, "two")),
        ];
        let commit = Commit { envelope: Some(id), handled: Some(handled_message(1)), ..commit_of(changes) };
        assert_eq!(store.commit(commit).await.unwrap(), CommitOutcome::Conflict);
    }
    let store = reopen(location, store).await;
    assert_eq!(pending_ids(&*store).await, [id]);
    assert!(unread_ids(&*store).await.is_empty() && store.outbox_peers().await.unwrap().is_empty());
    assert_eq!(store.record("connection", "b").await.unwrap(), None);
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", revision, "one")));
    // The commit is repeated with the current revision. The failed attempts left no mark.
    let again = commit_of([Change::Put(record("a", revision, "two")), Change::Deliver(delivery(1))]);
    commit_ok(&*store, Commit { envelope: Some(id), handled: Some(handled_message(1)), ..again }).await;
    assert_eq!(value_of(&*store, "a").await.as_deref(), Some("two"));
    assert!(revision_of(&*store, "a").await > revision);
    // A record that does not exist has the revision 0.
    assert_eq!(store.commit(commit_of([Change::Put(record("c", 1, ""))])).await.unwrap(), CommitOutcome::Conflict);
}

fn expects(key: &str, revision: i64) -> Expectation {
    Expectation { kind: "connection".to_owned(), key: key.to_owned(), revision }
}

pub async fn a_commit_is_made_if_its_expectations_hold(location: &dyn StoreLocation) {
    let store = open(location).await;
    let id = receive(&*store, new_envelope(1)).await;
    let put = async |key: &str| {
        commit_ok(&*store, commit_of([Change::Put(record(key, UNREAD, "x"))])).await;
        revision_of(&*store, key).await
    };
    let delete = async |key: &str| {
        let gone = Change::Delete { kind: "connection".to_owned(), key: key.to_owned() };
        commit_ok(&*store, commit_of([gone])).await;
    };
    let attempt = async |expected: Vec<Expectation>| {
        let changes = vec![Change::Deliver(delivery(1)), Change::Put(record("changed", 0, "x"))];
        let commit = Commit { envelope: Some(id), handled: Some(handled_message(1)), ..commit_of(changes) };
        store.commit(Commit { expects: expected, ..commit }).await.unwrap()
    };
    let first = put("a").await;
    let second = put("a").await;
    let present = expects("a", second);
    let with_present = |expected| vec![expects("a", second), expected];
    assert_eq!(attempt(vec![expects("a", first)]).await, CommitOutcome::Conflict);
    assert_eq!(attempt(vec![expects("a", 0)]).await, CommitOutcome::Conflict);
    assert_eq!(attempt(with_present(expects("b", 1))).await, CommitOutcome::Conflict, "there is none");
    let b = put("b").await;
    assert_eq!(attempt(with_present(expects("b", 0))).await, CommitOutcome::Conflict, "it was made since");
    delete("b").await;
    assert_eq!(attempt(with_present(expects("b", b))).await, CommitOutcome::Conflict, "it was deleted since");
    put("b").await;
    assert_eq!(attempt(with_present(expects("b", b))).await, CommitOutcome::Conflict, "it was made anew since");
    commit_ok(&*store, commit_of([Change::Put(Record { expires: Some(PAST), ..record("c", 0, "x") })])).await;
    assert_eq!(attempt(with_present(expects("c", 1))).await, CommitOutcome::Conflict, "it has expired");
    // None of the attempts has changed anything.
    let store = reopen(location, store.clone()).await;
    assert_eq!(pending_ids(&*store).await, [id]);
    assert!(unread_ids(&*store).await.is_empty() && value_of(&*store, "changed").await.is_none());
    let expected =
        vec![present, expects("never was", 0), expects("c", 0), Expectation { kind: "b".into(), ..expects("a", 0) }];
    let changes = vec![Change::Deliver(delivery(1)), Change::Put(record("a", second, "new"))];
    let commit =
        Commit { envelope: Some(id), handled: Some(handled_message(1)), expects: expected, ..commit_of(changes) };
    commit_ok(&*store, commit.clone()).await;
    assert_eq!((unread_ids(&*store).await.len(), value_of(&*store, "a").await.as_deref()), (1, Some("new")));
    // What was handled is a duplicate to whom expects what is there.
    assert_eq!(store.commit(commit.clone()).await.unwrap(), CommitOutcome::Conflict);
    let again = Commit { expects: Vec::new(), ..commit };
    assert_eq!(store.commit(again).await.unwrap(), CommitOutcome::Duplicate);
}

/// Expectations of many commits at once: each record is made by one of them, and the others find that.
pub async fn of_concurrent_commits_with_one_expectation_one_is_made(location: &dyn StoreLocation) {
    let store = open(location).await;
    let commit = |number: u64, key: String| {
        let store = store.clone();
        async move {
            let changes = [Change::Put(record(&key, UNREAD, "x")), Change::Deliver(delivery(number))];
            let expects = vec![expects(&key, 0), expects("never was", 0)];
            store.commit(Commit { expects, ..commit_of(changes) }).await.unwrap() == CommitOutcome::Committed
        }
    };
    let tasks: Vec<_> = (0..200).map(|number| tokio::spawn(commit(number, format!("key {}", number % 20)))).collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!((made, unread_ids(&*store).await.len()), (20, 20));
}

/// A commit with an envelope that was not stored has the effects of `receive` and of the commit of a stored one.
pub async fn an_envelope_is_processed_before_it_is_stored(location: &dyn StoreLocation) {
    let store = location.open(Limits { envelope_bytes: 10_000, ..NO_LIMITS }).await;
    let commit = |envelope, number| Commit {
        arrived: Some(Arc::new(envelope)),
        handled: Some(handled_message(number)),
        ..commit_of([Change::Deliver(delivery(number))])
    };
    commit_ok(&*store, commit(new_envelope(1), 1)).await;
    assert!(pending_ids(&*store).await.is_empty());
    assert_eq!(store.receive(new_envelope(1)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    // The same envelope again changes nothing, whatever it is said to contain.
    assert_eq!(store.commit(commit(new_envelope(1), 2)).await.unwrap(), CommitOutcome::Duplicate);
    assert_eq!(position_of(&*store, &handled_message(2)).await, None);
    // Another envelope with the same message.
    assert_eq!(store.commit(commit(new_envelope(2), 1)).await.unwrap(), CommitOutcome::Duplicate);
    assert_eq!(store.receive(new_envelope(2)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    // A copy was stored meanwhile.
    receive(&*store, new_envelope(3)).await;
    commit_ok(&*store, commit(new_envelope(3), 3)).await;
    assert!(pending_ids(&*store).await.is_empty());
    // What is rolled back leaves no digest.
    let mut stale = commit(new_envelope(4), 4);
    stale.changes.push(Change::Put(record("a", 7, "")));
    assert_eq!(store.commit(stale).await.unwrap(), CommitOutcome::Conflict);
    let too_large = store.commit(commit(large_envelope(5, 10_001), 5)).await;
    assert!(matches!(too_large, Err(StoreError::Full(_))), "{too_large:?}");
    assert_eq!(unread_ids(&*store).await, [delivery(1).id, delivery(3).id]);
    let pending = receive(&*store, new_envelope(4)).await;
    assert_eq!(pending_ids(&*store).await, [pending]);
    // The store tells what it knows.
    let mut known = store.known_digests(usize::MAX).await.unwrap();
    let mut expected: Vec<_> = (1..=4).map(|number| digest_beginning(&new_envelope(number).digest)).collect();
    known.sort_unstable();
    expected.sort_unstable();
    assert_eq!(known, expected);
}

pub async fn a_message_is_handled_once(location: &dyn StoreLocation) {
    let store = open(location).await;
    let commit = |envelope, handled, number| Commit {
        envelope: Some(envelope),
        handled: Some(handled),
        ..commit_of([Change::Deliver(delivery(number))])
    };
    let first = receive(&*store, new_envelope(1)).await;
    commit_ok(&*store, commit(first, handled_message(1), 1)).await;
    let store = reopen(location, store).await;
    // The same message in another envelope. The envelope is processed too, even if a record has changed meanwhile.
    let second = receive(&*store, new_envelope(2)).await;
    let mut again = commit(second, handled_message(1), 2);
    again.changes.push(Change::Put(record("a", 7, "")));
    assert_eq!(store.commit(again).await.unwrap(), CommitOutcome::Duplicate);
    assert!(pending_ids(&*store).await.is_empty());
    assert_eq!(store.receive(new_envelope(2)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    assert_eq!(unread_ids(&*store).await, [delivery(1).id]);
    // The mark depends on sender, recipient and id, and on where each of them ends.
    let others = [
        HandledMessage { sender: String::new(), ..handled_message(1) },
        HandledMessage { recipient: "did:example:us2".to_owned(), ..handled_message(1) },
        handled_message(2),
        HandledMessage {
            sender: "did:example:themd".to_owned(),
            recipient: "id:example:us".to_owned(),
            ..handled_message(1)
        },
    ];
    let mut positions = vec![position_of(&*store, &handled_message(1)).await];
    for (number, other) in (3..).zip(others) {
        assert_eq!(position_of(&*store, &other).await, None);
        let envelope = receive(&*store, new_envelope(number)).await;
        commit_ok(&*store, commit(envelope, other.clone(), number)).await;
        positions.push(position_of(&*store, &other).await);
    }
    assert!(positions.iter().all(Option::is_some) && positions.is_sorted_by(|one, next| one < next), "{positions:?}");
}

async fn position_of(store: &dyn Store, message: &HandledMessage) -> Option<i64> {
    store.handled_position(&message.sender, &message.recipient, &message.message).await.unwrap()
}

/// A peer sends a message again after a rotation: the message has another sender or recipient.
pub async fn a_message_is_handled_once_under_all_names(location: &dyn StoreLocation) {
    let store = open(location).await;
    let old = handled_message(1);
    let names = |handled: &HandledMessage| (handled.sender.clone(), handled.recipient.clone());
    let new = HandledMessage { sender: "did:example:new".to_owned(), earlier: vec![names(&old)], ..old.clone() };
    let handled = |handled: HandledMessage| Commit { handled: Some(handled), ..commit_of([]) };
    commit_ok(&*store, handled(new.clone())).await;
    assert_eq!(store.commit(handled(old)).await.unwrap(), CommitOutcome::Duplicate);
    assert_eq!(store.commit(handled(new)).await.unwrap(), CommitOutcome::Duplicate);
    // The other way round, the caller has to look again, since the rotation may still have an effect.
    let old = handled_message(2);
    let new = HandledMessage { sender: "did:example:new".to_owned(), earlier: vec![names(&old)], ..old.clone() };
    commit_ok(&*store, handled(old)).await;
    assert_eq!(store.commit(handled(new.clone())).await.unwrap(), CommitOutcome::Conflict);
    commit_ok(&*store, handled(HandledMessage { earlier: Vec::new(), ..new })).await;
}

pub async fn an_expired_mark_is_ignored(location: &dyn StoreLocation) {
    let store = open(location).await;
    let expired = Commit { handled: Some(HandledMessage { until: PAST, ..handled_message(1) }), ..commit_of([]) };
    commit_ok(&*store, expired.clone()).await;
    commit_ok(&*store, expired).await;
    let lasting = Commit { handled: Some(handled_message(1)), ..commit_of([]) };
    commit_ok(&*store, lasting.clone()).await;
    assert_eq!(store.commit(lasting).await.unwrap(), CommitOutcome::Duplicate);
}

pub async fn concurrent_commits_are_atomic(location: &dyn StoreLocation) {
    let store = open(location).await;
    let tasks: Vec<_> = (0..300)
        .map(|number: u64| {
            let store = store.clone();
            tokio::spawn(async move {
                let id = receive(&*store, new_envelope(number)).await;
                // Thirty tasks increment each counter. A task with an old revision makes no change, and tries again.
                loop {
                    let key = format!("counter {}", number % 10);
                    let found = store.record("connection", &key).await.unwrap();
                    let (revision, count) = found.map_or((0, 0), |found| (found.revision, found.value.len()));
                    let counted = Change::Put(record(&key, revision, &"x".repeat(count + 1)));
                    let changes = [Change::Deliver(delivery(number)), counted];
                    let commit =
                        Commit { envelope: Some(id), handled: Some(handled_message(number)), ..commit_of(changes) };
                    match store.commit(commit).await.unwrap() {
                        CommitOutcome::Committed => return,
                        CommitOutcome::Conflict => {}
                        outcome => panic!("an undone commit left its mark: {outcome:?}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let store = reopen(location, store).await;
    assert!(pending_ids(&*store).await.is_empty());
    assert_eq!(unread_ids(&*store).await.into_iter().collect::<BTreeSet<_>>().len(), 300);
    let counters = store.records("connection", "", 100).await.unwrap();
    assert!(counters.len() == 10 && counters.iter().all(|counter| counter.value.len() == 30), "{counters:?}");
}
