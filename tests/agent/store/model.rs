//! A model of a store in memory. The same operations are applied to the model and to a store, and both are compared
//! after each operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use claviger::agent::store::{
    Change, Commit, CommitOutcome, Delivery, Expectation, HandledMessage, Millis, NewEnvelope, OutboxEntry, PeerQuota,
    ReceiveOutcome, Record, Retention, SendOutcome, SendState, Store,
};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

use crate::store::{
    fixtures::{DAY, HOUR, PAST, all, delivery, handled_message, new_envelope, now, outgoing, postponement, record},
    suite::{Limits, NO_LIMITS, StoreLocation},
};

/// Limits that some runs reach. They make no operation fail, and only change the quotas that the store reports.
const LOW_LIMITS: Limits = Limits { unread_from: 3, replies_to: 2, ..NO_LIMITS };
/// The revision of a record that was written and not read since: the store chooses it.
const WRITTEN: i64 = 1 << 40;
const PEERS: [&str; 3] = ["did:example:0", "did:example:1", "did:example:2"];

/// Applies random operations to a new store. A failing sequence of operations is minimized.
pub fn compare_with_store<P: StoreLocation>(make: impl Fn() -> Option<P>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let operations = proptest::collection::vec(operation(), 1..60);
    let run = TestRunner::new(config).run(&operations, |operations| {
        let Some(location) = make() else { return Ok(()) };
        runtime.block_on(async {
            let mut store = location.open(LOW_LIMITS).await;
            let mut model = Model::default();
            for operation in operations {
                if let Operation::Reopen = operation {
                    store.close().await.unwrap();
                    store = location.open(LOW_LIMITS).await;
                } else {
                    model.apply(&store, operation).await;
                }
                model.compare(&*store).await;
            }
            store.close().await.unwrap();
        });
        Ok(())
    });
    run.unwrap();
}

#[derive(Debug, Clone)]
enum Operation {
    Receive(u64),
    Postpone(Index, Millis),
    Commit {
        envelope: Option<Index>,
        arrived: Option<u64>,
        handled: Option<(u64, bool)>,
        /// The keys of records, and whether an old revision is expected.
        expects: Vec<(u8, bool)>,
        changes: Vec<Step>,
    },
    Acknowledge(Vec<Index>),
    Sent(Index, u8),
    DeleteExpired {
        days: Millis,
        unread: bool,
    },
    Reopen,
}

#[derive(Debug, Clone)]
enum Step {
    Deliver,
    Send(u8),
    Put { key: u8, stale: bool, expired: bool },
    Delete(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let one = any::<Index>;
    let step = prop_oneof![
        3 => Just(Step::Deliver),
        3 => (0..3_u8).prop_map(Step::Send),
        4 => (0..3_u8, prop::bool::weighted(0.1), prop::bool::weighted(0.2))
            .prop_map(|(key, stale, expired)| Step::Put { key, stale, expired }),
        1 => (0..3_u8).prop_map(Step::Delete),
    ];
    let handled = prop::option::of((0..6_u64, prop::bool::weighted(0.2)));
    // An envelope of the store, or one that was opened before it was stored.
    let envelope = prop_oneof![
        2 => prop::option::of(one()).prop_map(|stored| (stored, None)),
        1 => (0..12_u64).prop_map(|number| (None, Some(number))),
    ];
    let expects = proptest::collection::vec((0..3_u8, prop::bool::weighted(0.1)), 0..3);
    let commit = (envelope, handled, expects, proptest::collection::vec(step, 0..5));
    prop_oneof![
        6 => (0..12_u64).prop_map(Operation::Receive),
        2 => (one(), prop_oneof![Just(PAST), Just(HOUR / 2), Just(9 * DAY)])
            .prop_map(|(index, until)| Operation::Postpone(index, until)),
        8 => commit.prop_map(|((envelope, arrived), handled, expects, changes)| {
            Operation::Commit { envelope, arrived, handled, expects, changes }
        }),
        3 => proptest::collection::vec(one(), 0..4).prop_map(Operation::Acknowledge),
        4 => (one(), 0..4_u8).prop_map(|(index, outcome)| Operation::Sent(index, outcome)),
        1 => (prop_oneof![Just(0), Just(2), Just(40)], any::<bool>())
            .prop_map(|(days, unread)| Operation::DeleteExpired { days, unread }),
        1 => Just(Operation::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    /// The pending envelopes, by id.
    envelopes: BTreeMap<i64, Pending>,
    concluded: BTreeSet<[u8; 32]>,
    /// The marks of handled messages, by message: whether the mark has expired.
    handled: BTreeMap<String, bool>,
    deliveries: Vec<(Delivery, bool)>,
    outgoing: Vec<OutboxEntry>,
    records: BTreeMap<String, Record>,
    /// The highest revision of each key so far.
    revisions: BTreeMap<String, i64>,
    /// The highest id and cursor so far.
    last_id: i64,
    cursor: i64,
    /// The number of the last change.
    last_change: u64,
}

struct Pending {
    envelope: NewEnvelope,
    tries: u32,
    next: Millis,
}

impl Model {
    async fn apply(&mut self, store: &Arc<dyn Store>, operation: Operation) {
        match operation {
            Operation::Receive(number) => {
                let receipt = store.receive(new_envelope(number)).await.unwrap();
                self.receive(new_envelope(number), receipt);
            }
            Operation::Postpone(index, until) => {
                let until = if until == PAST { until } else { now() + until };
                let Some(id) = self.envelope(index) else { return };
                store.postpone(id, postponement(until, "later")).await.unwrap();
                let waiting = self.envelopes.get_mut(&id).unwrap();
                (waiting.tries, waiting.next) = (waiting.tries + 1, until);
            }
            Operation::Commit { envelope, arrived, handled: mark, expects, changes } => {
                let handled = mark.map(|(number, expired)| {
                    let until = if expired { PAST } else { now() + HOUR };
                    HandledMessage { until, ..handled_message(number) }
                });
                let envelope = envelope.and_then(|index| self.envelope(index));
                let changes = changes.into_iter().map(|step| self.change(step)).collect();
                let arrived = arrived.map(|number| Arc::new(new_envelope(number)));
                let expects = expects.into_iter().map(|(key, stale)| self.expectation(key, stale)).collect();
                let commit = Commit { envelope, arrived, handled, expects, changes, ..Commit::default() };
                let committed = store.commit(commit.clone()).await.unwrap();
                assert_eq!(committed, self.commit(commit));
            }
            Operation::Acknowledge(indices) if !self.deliveries.is_empty() => {
                let chosen: BTreeSet<_> = indices.iter().map(|index| index.index(self.deliveries.len())).collect();
                let mut ids: Vec<_> = chosen.iter().map(|at| self.deliveries[*at].0.id.clone()).collect();
                ids.push("unknown".to_owned());
                let mut fresh = 0;
                for at in chosen {
                    let (delivery, acknowledged) = &mut self.deliveries[at];
                    fresh += usize::from(!*acknowledged);
                    (*acknowledged, delivery.sealed) = (true, None);
                }
                assert_eq!(store.acknowledge(&ids).await.unwrap(), fresh);
            }
            Operation::Sent(index, outcome) if !self.outgoing.is_empty() => {
                let at = index.index(self.outgoing.len());
                let outgoing = &mut self.outgoing[at];
                let why = "because".to_owned();
                let outcome = match outcome {
                    0 => SendOutcome::Later(now(), why),
                    1 => SendOutcome::Sent(now()),
                    2 => SendOutcome::Failed(now(), why),
                    _ => SendOutcome::Expired(now()),
                };
                store.record_send_outcome(&outgoing.id, outcome.clone(), None).await.unwrap();
                apply_outcome(outgoing, outcome);
            }
            Operation::DeleteExpired { days, unread } => {
                let retention = Retention { deliveries: if unread { DAY } else { 0 }, ..Retention::default() };
                if days == 40 {
                    let expired = store.expire_envelopes(now(), usize::MAX).await.unwrap();
                    assert_eq!(expired.len(), self.envelopes.len());
                    expired.iter().for_each(|envelope| self.remove_envelope(Some(envelope.id)));
                }
                let deleted = self.delete_expired(days, unread);
                assert_eq!(store.delete_expired(now() + days * DAY, &retention, usize::MAX).await.unwrap(), deleted);
            }
            Operation::Acknowledge(_) | Operation::Sent(..) | Operation::Reopen => {}
        }
    }

    fn envelope(&self, index: Index) -> Option<i64> {
        let numbers: Vec<_> = self.envelopes.keys().copied().collect();
        (!numbers.is_empty()).then(|| *index.get(&numbers))
    }

    fn receive(&mut self, envelope: NewEnvelope, receipt: ReceiveOutcome) {
        let known = self.envelopes.iter().find(|(_, waiting)| waiting.envelope.digest == envelope.digest);
        match (known, self.concluded.contains(&envelope.digest), receipt) {
            (Some((id, _)), _, receipt) => assert_eq!(receipt, ReceiveOutcome::AlreadyPending(*id)),
            (None, true, receipt) => assert_eq!(receipt, ReceiveOutcome::AlreadyProcessed),
            (None, false, ReceiveOutcome::Stored(id)) => {
                assert!(id > self.last_id, "{id} was used before");
                self.last_id = id;
                self.envelopes.insert(id, Pending { envelope, tries: 0, next: 0 });
            }
            (None, false, receipt) => panic!("{receipt:?}"),
        }
    }

    /// The revision of a record, or 0 if there is none that has not expired.
    fn revision(&self, key: &str) -> i64 {
        self.records.get(key).filter(|record| record.expires != Some(PAST)).map_or(0, |record| record.revision)
    }

    fn expectation(&self, key: u8, stale: bool) -> Expectation {
        let key = key.to_string();
        Expectation { kind: "connection".to_owned(), revision: self.revision(&key) + i64::from(stale), key }
    }

    fn change(&mut self, step: Step) -> Change {
        self.last_change += 1;
        match step {
            Step::Deliver => Change::Deliver(delivery(self.last_change)),
            Step::Send(peer) => Change::Send(outgoing(self.last_change, PEERS[usize::from(peer)])),
            Step::Put { key, stale, expired } => {
                let key = key.to_string();
                // No record has a revision that high. That after the last could be right for a second write in the commit.
                let wrong = i64::from(stale) << 30;
                let revision = self.records.get(&key).map_or(0, |record| record.revision) + wrong;
                let expires =
                    if expired { Some(PAST) } else { self.last_change.is_multiple_of(2).then(|| now() + DAY) };
                Change::Put(Record { expires, ..record(&key, revision, &self.last_change.to_string()) })
            }
            Step::Delete(key) => Change::Delete { kind: "connection".to_owned(), key: key.to_string() },
        }
    }

    fn commit(&mut self, mut commit: Commit) -> CommitOutcome {
        if commit.expects.iter().any(|expected| self.revision(&expected.key) != expected.revision) {
            return CommitOutcome::Conflict;
        }
        if let Some(arrived) = &commit.arrived {
            if self.concluded.contains(&arrived.digest) {
                return CommitOutcome::Duplicate;
            }
            let mut pending = self.envelopes.iter();
            commit.envelope = pending.find(|(_, pending)| pending.envelope.digest == arrived.digest).map(|(id, _)| *id);
        }
        let arrived = commit.arrived.take().map(|arrived| arrived.digest);
        if let Some(handled) = &commit.handled
            && self.handled.get(&handled.message) == Some(&false)
        {
            self.remove_envelope(commit.envelope);
            self.concluded.extend(arrived);
            return CommitOutcome::Duplicate;
        }
        let (mut records, mut deliveries, mut outgoing) = (self.records.clone(), Vec::new(), Vec::new());
        for change in commit.changes {
            match change {
                Change::Deliver(delivery) => deliveries.push((delivery, false)),
                Change::Send(message) => outgoing.push(message),
                // No step makes one.
                Change::Event(_) | Change::Keep(_) => {}
                Change::Put(record) | Change::Remember(record) => {
                    let current = records.get(&record.key).filter(|record| record.expires != Some(PAST));
                    if current.map_or(0, |record| record.revision) != record.revision {
                        return CommitOutcome::Conflict;
                    }
                    records.insert(record.key.clone(), Record { revision: WRITTEN, ..record });
                }
                Change::Delete { key, .. } => drop(records.remove(&key)),
            }
        }
        self.records = records;
        self.deliveries.extend(deliveries);
        self.outgoing.extend(outgoing);
        if let Some(handled) = commit.handled {
            self.handled.insert(handled.message, handled.until == PAST);
        }
        self.remove_envelope(commit.envelope);
        self.concluded.extend(arrived);
        CommitOutcome::Committed
    }

    fn remove_envelope(&mut self, envelope: Option<i64>) {
        if let Some(waiting) = envelope.and_then(|id| self.envelopes.remove(&id)) {
            self.concluded.insert(waiting.envelope.digest);
        }
    }

    /// Deletes what has expired after this many days: after 0 days the content that had expired before, after 2 days
    /// also digests, marks and records, after 40 days everything that expires. Returns the number of deleted rows.
    fn delete_expired(&mut self, days: Millis, unread: bool) -> usize {
        let before = self.rows();
        // A copy of a handled message may be among the waiting envelopes.
        let may_be_copied = !self.envelopes.is_empty();
        self.handled.retain(|_, expired| !*expired && (days == 0 || may_be_copied));
        self.records.retain(|_, record| record.expires.is_none_or(|expires| expires != PAST && days == 0));
        if days >= 2 {
            self.concluded.clear();
            self.deliveries.retain(|(_, acknowledged)| *acknowledged || !unread);
        }
        if days == 40 {
            self.deliveries.retain(|(_, acknowledged)| !*acknowledged);
            self.outgoing.retain(|outgoing| outgoing.state == SendState::Waiting);
        }
        before - self.rows()
    }

    fn rows(&self) -> usize {
        let messages = self.envelopes.len() + self.deliveries.len() + self.outgoing.len();
        messages + self.concluded.len() + self.handled.len() + self.records.len()
    }

    async fn compare(&mut self, store: &dyn Store) {
        let due = |waiting: &&Pending| waiting.next <= now() || waiting.next > now() + HOUR;
        let wanted: Vec<_> = self.envelopes.values().filter(due).map(|one| (&one.envelope.packed, one.tries)).collect();
        let found = store.pending_envelopes(now(), &[], usize::MAX).await.unwrap();
        assert_eq!(found.iter().map(|one| (&one.packed, one.tries)).collect::<Vec<_>>(), wanted);

        let found = store.deliveries(all()).await.unwrap();
        let short = |delivery: &Delivery| (delivery.id.clone(), delivery.sealed.clone());
        let wanted: Vec<_> = self.deliveries.iter().map(|(delivery, _)| short(delivery)).collect();
        assert_eq!(found.iter().map(short).collect::<Vec<_>>(), wanted);
        for (known, found) in self.deliveries.iter_mut().zip(&found) {
            match known.0.cursor {
                0 => assert!(found.cursor > self.cursor, "the cursor {} was used before", found.cursor),
                given => assert_eq!(found.cursor, given),
            }
            (known.0.cursor, self.cursor) = (found.cursor, self.cursor.max(found.cursor));
        }

        let waiting = || self.outgoing.iter().filter(|outgoing| outgoing.state == SendState::Waiting);
        let peers: BTreeSet<_> = waiting().map(|outgoing| outgoing.peer.clone()).collect();
        assert_eq!(store.outbox_peers().await.unwrap().into_iter().collect::<BTreeSet<_>>(), peers);
        for peer in peers {
            let ids = |outgoing: &OutboxEntry| (outgoing.id.clone(), outgoing.tries);
            let wanted: Vec<_> = waiting().filter(|outgoing| outgoing.peer == peer).map(ids).collect();
            let found = store.outbox_entries(&peer, &[], &[], usize::MAX).await.unwrap();
            assert_eq!(found.iter().map(ids).collect::<Vec<_>>(), wanted);
        }
        for outgoing in &self.outgoing {
            let found = store.outbox_entry(&outgoing.id).await.unwrap().expect("the entry exists");
            assert_eq!((found.state, &found.problem), (outgoing.state, &outgoing.problem));
            assert_eq!(found.sealed.is_some(), outgoing.state == SendState::Waiting);
        }

        let found = store.records("connection", "", usize::MAX).await.unwrap();
        for record in &found {
            let known = self.records.get_mut(&record.key).filter(|known| known.revision == WRITTEN);
            let latest = self.revisions.entry(record.key.clone()).or_default();
            if let Some(known) = known {
                assert!(record.revision > *latest, "the revision {} was used before", record.revision);
                (*latest, known.revision) = (record.revision, record.revision);
            }
        }
        let wanted: Vec<_> = self.records.values().filter(|record| record.expires != Some(PAST)).cloned().collect();
        assert_eq!(found, wanted);

        let usage = store.usage().await.unwrap();
        let bytes: usize = self.envelopes.values().map(|waiting| waiting.envelope.packed.len()).sum();
        let unread = self.deliveries.iter().filter(|(_, acknowledged)| !acknowledged).count();
        let sealed = |(delivery, _): &(Delivery, bool)| delivery.sealed.as_ref().map_or(0, Vec::len);
        let unread_bytes: usize = self.deliveries.iter().map(sealed).sum();
        let counts = [self.envelopes.len(), bytes, unread, unread_bytes, waiting().count()].map(|count| count as u64);
        let found = [usage.envelopes, usage.envelope_bytes, usage.deliveries, usage.delivery_bytes, usage.outgoing];
        assert_eq!(found, counts);

        // All deliveries have one sender, which is not among the peers.
        let quota = store.peer_quota("did:example:them", false).await.unwrap();
        assert_eq!(quota, PeerQuota { may_deliver: (unread as u64) < LOW_LIMITS.unread_from, may_reply: true });
        for peer in PEERS {
            let unsent = waiting().filter(|outgoing| outgoing.peer == peer).count() as u64;
            let quota = store.peer_quota(peer, false).await.unwrap();
            assert_eq!(quota, PeerQuota { may_deliver: true, may_reply: unsent < LOW_LIMITS.replies_to });
        }
    }
}

fn apply_outcome(outgoing: &mut OutboxEntry, outcome: SendOutcome) {
    let sent_late = outgoing.state == SendState::Expired && matches!(outcome, SendOutcome::Sent(_));
    if outgoing.state != SendState::Waiting && !sent_late {
        return;
    }
    (outgoing.state, outgoing.problem) = match outcome {
        SendOutcome::Later(_, why) => (SendState::Waiting, Some(why)),
        SendOutcome::Sent(_) => (SendState::Sent, None),
        SendOutcome::Failed(_, why) => (SendState::Failed, Some(why)),
        SendOutcome::Expired(_) => (SendState::Expired, outgoing.problem.take()),
    };
    // An expired message was not tried again.
    outgoing.tries += u32::from(outgoing.state != SendState::Expired);
}
