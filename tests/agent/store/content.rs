//! A store with rows of every kind, made by the real interface.

use std::path::Path;

use claviger::agent::store::{
    Attribution, Change, Commit, CommitOutcome, Delivery, HandledMessage, NewEnvelope, NewEvent, OutboxEntry,
    Postponement, Record, SendOutcome, SqliteStore, Store, StoreLimits, Stranger, UNREAD,
};

use crate::store::{
    fixtures::{
        DAY, HOUR, all, commit_of, delivery, handled_message, new_envelope, now, outgoing, pending_ids,
        process_envelope, record,
    },
    suite::commit_ok,
};

/// Low limits, so that marks are dropped, and an envelope takes the share of a known peer.
pub fn low_limits() -> StoreLimits {
    StoreLimits { max_envelopes_for: 16, max_stranger_marks: 4, ..StoreLimits::default() }
}

/// The texts of a peer that are hard to store: NUL, the character that escapes it, others than ASCII, and a long one.
pub const STRANGE: &str = "a\0b\u{1}c\u{1}\u{1}d\u{2}ä\u{10ffff}'\\";

/// A DID that is longer than an index of PostgreSQL takes.
pub fn long_did(name: &str) -> String {
    format!("did:peer:2.{name}{}", "Ez6".repeat(7000))
}

/// Fills a store with rows of every kind. `first` is the first of the numbers, of which there are some thousand.
pub async fn fill(store: &dyn Store, first: u64) {
    envelopes(store, first).await;
    strangers(store, first).await;
    messages(store, first).await;
    records(store, first).await;
    many(store, first).await;
}

async fn envelopes(store: &dyn Store, first: u64) {
    let known = format!("did:example:us did:example:known-{first}");
    commit_ok(store, commit_of([Change::Put(record(&known, 0, "known"))])).await;
    for number in first..first + 2 {
        let named = NewEnvelope { sender: Some("did:example:them".to_owned()), ..new_envelope(number) };
        store.receive(named).await.unwrap();
    }
    let resolvable = |connection: Option<&str>| Attribution::Resolvable { connection: connection.map(str::to_owned) };
    // The share of strangers, then that of a known peer.
    let mut number = first + 2;
    let recipient = format!("did:example:us-{first}");
    let of_strangers =
        |number| NewEnvelope { recipient: recipient.clone(), attribution: resolvable(None), ..new_envelope(number) };
    while store.receive(of_strangers(number)).await.is_ok() {
        number += 1;
    }
    let named = NewEnvelope { attribution: resolvable(Some(&known)), ..of_strangers(number) };
    store.receive(named).await.unwrap();
    let connection = format!("did:example:us {STRANGE}");
    let recipient = long_did(&format!("us{first}"));
    let attribution = Attribution::Unresolvable { connection };
    store.receive(NewEnvelope { recipient, attribution, ..new_envelope(number + 1) }).await.unwrap();
    let ids = pending_ids(store).await;
    let postponed = Postponement {
        until: now() + HOUR / 2,
        reason: format!("because {STRANGE}"),
        attempted: true,
        unresolved_since: Some(now()),
    };
    store.postpone(ids[0], postponed).await.unwrap();
    commit_ok(store, process_envelope(ids[1])).await;
}

async fn strangers(store: &dyn Store, first: u64) {
    for number in first..first + 12 {
        let did =
            if number % 3 == 0 { long_did(&number.to_string()) } else { format!("did:example:s{number}{STRANGE}") };
        let handled = HandledMessage { sender: did.clone(), ..handled_message(number) };
        let connection = Record { kind: "connection".to_owned(), ..record(&format!("did:example:us {did}"), 0, "s") };
        let of_stranger = Delivery { sender: did.clone(), id: format!("of stranger {number}"), ..delivery(number) };
        let reply = OutboxEntry { id: format!("reply {number}"), to_stranger: true, ..outgoing(number, &did) };
        let event = NewEvent { time: now(), kind: "a".to_owned(), data: format!("{{\"of\":{number}}}") };
        let changes =
            vec![Change::Remember(connection), Change::Deliver(of_stranger), Change::Send(reply), Change::Event(event)];
        let created = now() - 100_000 + number.cast_signed();
        let stranger = Some(Stranger { did, created: (number % 4 > 0).then_some(created) });
        let commit = Commit { handled: Some(handled), stranger, ..commit_of(changes) };
        assert_eq!(store.commit(commit).await.unwrap(), CommitOutcome::Committed);
    }
    commit_ok(store, commit_of([Change::Keep(format!("did:example:s{}{STRANGE}", first + 1))])).await;
    store.acknowledge(&[format!("of stranger {}", first + 2)]).await.unwrap();
}

async fn messages(store: &dyn Store, first: u64) {
    let peer = long_did("them");
    let hard = Delivery {
        id: format!("hard {first}"),
        message: STRANGE.to_owned(),
        thread: long_did(STRANGE),
        sender: peer.clone(),
        sealed: Some((0..=255).collect()),
        ..delivery(first)
    };
    let acknowledged = Delivery { id: format!("acknowledged {first}"), ..delivery(first) };
    let changes = vec![Change::Deliver(hard), Change::Deliver(acknowledged)];
    commit_ok(store, Commit { handled: Some(handled_message(first + 20)), ..commit_of(changes) }).await;
    assert_eq!(store.acknowledge(&[format!("acknowledged {first}")]).await.unwrap(), 1);
    let ids: Vec<_> =
        ["waiting", "later", "sent", "failed", "expired", "cancelled"].map(|id| format!("{id} {first}")).into();
    let entry = |id: &String| OutboxEntry {
        id: id.clone(),
        problem: Some(format!("problem {STRANGE}")),
        message: STRANGE.to_owned(),
        ..outgoing(first, &peer)
    };
    commit_ok(store, commit_of(ids.iter().map(entry).map(Change::Send).collect::<Vec<_>>())).await;
    let event = || Some(NewEvent { time: now(), kind: "sent".to_owned(), data: format!("{{\"a\":\"{first}\"}}") });
    let outcome = async |at: usize, outcome| store.record_send_outcome(&ids[at], outcome, event()).await.unwrap();
    outcome(1, SendOutcome::Later(now() + HOUR, "away".to_owned())).await;
    outcome(2, SendOutcome::Sent(now())).await;
    outcome(3, SendOutcome::Failed(now(), STRANGE.to_owned())).await;
    outcome(4, SendOutcome::Expired(now())).await;
    assert!(store.cancel_outgoing(&ids[5], now()).await.unwrap());
}

async fn records(store: &dyn Store, first: u64) {
    for (kind, key) in [
        ("connection", format!("did:example:us {}", long_did(&format!("kept{first}")))),
        ("connection", format!("did:example:us {STRANGE}{first}")),
        ("moved", format!("did:example:us {STRANGE}{first}")),
        (STRANGE, first.to_string()),
        ("", String::new()),
        // These differ after 600 characters only.
        ("x", format!("{}a{first}", "é".repeat(700))),
        ("x", format!("{}b{first}", "é".repeat(700))),
    ] {
        let put = Record { kind: kind.to_owned(), ..record(&key, UNREAD, "value\0") };
        for _ in 0..3 {
            commit_ok(store, commit_of([Change::Put(put.clone())])).await;
        }
    }
    let expires = Record { expires: Some(now() + DAY), ..record(&format!("expires {first}"), 0, "") };
    commit_ok(store, commit_of([Change::Put(expires)])).await;
    let gone = record(&format!("gone {first}"), 0, "");
    let delete = Change::Delete { kind: gone.kind.clone(), key: gone.key.clone() };
    commit_ok(store, commit_of([Change::Put(gone), delete])).await;
}

/// More rows than a batch of a copy has.
async fn many(store: &dyn Store, first: u64) {
    let event = |number| NewEvent { time: now(), kind: format!("kind {}", number % 3), data: "{}".to_owned() };
    let changes = (first..first + 1200).flat_map(|number| {
        let delivered = Delivery { id: format!("many {number}"), ..delivery(number) };
        [
            Change::Event(event(number)),
            Change::Deliver(delivered),
            Change::Put(record(&format!("many {number}"), 0, "")),
        ]
    });
    commit_ok(store, commit_of(changes.collect::<Vec<_>>())).await;
    // A number that was given and is gone is not given again.
    let last = store.deliveries(all()).await.unwrap().pop().unwrap().id;
    store.acknowledge(&[last]).await.unwrap();
}

/// Opens a store of SQLite with low limits.
pub fn open_low(path: &Path) -> SqliteStore {
    SqliteStore::open(path, low_limits()).expect("the store opens")
}

/// Makes a store that was filled, restored from a backup, and filled again, so that it has two ranges of cursors.
pub async fn make(folder: &Path) -> std::path::PathBuf {
    let (first, path) = (folder.join("first.db"), folder.join("source.db"));
    let store = open_low(&first);
    fill(&store, 0).await;
    store.close().await.unwrap();
    claviger::agent::store::restore(&first, &path, false).unwrap();
    let store = open_low(&path);
    fill(&store, 10_000).await;
    store.close().await.unwrap();
    path
}
