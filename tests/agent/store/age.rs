//! What is past its time, and how much there is.

use claviger::agent::store::{Arrival, Change, Commit, Delivery, Outgoing, Receipt, Record, Retention, SendOutcome};

use crate::store::{
    suite::{Place, done, open, receive, reopen},
    things::{
        DAY, HOUR, arrival, concluding, delivered, delivery, handled, large, now, outgoing, record, turn, waiting,
    },
};

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
