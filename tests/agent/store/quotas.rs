//! The limits of a store: for all content, for each recipient, for each sender, and for replies to each peer.

use claviger::agent::store::{
    Attribution, Change, Commit, CommitOutcome, Delivery, NeededRoom, NewEnvelope, PeerQuota, ReceiveOutcome,
    Retention, SendOutcome, Store, StoreError,
};

use crate::store::{
    fixtures::{
        DAY, PAST, all, commit_of, delivery, handled_message, large_envelope, new_envelope, now, outgoing,
        process_envelope, record, unread_ids,
    },
    suite::{Limits, NO_LIMITS, StoreLocation, commit_ok, receive},
};

const THEM: &str = "did:example:them";

fn envelope_from(sender: &str, number: u64) -> NewEnvelope {
    NewEnvelope { sender: Some(sender.to_owned()), ..new_envelope(number) }
}

async fn deliver(store: &dyn Store, deliveries: impl IntoIterator<Item = Delivery>) {
    let changes: Vec<_> = deliveries.into_iter().map(Change::Deliver).collect();
    store.commit(commit_of(changes)).await.unwrap();
}

async fn is_accepted(store: &dyn Store, envelope: NewEnvelope) -> bool {
    match store.receive(envelope).await {
        Ok(ReceiveOutcome::Stored(_)) => true,
        Err(error @ StoreError::Full(_)) => !error.is_retryable(),
        other => panic!("{other:?}"),
    }
}

async fn is_within_quota(store: &dyn Store, peer: &str) -> bool {
    let PeerQuota { may_deliver, may_reply } = store.peer_quota(peer, false).await.unwrap();
    assert!(may_reply);
    may_deliver
}

pub async fn limits_are_enforced(location: &dyn StoreLocation) {
    let store = location.open(Limits { envelope_bytes: 10_000, envelopes_for: 3, ..NO_LIMITS }).await;
    let refused = async |envelope| match store.receive(envelope).await {
        Err(error @ StoreError::Full(_)) => assert!(error.is_retryable()),
        other => panic!("{other:?}"),
    };
    let first = receive(&*store, large_envelope(1, 6000)).await;
    refused(large_envelope(2, 4001)).await;
    receive(&*store, large_envelope(3, 4000)).await;
    refused(large_envelope(4, 1)).await;
    // The envelope is pending already.
    assert_eq!(store.receive(large_envelope(1, 6000)).await.unwrap(), ReceiveOutcome::AlreadyPending(first));
    store.probe_write().await.unwrap();
    commit_ok(&*store, process_envelope(first)).await;
    receive(&*store, large_envelope(5, 1)).await;
    receive(&*store, large_envelope(6, 1)).await;
    refused(large_envelope(7, 1)).await;
    assert_eq!(store.receive(large_envelope(1, 6000)).await.unwrap(), ReceiveOutcome::AlreadyProcessed);
    // Each of our DIDs has a limit of its own.
    let second =
        receive(&*store, NewEnvelope { recipient: "did:example:ours".to_owned(), ..large_envelope(7, 1) }).await;
    store.close().await.unwrap();
    drop(store);
    let store = location.open(Limits { envelope_bytes: 10_000, envelopes_for: 1, ..NO_LIMITS }).await;
    assert!(matches!(store.receive(large_envelope(8, 1)).await, Err(StoreError::Full(_))));
    commit_ok(&*store, process_envelope(second)).await;
    receive(&*store, NewEnvelope { recipient: "did:example:ours".to_owned(), ..large_envelope(9, 1) }).await;
}

/// Strangers may use half of the room for a recipient, and senders that cannot be resolved a tenth, of their own.
pub async fn strangers_leave_room_for_known_peers(location: &dyn StoreLocation) {
    let store = location.open(Limits { envelopes_for: 20, ..NO_LIMITS }).await;
    let key = |peer: &str| format!("{} {peer}", new_envelope(0).recipient);
    commit_ok(&*store, commit_of([Change::Put(record(&key(THEM), 0, ""))])).await;
    let of = |attribution, number| NewEnvelope { attribution, ..new_envelope(number) };
    let unresolvable = |peer| Attribution::Unresolvable { connection: key(peer) };
    let resolvable = |peer: Option<&str>| Attribution::Resolvable { connection: peer.map(key) };
    for number in 0..2 {
        receive(&*store, of(unresolvable("did:example:forged"), number)).await;
    }
    assert!(!is_accepted(&*store, of(unresolvable("did:example:forged"), 2)).await);
    for number in 10..20 {
        let peer = (number % 2 == 0).then_some("did:example:stranger");
        receive(&*store, of(resolvable(peer), number)).await;
    }
    assert!(!is_accepted(&*store, of(resolvable(None), 20)).await);
    assert!(!is_accepted(&*store, of(resolvable(Some("did:example:stranger")), 20)).await);
    for number in 30..34 {
        receive(&*store, of(resolvable(Some(THEM)), number)).await;
        receive(&*store, of(unresolvable(THEM), number + 10)).await;
    }
    assert!(!is_accepted(&*store, of(resolvable(Some(THEM)), 50)).await, "the limit for all");
    // The room is free again once an envelope is processed.
    let pending = store.pending_envelopes(now(), &[], 1).await.unwrap();
    assert!(pending[0].unresolved);
    commit_ok(&*store, process_envelope(pending[0].id)).await;
    receive(&*store, of(unresolvable("did:example:forged"), 60)).await;
}

/// Anyone can name a known peer as the sender. Such envelopes leave room for the other known peers.
pub async fn a_named_peer_leaves_room_for_others(location: &dyn StoreLocation) {
    let store = location.open(Limits { envelopes_for: 20, known_peer_percent: 10, ..NO_LIMITS }).await;
    let key = |peer: &str| format!("{} {peer}", new_envelope(0).recipient);
    let other = "did:example:another";
    for peer in [THEM, other] {
        commit_ok(&*store, commit_of([Change::Put(record(&key(peer), 0, ""))])).await;
    }
    let from = |peer, number| NewEnvelope {
        attribution: Attribution::Resolvable { connection: Some(key(peer)) },
        ..new_envelope(number)
    };
    // Until the share of strangers is used up, a known peer has no limit of its own.
    for number in 0..12 {
        receive(&*store, from(THEM, number)).await;
    }
    assert!(!is_accepted(&*store, from(THEM, 12)).await);
    let unresolvable = Attribution::Unresolvable { connection: key(THEM) };
    assert!(!is_accepted(&*store, NewEnvelope { attribution: unresolvable, ..new_envelope(13) }).await);
    assert!(is_accepted(&*store, from(other, 14)).await && is_accepted(&*store, from(other, 15)).await);
    assert!(!is_accepted(&*store, from(other, 16)).await);
    // The room is free again once the envelopes are processed.
    for envelope in store.pending_envelopes(now(), &[], 12).await.unwrap() {
        commit_ok(&*store, process_envelope(envelope.id)).await;
    }
    for number in 20..30 {
        receive(&*store, from(THEM, number)).await;
    }
}

/// A commit that needs room is made while there is room.
pub async fn a_commit_that_needs_room_finds_it(location: &dyn StoreLocation) {
    let store = location.open(Limits { unread_from: 2, replies_to: 2, ..NO_LIMITS }).await;
    let attempt = async |number, to_deliver, to_reply, peer: &str| {
        let room = NeededRoom { peer: peer.to_owned(), is_stranger: false, to_deliver, to_reply };
        let changes = vec![Change::Deliver(delivery(number)), Change::Send(outgoing(number, THEM))];
        let commit = Commit { room: Some(room), handled: Some(handled_message(number)), ..commit_of(changes) };
        store.commit(commit).await.unwrap()
    };
    for number in [1, 2] {
        assert_eq!(attempt(number, true, true, THEM).await, CommitOutcome::Committed);
    }
    let quota = PeerQuota { may_deliver: false, may_reply: false };
    for (to_deliver, to_reply) in [(true, true), (true, false), (false, true)] {
        assert_eq!(attempt(3, to_deliver, to_reply, THEM).await, CommitOutcome::NoRoom(quota));
    }
    assert_eq!(unread_ids(&*store).await, [delivery(1).id, delivery(2).id]);
    store.acknowledge(&[delivery(1).id]).await.unwrap();
    let quota = PeerQuota { may_deliver: true, may_reply: false };
    assert_eq!(attempt(3, true, true, THEM).await, CommitOutcome::NoRoom(quota));
    // The attempts have left no mark.
    assert_eq!(attempt(3, true, false, THEM).await, CommitOutcome::Committed);
    assert_eq!(attempt(4, true, true, "did:example:another").await, CommitOutcome::Committed);
}

/// Of commits that are made at once, as many find room as there is.
pub async fn commits_at_once_find_the_room_that_there_is(location: &dyn StoreLocation) {
    let store = location.open(Limits { unread_from: 3, ..NO_LIMITS }).await;
    let mut commits = Vec::new();
    for number in 1..=20 {
        let room = NeededRoom { peer: THEM.to_owned(), is_stranger: false, to_deliver: true, to_reply: false };
        let envelope = receive(&*store, new_envelope(number)).await;
        let handled = Some(handled_message(number));
        let deliver = commit_of([Change::Deliver(delivery(number))]);
        commits.push(Commit { room: Some(room), handled, envelope: Some(envelope), ..deliver });
    }
    let outcomes = futures_util::future::join_all(commits.into_iter().map(|commit| store.commit(commit))).await;
    let made = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(CommitOutcome::Committed))).count();
    assert_eq!((made, unread_ids(&*store).await.len()), (3, 3));
}

pub async fn a_recipient_has_a_limit_of_bytes(location: &dyn StoreLocation) {
    let store = location.open(Limits { envelope_bytes_for: 1000, ..NO_LIMITS }).await;
    let Ok(ReceiveOutcome::Stored(first)) = store.receive(large_envelope(1, 600)).await else {
        panic!("within the limit")
    };
    assert!(!is_accepted(&*store, large_envelope(2, 401)).await && is_accepted(&*store, large_envelope(3, 400)).await);
    assert!(!is_accepted(&*store, large_envelope(4, 1)).await);
    assert!(
        is_accepted(&*store, NewEnvelope { recipient: "did:example:ours".to_owned(), ..large_envelope(4, 1000) }).await
    );
    store.commit(process_envelope(first)).await.unwrap();
    assert!(is_accepted(&*store, large_envelope(5, 600)).await && !is_accepted(&*store, large_envelope(6, 1)).await);
}

pub async fn a_sender_has_a_limit_of_messages(location: &dyn StoreLocation) {
    let few = Limits { unread_from: 3, ..NO_LIMITS };
    let store = location.open(few).await;
    // An unverified sender is not charged.
    for number in 0..10 {
        assert!(is_accepted(&*store, envelope_from(THEM, number)).await);
    }
    deliver(&*store, [delivery(1), delivery(2)]).await;
    assert!(is_within_quota(&*store, THEM).await && is_accepted(&*store, envelope_from(THEM, 10)).await);
    deliver(&*store, [delivery(3)]).await;
    assert!(!is_within_quota(&*store, THEM).await && !is_accepted(&*store, envelope_from(THEM, 11)).await);
    // The envelope records that the sender's quota was checked.
    let pending = store.pending_envelopes(now(), &[], 1).await.unwrap();
    assert!(pending[0].quota_checked);
    assert!(is_within_quota(&*store, "did:example:others").await && is_within_quota(&*store, "").await);
    assert!(
        is_accepted(&*store, envelope_from("did:example:others", 12)).await
            && is_accepted(&*store, new_envelope(13)).await
    );
    // A pending envelope is answered as such, and a message that was opened before the limit was reached is delivered.
    assert!(matches!(store.receive(envelope_from(THEM, 10)).await, Ok(ReceiveOutcome::AlreadyPending(_))));
    deliver(&*store, [delivery(4)]).await;
    store.close().await.unwrap();
    let store = location.open(few).await;
    store.acknowledge(&[delivery(1).id]).await.unwrap();
    assert!(!is_within_quota(&*store, THEM).await);
    // A second acknowledgement does not count.
    store.acknowledge(&[delivery(1).id, delivery(2).id]).await.unwrap();
    assert!(is_within_quota(&*store, THEM).await && is_accepted(&*store, envelope_from(THEM, 11)).await);
    deliver(&*store, [Delivery { received: PAST, ..delivery(5) }]).await;
    assert!(!is_within_quota(&*store, THEM).await);
    // The deletion of an unread delivery frees its quota. The deletion of an acknowledged one changes nothing.
    let swept = Retention { deliveries: DAY, ..Retention::default() };
    assert_eq!(store.delete_expired(now(), &swept, 100).await.unwrap(), 1);
    assert!(is_within_quota(&*store, THEM).await);
    store.acknowledge(&[delivery(3).id]).await.unwrap();
    assert_eq!(store.delete_expired(now() + 60 * DAY, &Retention::default(), 3).await.unwrap(), 3);
    deliver(&*store, [delivery(6)]).await;
    assert!(is_within_quota(&*store, THEM).await);
    deliver(&*store, [delivery(7)]).await;
    assert!(!is_within_quota(&*store, THEM).await);
}

pub async fn a_sender_has_a_limit_of_bytes(location: &dyn StoreLocation) {
    let store = location.open(Limits { unread_bytes_from: 1000, ..NO_LIMITS }).await;
    let large_delivery = |number, bytes| Delivery { sealed: Some(vec![7; bytes]), ..delivery(number) };
    deliver(&*store, [large_delivery(1, 999)]).await;
    assert!(is_accepted(&*store, envelope_from(THEM, 1)).await);
    deliver(&*store, [large_delivery(2, 1)]).await;
    assert!(!is_within_quota(&*store, THEM).await && !is_accepted(&*store, envelope_from(THEM, 2)).await);
    assert!(is_accepted(&*store, new_envelope(3)).await);
    store.acknowledge(&[delivery(2).id]).await.unwrap();
    assert!(is_within_quota(&*store, THEM).await && is_accepted(&*store, envelope_from(THEM, 2)).await);
    // Messages without an authenticated sender share one quota.
    deliver(&*store, [Delivery { sender: String::new(), ..large_delivery(3, 1000) }]).await;
    assert!(!is_within_quota(&*store, "").await && is_within_quota(&*store, THEM).await);
}

pub async fn all_senders_share_a_limit_of_bytes(location: &dyn StoreLocation) {
    let store = location.open(Limits { unread_bytes: 1000, ..NO_LIMITS }).await;
    let of_peer = |number: u64| Delivery {
        sealed: Some(vec![7; 100]),
        sender: format!("did:example:{number}"),
        ..delivery(number)
    };
    deliver(&*store, (0..9).map(of_peer)).await;
    assert!(is_accepted(&*store, new_envelope(1)).await);
    deliver(&*store, [of_peer(9)]).await;
    assert!(!is_accepted(&*store, new_envelope(2)).await && !is_accepted(&*store, envelope_from(THEM, 3)).await);
    assert!(is_within_quota(&*store, "did:example:9").await);
    assert_eq!(store.usage().await.unwrap().delivery_bytes, 1000);
    let ids: Vec<_> = store.deliveries(all()).await.unwrap().into_iter().map(|delivery| delivery.id).collect();
    store.acknowledge(&ids).await.unwrap();
    assert_eq!(store.usage().await.unwrap().delivery_bytes, 0);
    assert!(is_accepted(&*store, new_envelope(2)).await);
}

pub async fn a_peer_has_a_limit_of_replies(location: &dyn StoreLocation) {
    let few = Limits { replies_to: 2, ..NO_LIMITS };
    let store = location.open(few).await;
    let send = async |number| store.commit(commit_of([Change::Send(outgoing(number, THEM))])).await.unwrap();
    let may_reply = async |store: &dyn Store| store.peer_quota(THEM, false).await.unwrap().may_reply;
    send(1).await;
    assert!(may_reply(&*store).await);
    send(2).await;
    assert!(!may_reply(&*store).await);
    // The quota concerns replies only: the store accepts what the application sends.
    send(3).await;
    store.record_send_outcome("outgoing 1", SendOutcome::Later(now(), "unreachable".to_owned()), None).await.unwrap();
    store.record_send_outcome("outgoing 1", SendOutcome::Sent(now()), None).await.unwrap();
    store.record_send_outcome("outgoing 1", SendOutcome::Sent(now()), None).await.unwrap();
    assert!(!may_reply(&*store).await && store.peer_quota("did:example:others", false).await.unwrap().may_reply);
    store.record_send_outcome("outgoing 2", SendOutcome::Failed(now(), "no endpoint".to_owned()), None).await.unwrap();
    assert!(may_reply(&*store).await);
    assert_eq!(store.delete_expired(now() + 60 * DAY, &Retention::default(), 100).await.unwrap(), 2);
    assert!(may_reply(&*store).await);
}
