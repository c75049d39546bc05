//! Deliveries to the application, and the outbox.

use std::collections::BTreeSet;

use claviger::agent::store::{
    Change, Delivery, DeliveryQuery, OutboxEntry, OutboxQuery, SendOutcome, SendState, Store, StoreError, ThreadEntry,
    ThreadPosition,
};

use crate::store::{
    fixtures::{PAST, all, commit_of, delivery, now, outgoing},
    suite::{StoreLocation, commit_ok, open, reopen},
};

pub async fn deliveries_are_ordered_and_filtered(location: &dyn StoreLocation) {
    let store = open(location).await;
    let other = Delivery { sender: String::new(), kind: "other".to_owned(), received: PAST, ..delivery(4) };
    let made = [delivery(1), delivery(2), delivery(3), other.clone()];
    commit_ok(&*store, commit_of(made.clone().map(Change::Deliver))).await;
    let store = reopen(location, store).await;
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

pub async fn unknown_cursors_are_refused(location: &dyn StoreLocation) {
    let store = open(location).await;
    let ask = async |store: &dyn Store, after| store.deliveries(DeliveryQuery { after, ..all() }).await;
    let unknown = async |store: &dyn Store, after| {
        let asked = ask(store, after).await;
        assert!(matches!(asked, Err(StoreError::UnknownCursor(cursor)) if cursor == after), "{after}: {asked:?}");
    };
    assert!(ask(&*store, 0).await.unwrap().is_empty());
    for after in [i64::MIN, -1, i64::MAX] {
        unknown(&*store, after).await;
    }
    commit_ok(&*store, commit_of([1, 2].map(|number| Change::Deliver(delivery(number))))).await;
    let store = reopen(location, store).await;
    let last = ask(&*store, 0).await.unwrap()[1].cursor;
    assert!(ask(&*store, last).await.unwrap().is_empty());
    unknown(&*store, last + 1).await;
    commit_ok(&*store, commit_of([Change::Deliver(delivery(3))])).await;
    let next = ask(&*store, last).await.unwrap();
    assert_eq!(next.iter().map(|delivery| delivery.id.clone()).collect::<Vec<_>>(), [delivery(3).id]);
    assert!(ask(&*store, next[0].cursor).await.unwrap().is_empty());
}

pub async fn large_deliveries_are_read_in_parts(location: &dyn StoreLocation) {
    let store = open(location).await;
    let large = |number| Delivery { sealed: Some(vec![7; 100_000]), ..delivery(number) };
    commit_ok(&*store, commit_of([1, 2, 3, 4].map(|number| Change::Deliver(large(number))))).await;
    let count = async |max_bytes| store.deliveries(DeliveryQuery { max_bytes, ..all() }).await.unwrap().len();
    for (max_bytes, expected) in [(None, 4), (Some(1), 1), (Some(150_000), 1), (Some(250_000), 2), (Some(1 << 20), 4)] {
        assert_eq!(count(max_bytes).await, expected, "{max_bytes:?}");
    }
    // The entries of a thread have no content, and say whether there is some.
    let thread = large(1).thread;
    store.acknowledge(&[large(1).id]).await.unwrap();
    let entries = store.thread_entries(&thread, ThreadPosition::default(), 10).await.unwrap();
    let contents = entries.iter().filter_map(|(_, entry)| match entry {
        ThreadEntry::Received(delivery) => Some((delivery.id.clone(), delivery.sealed.clone())),
        ThreadEntry::Sent(_) => None,
    });
    for (id, content) in contents {
        assert_eq!(content, if id == large(1).id { None } else { Some(Vec::new()) }, "{id}");
    }
}

pub async fn acknowledged_content_is_deleted_once(location: &dyn StoreLocation) {
    let store = open(location).await;
    commit_ok(&*store, commit_of([1, 2, 3].map(|number| Change::Deliver(delivery(number))))).await;
    let ids = |numbers: &[u64]| numbers.iter().map(|number| delivery(*number).id).collect::<Vec<_>>();
    assert_eq!(store.acknowledge(&[]).await.unwrap(), 0);
    assert_eq!(store.acknowledge(&ids(&[1, 2, 2, 77])).await.unwrap(), 2);
    let store = reopen(location, store).await;
    assert_eq!(store.acknowledge(&ids(&[1, 2])).await.unwrap(), 0);
    assert_eq!(store.acknowledge(&ids(&[2, 3])).await.unwrap(), 1);
    let found = store.deliveries(all()).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|delivery| delivery.sealed.is_none()), "{found:?}");
    assert_eq!(store.usage().await.unwrap().deliveries, 0);

    // They are still found by their ids, and by the beginning of these.
    let by_id = async |beginning: &str, limit| {
        let found = store.deliveries_by_id(beginning, limit).await.unwrap();
        found.into_iter().map(|delivery| delivery.id).collect::<Vec<_>>()
    };
    let [first, second, third] = &ids(&[1, 2, 3])[..] else { panic!("three ids") };
    assert_eq!(by_id(second, 2).await, std::slice::from_ref(second));
    let common: String = first.chars().zip(second.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    assert_eq!(by_id(&common, 10).await, [first.clone(), second.clone(), third.clone()]);
    assert_eq!(by_id(&common, 2).await.len(), 2);
    assert_eq!(by_id(&format!("{third}x"), 2).await, [""; 0]);
}

pub async fn the_outbox_keeps_the_order_of_each_peer(location: &dyn StoreLocation) {
    let store = open(location).await;
    assert!(store.outbox_peers().await.unwrap().is_empty());
    for number in 0..6 {
        let peer = if number % 2 == 0 { "did:example:even" } else { "did:example:odd" };
        // The order depends on neither the id nor the time.
        let outgoing =
            OutboxEntry { id: format!("{}", 9 - number), created: now() - number as i64, ..outgoing(number, peer) };
        commit_ok(&*store, commit_of([Change::Send(outgoing)])).await;
    }
    commit_ok(&*store, commit_of([Change::Send(OutboxEntry { peer: String::new(), ..outgoing(9, "") })])).await;
    let store = reopen(location, store).await;
    let peers: BTreeSet<_> = store.outbox_peers().await.unwrap().into_iter().collect();
    assert_eq!(peers, ["", "did:example:even", "did:example:odd"].map(str::to_owned).into());
    let ask = async |peer: &str, except: &[&str], limit| {
        let except: Vec<_> = except.iter().map(|id| id.to_string()).collect();
        let found = store.outbox_entries(peer, &[], &except, limit).await.unwrap();
        found.into_iter().map(|outgoing| outgoing.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ask("did:example:even", &[], 10).await, "9 7 5");
    assert_eq!(ask("did:example:odd", &[], 10).await, "8 6 4");
    assert_eq!(ask("did:example:odd", &[], 2).await, "8 6");
    assert_eq!(ask("did:example:odd", &["8", "9", "none"], 10).await, "6 4");
    assert_eq!(ask("did:example:nobody", &[], 10).await, "");
    for id in ["9", "5", "7"] {
        store.record_send_outcome(id, SendOutcome::Sent(now()), None).await.unwrap();
    }
    assert_eq!(ask("did:example:even", &[], 10).await, "");
    let peers: BTreeSet<_> = store.outbox_peers().await.unwrap().into_iter().collect();
    assert_eq!(peers, ["", "did:example:odd"].map(str::to_owned).into());
}

pub async fn send_outcomes_are_recorded(location: &dyn StoreLocation) {
    let store = open(location).await;
    let peer = "did:example:them";
    let made = [1, 2, 3, 4, 5].map(|number| outgoing(number, peer));
    commit_ok(&*store, commit_of(made.clone().map(Change::Send))).await;
    let [sent, failed, expired, later, in_flight] = made;
    assert_eq!(store.outbox_entry(&sent.id).await.unwrap(), Some(sent.clone()));
    assert_eq!(store.outbox_entry("none").await.unwrap(), None);
    store.record_send_outcome("none", SendOutcome::Sent(1), None).await.unwrap();

    let outcomes = [
        (&later.id, SendOutcome::Later(50, "no answer".to_owned())),
        (&later.id, SendOutcome::Later(60, "no answer yet".to_owned())),
        (&expired.id, SendOutcome::Later(50, "no answer".to_owned())),
        (&expired.id, SendOutcome::Expired(70)),
        (&sent.id, SendOutcome::Later(50, "no answer".to_owned())),
        (&sent.id, SendOutcome::Sent(80)),
        (&failed.id, SendOutcome::Failed(90, "no endpoint".to_owned())),
        // A final state does not change.
        (&sent.id, SendOutcome::Failed(100, "late".to_owned())),
        (&failed.id, SendOutcome::Later(100, "late".to_owned())),
        (&expired.id, SendOutcome::Failed(100, "late".to_owned())),
        // A message may expire while it is being sent.
        (&in_flight.id, SendOutcome::Expired(70)),
        (&in_flight.id, SendOutcome::Sent(80)),
    ];
    for (id, outcome) in outcomes {
        store.record_send_outcome(id, outcome, None).await.unwrap();
    }
    let store = reopen(location, store).await;
    let assert_state = async |outgoing: OutboxEntry, state, tries, time, problem: Option<&str>| {
        let sealed = outgoing.sealed.clone().filter(|_| state == SendState::Waiting);
        let wanted = OutboxEntry { state, tries, time, problem: problem.map(str::to_owned), sealed, ..outgoing };
        assert_eq!(store.outbox_entry(&wanted.id).await.unwrap(), Some(wanted));
    };
    assert_state(later.clone(), SendState::Waiting, 2, 60, Some("no answer yet")).await;
    assert_state(expired, SendState::Expired, 1, 70, Some("no answer")).await;
    assert_state(sent, SendState::Sent, 2, 80, None).await;
    assert_state(in_flight, SendState::Sent, 1, 80, None).await;
    assert_state(failed, SendState::Failed, 1, 90, Some("no endpoint")).await;
    let waiting = store.outbox_entries(peer, &[], &[], 10).await.unwrap();
    assert_eq!(waiting.into_iter().map(|outgoing| outgoing.id).collect::<Vec<_>>(), [later.id]);
}

pub async fn waiting_messages_expire_without_an_attempt(location: &dyn StoreLocation) {
    let store = open(location).await;
    let made = [50, 40, 30, 60].map(|expires| OutboxEntry {
        expires,
        kind: format!("https://example.org/offer/1.0/{expires}"),
        ..outgoing(expires.unsigned_abs(), &format!("did:example:{}", expires / 20))
    });
    commit_ok(&*store, commit_of(made.clone().map(Change::Send))).await;
    store.record_send_outcome("outgoing 30", SendOutcome::Later(20, "no answer".to_owned()), None).await.unwrap();
    assert!(store.expire_outgoing(29, 10, |_| None).await.unwrap().is_empty());
    // The earliest come first, and the limit holds.
    let mut expired = store.expire_outgoing(50, 2, |_| None).await.unwrap();
    expired.sort_by(|one, other| one.message.cmp(&other.message));
    let of = |index: usize, problem: Option<&str>| OutboxEntry {
        state: SendState::Expired,
        tries: u32::from(problem.is_some()),
        time: 50,
        problem: problem.map(str::to_owned),
        sealed: None,
        ..made[index].clone()
    };
    assert_eq!(expired, [of(2, Some("no answer")), of(1, None)]);
    assert_eq!(store.expire_outgoing(50, 2, |_| None).await.unwrap(), [of(0, None)]);
    assert!(store.expire_outgoing(50, 2, |_| None).await.unwrap().is_empty());
    let found = store.outbox_entry("outgoing 30").await.unwrap().unwrap();
    assert_eq!((found.state, found.time, found.sealed), (SendState::Expired, 50, None));
    assert_eq!(found.problem.as_deref(), Some("no answer"));
    let found = store.outbox_entry("outgoing 60").await.unwrap().unwrap();
    assert_eq!((found.state, found.sealed.is_some()), (SendState::Waiting, true));
    assert_eq!(store.outbox_peers().await.unwrap(), ["did:example:3"]);
    assert_eq!(store.usage().await.unwrap().outgoing, 1);
}

pub async fn a_thread_lists_both_directions_by_time(location: &dyn StoreLocation) {
    let store = open(location).await;
    let changes = vec![
        Change::Send(OutboxEntry { created: 40, ..outgoing(0, "did:example:them") }),
        Change::Deliver(Delivery { received: 30, ..delivery(2) }),
        Change::Send(OutboxEntry { created: 20, ..outgoing(4, "did:example:them") }),
        Change::Deliver(Delivery { received: 10, ..delivery(6) }),
        Change::Deliver(Delivery { received: 15, ..delivery(7) }),
        // At the same time a received message comes before a sent one, and sent messages keep their order.
        Change::Send(OutboxEntry { created: 30, ..outgoing(8, "did:example:them") }),
        Change::Send(OutboxEntry { created: 30, ..outgoing(10, "did:example:them") }),
    ];
    commit_ok(&*store, commit_of(changes)).await;
    store.acknowledge(&[delivery(6).id]).await.unwrap();
    let store = reopen(location, store).await;
    let ask_after = async |thread: &str, after, limit| {
        let entries = store.thread_entries(thread, after, limit).await.unwrap();
        let message = |(_, entry)| match entry {
            ThreadEntry::Received(delivery) => format!("< {}", delivery.message),
            ThreadEntry::Sent(outgoing) => format!("> {}", outgoing.message),
        };
        entries.into_iter().map(message).collect::<Vec<_>>().join(", ")
    };
    let ask = async |thread: &str, limit| ask_after(thread, ThreadPosition::default(), limit).await;
    let whole = "< message 6, > message 4, < message 2, > message 8, > message 10, > message 0";
    assert_eq!(ask("thread 0", 10).await, whole);
    assert_eq!(ask("thread 0", 3).await, "< message 6, > message 4, < message 2");
    assert_eq!(ask("thread 1", 10).await, "< message 7");
    assert_eq!(ask("thread 2", 10).await, "");
    // Read again from each position, one page after the other.
    for size in 1..=6 {
        let (mut after, mut pages) = (ThreadPosition::default(), Vec::new());
        loop {
            let page = store.thread_entries("thread 0", after, size).await.unwrap();
            let Some((last, _)) = page.last() else { break };
            pages.push(ask_after("thread 0", after, size).await);
            after = *last;
        }
        assert_eq!(pages.join(", "), whole, "pages of {size}");
    }
}

pub async fn the_outbox_is_listed_by_state_in_pages(location: &dyn StoreLocation) {
    let store = open(location).await;
    let peers = ["did:example:even", "did:example:odd"];
    let made: Vec<_> = (0..10)
        .map(|number| OutboxEntry { created: 50 + number as i64 / 3, ..outgoing(number, peers[number as usize % 2]) })
        .collect();
    commit_ok(&*store, commit_of(made.iter().cloned().map(Change::Send).collect::<Vec<_>>())).await;
    for (number, outcome) in [
        (2, SendOutcome::Sent(80)),
        (3, SendOutcome::Failed(80, "refused".to_owned())),
        (4, SendOutcome::Expired(80)),
        (6, SendOutcome::Later(90, "no answer".to_owned())),
    ] {
        store.record_send_outcome(&made[number].id, outcome, None).await.unwrap();
    }
    for (number, is_cancelled) in [(6, true), (6, false), (2, false), (7, true)] {
        assert_eq!(store.cancel_outgoing(&made[number].id, 85).await.unwrap(), is_cancelled, "{number}");
    }
    assert!(!store.cancel_outgoing("none", 85).await.unwrap());
    let store = reopen(location, store).await;
    let cancelled = store.outbox_entry(&made[6].id).await.unwrap().unwrap();
    assert_eq!((cancelled.state, cancelled.time, cancelled.sealed), (SendState::Cancelled, 85, None));
    assert_eq!(cancelled.problem.as_deref(), Some("no answer"), "the reason of the last attempt stays");
    // No attempt is recorded any more, but one that was under way and has sent the message.
    for outcome in [SendOutcome::Failed(95, "late".to_owned()), SendOutcome::Later(95, "late".to_owned())] {
        store.record_send_outcome(&made[6].id, outcome, None).await.unwrap();
    }
    assert_eq!(store.outbox_entry(&made[6].id).await.unwrap().unwrap().state, SendState::Cancelled);
    store.record_send_outcome(&made[7].id, SendOutcome::Sent(95), None).await.unwrap();

    let list = async |state, peer: Option<&str>, limit| {
        let (mut query, mut found) =
            (OutboxQuery { state, peer: peer.map(str::to_owned), limit, ..OutboxQuery::default() }, String::new());
        loop {
            let page = store.outbox(query.clone()).await.unwrap();
            assert!(page.len() <= limit && page.iter().all(|(_, entry)| entry.sealed.is_none()));
            let Some((last, _)) = page.last() else { return found };
            query.after = *last;
            page.iter().for_each(|(_, entry)| found.push_str(entry.id.strip_prefix("outgoing ").unwrap()));
        }
    };
    for limit in [1, 2, 3, 100] {
        assert_eq!(list(None, None, limit).await, "0123456789");
        assert_eq!(list(Some(SendState::Waiting), None, limit).await, "01589");
        assert_eq!(list(Some(SendState::Waiting), Some(peers[1]), limit).await, "159");
        assert_eq!(list(Some(SendState::Sent), None, limit).await, "27");
        assert_eq!(list(Some(SendState::Failed), None, limit).await, "3");
        assert_eq!(list(Some(SendState::Expired), None, limit).await, "4");
        assert_eq!(list(Some(SendState::Cancelled), None, limit).await, "6");
        assert_eq!(list(Some(SendState::Cancelled), Some(peers[1]), limit).await, "");
        assert_eq!(list(None, Some(peers[0]), limit).await, "02468");
    }
    assert_eq!(store.usage().await.unwrap().outgoing, 5);
}
