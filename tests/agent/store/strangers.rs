//! What strangers leave in a store, and its limits. Known peers do not feel them.

use claviger::agent::store::{
    Attribution, Change, Commit, CommitOutcome, Delivery, HandledMessage, NewEnvelope, OutboxEntry, PeerQuota,
    ReceiveOutcome, Record, Retention, SendOutcome, Store, StoreError, Stranger, UNREAD,
};

use crate::store::{
    fixtures::{HOUR, all, commit_of, delivery, handled_message, new_envelope, now, outgoing, record},
    suite::{Limits, NO_LIMITS, StoreLocation, commit_ok, open, reopen},
};

const US: &str = "did:example:us";
const KNOWN: &str = "did:example:known";

fn stranger(number: u64) -> String {
    format!("did:example:stranger-{number}")
}

fn connection(peer: &str) -> Record {
    record(&format!("{US} {peer}"), 0, &"x".repeat(500))
}

fn profile(peer: &str) -> Record {
    Record { kind: "profile".to_owned(), ..record(peer, UNREAD, "profile") }
}

/// A stranger's message with these changes.
fn first_contact(number: u64, changes: impl Into<Vec<Change>>) -> Commit {
    let did = stranger(number);
    let handled = HandledMessage { sender: did.clone(), ..handled_message(number) };
    let stranger = Some(Stranger { did, created: Some(now() - 1000 + number.cast_signed()) });
    Commit { handled: Some(handled), stranger, ..commit_of(changes) }
}

async fn meet(store: &dyn Store, number: u64) {
    let peer = stranger(number);
    let changes = [Change::Remember(connection(&peer)), Change::Remember(profile(&peer))];
    commit_ok(store, first_contact(number, changes)).await;
}

async fn is_remembered(store: &dyn Store, peer: &str) -> bool {
    let connection = store.record("connection", &format!("{US} {peer}")).await.unwrap();
    assert_eq!(connection.is_some(), store.record("profile", peer).await.unwrap().is_some(), "{peer}");
    connection.is_some()
}

async fn record_bytes(store: &dyn Store) -> u64 {
    store.usage().await.unwrap().stranger_record_bytes
}

/// Deletes what is due in this time from now.
async fn sweep_in(store: &dyn Store, time: i64) {
    store.delete_expired(now() + time, &Retention { strangers: HOUR / 2, ..Retention::default() }, 1000).await.unwrap();
}

fn message_of(peer: &str, number: u64) -> Delivery {
    Delivery { sender: peer.to_owned(), sealed: Some(vec![1; 1000]), ..delivery(number) }
}

pub async fn strangers_seen_longest_ago_are_forgotten(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_bytes: 10_000, ..NO_LIMITS }).await;
    commit_ok(&*store, commit_of([Change::Put(connection(KNOWN)), Change::Put(profile(KNOWN))])).await;
    // The first stranger has an unread message, and so is kept longer than the others.
    meet(&*store, 0).await;
    commit_ok(&*store, first_contact(1000, [Change::Deliver(message_of(&stranger(0), 0))])).await;
    for number in 1..200 {
        meet(&*store, number).await;
        assert!(record_bytes(&*store).await <= 10_000);
    }
    assert!(is_remembered(&*store, KNOWN).await && is_remembered(&*store, &stranger(0)).await);
    assert!(is_remembered(&*store, &stranger(199)).await && is_remembered(&*store, &stranger(195)).await);
    assert!(!is_remembered(&*store, &stranger(1)).await && !is_remembered(&*store, &stranger(100)).await);
    assert_eq!(store.known_connections(10).await.unwrap(), [format!("{US} {KNOWN}")]);
    // The sums are right after a restart too.
    let before = record_bytes(&*store).await;
    let store = reopen(location, store).await;
    assert_eq!(record_bytes(&*store).await, before);
}

/// What an application has begun or accepted stays, with all that was remembered before.
pub async fn a_stranger_becomes_known(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_bytes: 10_000, ..NO_LIMITS }).await;
    for number in 0..3 {
        meet(&*store, number).await;
        commit_ok(&*store, first_contact(100 + number, [Change::Deliver(message_of(&stranger(number), number))])).await;
    }
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.stranger_deliveries, usage.stranger_delivery_bytes, usage.delivery_bytes), (3, 3000, 3000));
    commit_ok(&*store, commit_of([Change::Keep(stranger(0))])).await;
    // A record that is written by the application is kept as well. A later message of a stranger does not change that.
    let written = Record { revision: UNREAD, ..connection(&stranger(1)) };
    commit_ok(&*store, commit_of([Change::Keep(stranger(1)), Change::Put(written.clone())])).await;
    commit_ok(&*store, first_contact(201, [Change::Remember(written)])).await;
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.stranger_deliveries, usage.stranger_delivery_bytes), (1, 1000));
    store.acknowledge(&[0, 1, 2].map(|number| delivery(number).id)).await.unwrap();
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.stranger_deliveries, usage.stranger_delivery_bytes, usage.delivery_bytes), (0, 0, 0));
    for number in 3..50 {
        meet(&*store, number).await;
    }
    sweep_in(&*store, HOUR).await;
    assert!(is_remembered(&*store, &stranger(0)).await && is_remembered(&*store, &stranger(1)).await);
    assert!(!is_remembered(&*store, &stranger(2)).await && !is_remembered(&*store, &stranger(49)).await);
    assert_eq!(record_bytes(&*store).await, 0);
}

/// The peer's DID in the key of a connection counts, from whichever DID the stranger has written, and also after the stranger
/// has become known.
pub async fn a_strangers_connection_is_found_by_peer(location: &dyn StoreLocation) {
    let store = open(location).await;
    commit_ok(&*store, commit_of([Change::Put(connection(KNOWN))])).await;
    for number in [1, 2, 12] {
        meet(&*store, number).await;
    }
    let moved = "did:example:stranger-moved";
    commit_ok(&*store, first_contact(3, [Change::Remember(connection(moved))])).await;
    let ask = async |peer: &str, after: &str, limit| {
        let found = store.records_with_peer("connection", peer, after, limit).await.unwrap();
        found
            .into_iter()
            .map(|record| record.key.strip_prefix(&format!("{US} ")).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let strangers = [stranger(1), stranger(12), stranger(2), moved.to_owned()];
    for becomes_known in [1, 3, 12] {
        assert_eq!(ask(&stranger(1), "", 10).await, [stranger(1)]);
        assert_eq!(ask(moved, "", 10).await, [moved]);
        assert!(ask(&stranger(3), "", 10).await.is_empty());
        assert_eq!(ask("did:example:stranger-~", "", 10).await, strangers);
        assert_eq!(ask("did:example:", "", 2).await, [KNOWN.to_owned(), stranger(1)]);
        assert_eq!(ask("did:example:", &format!("{US} {}", stranger(1)), 2).await, strangers[1..3]);
        commit_ok(&*store, commit_of([Change::Keep(stranger(becomes_known))])).await;
    }
    assert_eq!(store.known_connections(10).await.unwrap().len(), 4);
}

pub async fn a_stranger_is_forgotten_after_a_while(location: &dyn StoreLocation) {
    let store = open(location).await;
    for number in 0..3 {
        meet(&*store, number).await;
    }
    commit_ok(&*store, first_contact(100, [Change::Deliver(message_of(&stranger(0), 0))])).await;
    sweep_in(&*store, HOUR / 4).await;
    assert!(is_remembered(&*store, &stranger(1)).await);
    sweep_in(&*store, HOUR).await;
    assert!(is_remembered(&*store, &stranger(0)).await, "its message is not read yet");
    assert!(!is_remembered(&*store, &stranger(1)).await && !is_remembered(&*store, &stranger(2)).await);
    store.acknowledge(&[delivery(0).id]).await.unwrap();
    sweep_in(&*store, HOUR / 4).await;
    assert!(is_remembered(&*store, &stranger(0)).await);
    sweep_in(&*store, HOUR).await;
    assert!(!is_remembered(&*store, &stranger(0)).await);
}

/// An automatic reply to a stranger is deleted once it is sent or given up, and a message of the application is not.
pub async fn replies_to_strangers_leave_no_history(location: &dyn StoreLocation) {
    let store = open(location).await;
    let sent = |number, to_stranger| OutboxEntry { to_stranger, ..outgoing(number, &stranger(number)) };
    let all = [sent(1, true), sent(2, false), sent(3, true), sent(4, true), sent(5, true), sent(6, true)];
    commit_ok(&*store, commit_of(all.clone().map(Change::Send))).await;
    let problem = || "no answer".to_owned();
    let outcomes = [
        SendOutcome::Sent(now()),
        SendOutcome::Sent(now()),
        SendOutcome::Later(now(), problem()),
        SendOutcome::Failed(now(), problem()),
        SendOutcome::Expired(now()),
    ];
    for (entry, outcome) in all.iter().zip(outcomes) {
        store.record_send_outcome(&entry.id, outcome, None).await.unwrap();
    }
    let mut left = Vec::new();
    for entry in &all {
        left.push(store.outbox_entry(&entry.id).await.unwrap().is_some());
    }
    assert_eq!(left, [false, true, true, false, false, true]);
    // Those whose time is over go with the next sweep.
    assert_eq!(store.expire_outgoing(now() + 48 * HOUR, 10, |_| None).await.unwrap().len(), 2);
    sweep_in(&*store, 72 * HOUR).await;
    for (number, is_left) in [(2, false), (5, false), (1, true)] {
        assert_eq!(store.outbox_entry(&all[number].id).await.unwrap().is_some(), is_left);
    }
}

/// What the application has read of strangers does not fill the disk.
pub async fn the_history_of_strangers_is_limited(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_unread: 3, ..NO_LIMITS }).await;
    commit_ok(&*store, commit_of([Change::Deliver(message_of(KNOWN, 100))])).await;
    store.acknowledge(&[delivery(100).id]).await.unwrap();
    for number in 0..9 {
        let message = message_of(&stranger(number), number);
        commit_ok(&*store, first_contact(number, [Change::Deliver(message)])).await;
        store.acknowledge(&[delivery(number).id]).await.unwrap();
    }
    commit_ok(&*store, first_contact(9, [Change::Deliver(message_of(&stranger(9), 9))])).await;
    sweep_in(&*store, 0).await;
    let left = store.deliveries(all()).await.unwrap();
    let of_strangers = left.iter().filter(|delivery| delivery.sender != KNOWN && delivery.sealed.is_none()).count();
    assert_eq!((left.len(), of_strangers), (5, 3));
    assert_eq!(store.usage().await.unwrap().stranger_deliveries, 1);
}

pub async fn strangers_share_the_room_for_unread_messages(location: &dyn StoreLocation) {
    for limits in [Limits { stranger_unread_bytes: 3000, ..NO_LIMITS }, Limits { stranger_unread: 3, ..NO_LIMITS }] {
        let store = location.open(Limits { unread_bytes: 2000, ..limits }).await;
        let next = store.usage().await.unwrap().stranger_marks;
        commit_ok(&*store, commit_of([Change::Put(Record { revision: UNREAD, ..connection(KNOWN) })])).await;
        let accepts = async |sender: Option<&str>, number: u64| {
            let connection = sender.map(|sender| format!("{US} {sender}"));
            let (sender, attribution) = (sender.map(str::to_owned), Attribution::Resolvable { connection });
            let envelope = NewEnvelope { sender, attribution, ..new_envelope(next + number) };
            match store.receive(envelope).await {
                Ok(ReceiveOutcome::Stored(_)) => true,
                Err(StoreError::Full(_)) => false,
                other => panic!("{other:?}"),
            }
        };
        let mut delivered = Vec::new();
        for number in 0..3 {
            assert!(accepts(Some(&stranger(number)), number).await);
            let message = message_of(&stranger(number), next + number);
            delivered.push(message.id.clone());
            commit_ok(&*store, first_contact(next + number, [Change::Deliver(message)])).await;
        }
        // 3000 bytes of strangers do not count towards the 2000 bytes of known peers.
        assert!(!accepts(Some(&stranger(7)), 10).await && accepts(Some(KNOWN), 11).await);
        let full = PeerQuota { may_deliver: false, may_reply: true };
        assert_eq!(store.peer_quota(&stranger(7), true).await.unwrap(), full);
        assert_eq!(store.peer_quota("", true).await.unwrap(), full);
        assert!(store.peer_quota(KNOWN, false).await.unwrap().may_deliver);
        store.acknowledge(&delivered[..1]).await.unwrap();
        assert!(accepts(Some(&stranger(7)), 12).await && store.peer_quota("", true).await.unwrap().may_deliver);
        store.acknowledge(&delivered).await.unwrap();
        store.close().await.unwrap();
    }
}

/// A mark that is dropped for lack of room cannot let a message be handled twice.
pub async fn the_marks_of_strangers_are_limited(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_marks: 10, ..NO_LIMITS }).await;
    let of_known = Commit { handled: Some(handled_message(1)), ..commit_of([]) };
    commit_ok(&*store, of_known.clone()).await;
    let messages: Vec<Commit> = (0..100).map(|number| first_contact(number, [])).collect();
    for message in &messages {
        commit_ok(&*store, message.clone()).await;
        assert!(store.usage().await.unwrap().stranger_marks <= 10);
    }
    let again = async |commit: &Commit| store.commit(commit.clone()).await.unwrap();
    assert_eq!(again(&messages[95]).await, CommitOutcome::Duplicate);
    assert_eq!(again(&messages[5]).await, CommitOutcome::TooOld);
    assert_eq!(again(&of_known).await, CommitOutcome::Duplicate);
    // The refusal changes nothing: the oldest marks stay dropped, and a new message is handled.
    assert_eq!(again(&messages[5]).await, CommitOutcome::TooOld);
    commit_ok(&*store, first_contact(200, [])).await;
    sweep_in(&*store, 2 * HOUR).await;
    assert_eq!(store.usage().await.unwrap().stranger_marks, 0);
}

/// A time in the future that a stranger chose makes no other message too old, and its own message is not handled twice.
pub async fn marks_of_the_future_are_kept_until_then(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_marks: 10, ..NO_LIMITS }).await;
    let dated_ahead = |number, by| {
        let stranger = Some(Stranger { did: stranger(number), created: Some(now() + by) });
        Commit { stranger, ..first_contact(number, []) }
    };
    let (first, second) = (dated_ahead(1, HOUR), dated_ahead(2, HOUR));
    commit_ok(&*store, first.clone()).await;
    // There is room for one.
    assert_eq!(store.commit(second.clone()).await.unwrap(), CommitOutcome::DatedAhead);
    for number in 100..150 {
        commit_ok(&*store, first_contact(number, [])).await;
        assert!(store.usage().await.unwrap().stranger_marks <= 10);
    }
    assert_eq!(store.commit(first).await.unwrap(), CommitOutcome::Duplicate);
    // Its time has come.
    commit_ok(&*store, Commit { stranger: dated_ahead(2, 0).stranger, ..second }).await;
}

/// A message that may repeat one whose mark was dropped is not certainly new, also if its sender has become known.
pub async fn what_may_have_been_handled_is_not_certainly_new(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_marks: 10, ..NO_LIMITS }).await;
    let of_stranger = first_contact(1, []);
    let created = of_stranger.stranger.as_ref().unwrap().created;
    let handled = of_stranger.handled.clone().unwrap();
    let untimed = handled_message(2);
    let is_new = async |message: &HandledMessage, created| store.is_certainly_new(message, created).await.unwrap();
    assert!(is_new(&handled, created).await && is_new(&untimed, None).await);
    commit_ok(&*store, of_stranger.clone()).await;
    assert!(!is_new(&handled, created).await && is_new(&untimed, None).await);
    for number in 100..150 {
        commit_ok(&*store, first_contact(number, [])).await;
    }
    assert!(!is_new(&handled, created).await && !is_new(&untimed, None).await);
    assert!(is_new(&untimed, Some(now())).await);
    let of_known = Commit { stranger: None, created_by_stranger: created, ..of_stranger };
    assert_eq!(store.commit(of_known).await.unwrap(), CommitOutcome::TooOld);
}

/// Marks without a `created_time` that are dropped make no message too old.
pub async fn untimed_marks_of_strangers_are_dropped(location: &dyn StoreLocation) {
    let store = location.open(Limits { stranger_marks: 10, ..NO_LIMITS }).await;
    for number in 0..50 {
        let stranger = Some(Stranger { did: stranger(number), created: None });
        commit_ok(&*store, Commit { stranger, ..first_contact(number, []) }).await;
    }
    assert_eq!(store.usage().await.unwrap().stranger_marks, 10);
    assert!(!store.is_certainly_new(&handled_message(0), None).await.unwrap());
    commit_ok(&*store, first_contact(100, [])).await;
}
