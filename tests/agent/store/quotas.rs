//! What of one sender, and of all, waits for the application; and what waits to be sent to one peer.

use claviger::agent::store::{Arrival, Change, Delivery, Receipt, Retention, Room, SendOutcome, Store, StoreError};

use crate::store::{
    suite::{Limits, NO_LIMITS, Place, done, receive},
    things::{DAY, PAST, all, arrival, concluding, delivery, large, now, outgoing, turn},
};

const THEM: &str = "did:example:them";

fn of(sender: &str, number: u64) -> Arrival {
    Arrival { sender: Some(sender.to_owned()), ..arrival(number) }
}

async fn deliver(store: &dyn Store, deliveries: impl IntoIterator<Item = Delivery>) {
    let changes: Vec<_> = deliveries.into_iter().map(Change::Deliver).collect();
    store.commit(turn(changes)).await.unwrap();
}

async fn is_taken(store: &dyn Store, arrival: Arrival) -> bool {
    match store.receive(arrival).await {
        Ok(Receipt::New(_)) => true,
        Err(error @ StoreError::Full(_)) => !error.passes(),
        other => panic!("{other:?}"),
    }
}

async fn has_room(store: &dyn Store, peer: &str) -> bool {
    let Room { unread, unsent } = store.room(peer).await.unwrap();
    assert!(unsent);
    unread
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

pub async fn a_recipient_has_so_much(place: &dyn Place) {
    let store = place.open(Limits { envelope_bytes_for: 1000, ..NO_LIMITS }).await;
    let Ok(Receipt::New(first)) = store.receive(large(1, 600)).await else { panic!("there is room") };
    assert!(!is_taken(&*store, large(2, 401)).await && is_taken(&*store, large(3, 400)).await);
    assert!(!is_taken(&*store, large(4, 1)).await);
    assert!(is_taken(&*store, Arrival { recipient: "did:example:ours".to_owned(), ..large(4, 1000) }).await);
    store.commit(concluding(first)).await.unwrap();
    assert!(is_taken(&*store, large(5, 600)).await && !is_taken(&*store, large(6, 1)).await);
}

pub async fn a_sender_leaves_so_many(place: &dyn Place) {
    let few = Limits { unread_from: 3, ..NO_LIMITS };
    let store = place.open(few).await;
    // What only says that it is of a sender is charged to nobody.
    for number in 0..10 {
        assert!(is_taken(&*store, of(THEM, number)).await);
    }
    deliver(&*store, [delivery(1), delivery(2)]).await;
    assert!(has_room(&*store, THEM).await && is_taken(&*store, of(THEM, 10)).await);
    deliver(&*store, [delivery(3)]).await;
    assert!(!has_room(&*store, THEM).await && !is_taken(&*store, of(THEM, 11)).await);
    // An envelope remembers whether its sender was looked at.
    let kept = store.waiting(now(), &[], 1).await.unwrap();
    assert!(kept[0].charged);
    assert!(has_room(&*store, "did:example:others").await && has_room(&*store, "").await);
    assert!(is_taken(&*store, of("did:example:others", 12)).await && is_taken(&*store, arrival(13)).await);
    // What is there already is told so, and what was opened before the door knew is delivered.
    assert!(matches!(store.receive(of(THEM, 10)).await, Ok(Receipt::Waiting(_))));
    deliver(&*store, [delivery(4)]).await;
    store.close().await.unwrap();
    let store = place.open(few).await;
    store.acknowledge(&[delivery(1).id]).await.unwrap();
    assert!(!has_room(&*store, THEM).await);
    // Twice is once.
    store.acknowledge(&[delivery(1).id, delivery(2).id]).await.unwrap();
    assert!(has_room(&*store, THEM).await && is_taken(&*store, of(THEM, 11)).await);
    deliver(&*store, [Delivery { received: PAST, ..delivery(5) }]).await;
    assert!(!has_room(&*store, THEM).await);
    // What is forgotten unread, and what was read and is forgotten.
    let swept = Retention { deliveries: DAY, ..Retention::default() };
    assert_eq!(store.sweep(now(), &swept, 100).await.unwrap(), 1);
    assert!(has_room(&*store, THEM).await);
    store.acknowledge(&[delivery(3).id]).await.unwrap();
    assert_eq!(store.sweep(now() + 60 * DAY, &Retention::default(), 3).await.unwrap(), 6);
    deliver(&*store, [delivery(6)]).await;
    assert!(has_room(&*store, THEM).await);
    deliver(&*store, [delivery(7)]).await;
    assert!(!has_room(&*store, THEM).await);
}

pub async fn a_sender_leaves_so_much(place: &dyn Place) {
    let store = place.open(Limits { unread_bytes_from: 1000, ..NO_LIMITS }).await;
    let large = |number, bytes| Delivery { sealed: Some(vec![7; bytes]), ..delivery(number) };
    deliver(&*store, [large(1, 999)]).await;
    assert!(is_taken(&*store, of(THEM, 1)).await);
    deliver(&*store, [large(2, 1)]).await;
    assert!(!has_room(&*store, THEM).await && !is_taken(&*store, of(THEM, 2)).await);
    assert!(is_taken(&*store, arrival(3)).await);
    store.acknowledge(&[delivery(2).id]).await.unwrap();
    assert!(has_room(&*store, THEM).await && is_taken(&*store, of(THEM, 2)).await);
    // Nobody who is proved is one more.
    deliver(&*store, [Delivery { sender: String::new(), ..large(3, 1000) }]).await;
    assert!(!has_room(&*store, "").await && has_room(&*store, THEM).await);
}

pub async fn all_senders_leave_so_much(place: &dyn Place) {
    let store = place.open(Limits { unread_bytes: 1000, ..NO_LIMITS }).await;
    let of_peer = |number: u64| Delivery {
        sealed: Some(vec![7; 100]),
        sender: format!("did:example:{number}"),
        ..delivery(number)
    };
    deliver(&*store, (0..9).map(of_peer)).await;
    assert!(is_taken(&*store, arrival(1)).await);
    deliver(&*store, [of_peer(9)]).await;
    assert!(!is_taken(&*store, arrival(2)).await && !is_taken(&*store, of(THEM, 3)).await);
    assert!(has_room(&*store, "did:example:9").await);
    assert_eq!(store.usage().await.unwrap().delivery_bytes, 1000);
    let ids: Vec<_> = store.deliveries(all()).await.unwrap().into_iter().map(|delivery| delivery.id).collect();
    store.acknowledge(&ids).await.unwrap();
    assert_eq!(store.usage().await.unwrap().delivery_bytes, 0);
    assert!(is_taken(&*store, arrival(2)).await);
}

pub async fn a_peer_has_so_many_replies(place: &dyn Place) {
    let few = Limits { replies_to: 2, ..NO_LIMITS };
    let store = place.open(few).await;
    let send = async |number| store.commit(turn([Change::Send(outgoing(number, THEM))])).await.unwrap();
    let unsent = async |store: &dyn Store| store.room(THEM).await.unwrap().unsent;
    send(1).await;
    assert!(unsent(&*store).await);
    send(2).await;
    assert!(!unsent(&*store).await);
    // That is for who answers to look at: what the application sends is kept.
    send(3).await;
    store.sent("outgoing 1", SendOutcome::Later(now(), "it is away".to_owned())).await.unwrap();
    store.sent("outgoing 1", SendOutcome::Sent(now())).await.unwrap();
    store.sent("outgoing 1", SendOutcome::Sent(now())).await.unwrap();
    assert!(!unsent(&*store).await && store.room("did:example:others").await.unwrap().unsent);
    store.sent("outgoing 2", SendOutcome::Failed(now(), "it has no endpoint".to_owned())).await.unwrap();
    assert!(unsent(&*store).await);
    assert_eq!(store.sweep(now() + 60 * DAY, &Retention::default(), 100).await.unwrap(), 2);
    assert!(unsent(&*store).await);
}
