//! Tests of records: written by revision, listed, and expired.

use claviger::agent::store::{Change, Commit, CommitOutcome, Record, Retention, Stranger};

use crate::store::{
    fixtures::{HOUR, PAST, commit_of, now, record, revision_of, value_of},
    suite::{StoreLocation, commit_ok, open, reopen},
};

pub async fn records_have_keys_and_revisions(location: &dyn StoreLocation) {
    let store = open(location).await;
    let profile = Record { kind: "profile".to_owned(), ..record("a", 0, "another kind") };
    let names = ["b", "a", "ab", "é", "B", "a\0"];
    let mut changes: Vec<_> = names.map(|key| Change::Put(record(key, 0, key))).into();
    changes.push(Change::Put(profile.clone()));
    commit_ok(&*store, commit_of(changes)).await;
    let store = reopen(location, store).await;
    let found = store.record("connection", "ab").await.unwrap().unwrap();
    assert!(found.revision > 0);
    assert_eq!(found, record("ab", found.revision, "ab"));
    assert_eq!(store.record("profile", "a").await.unwrap().unwrap().value, profile.value);
    assert_eq!(store.record("profile", "b").await.unwrap(), None);
    let places = [("connection", "é"), ("profile", "b"), ("profile", "a"), ("connection", "é")];
    let found = store.records_at(&places).await.unwrap();
    let values: Vec<_> =
        found.iter().map(|found| found.as_ref().map(|it| str::from_utf8(&it.value).unwrap())).collect();
    assert_eq!(values, [Some("é"), None, Some("another kind"), Some("é")]);
    assert_eq!(store.records_at(&[]).await.unwrap(), []);
    let ask = async |after: &str, limit| {
        let found = store.records("connection", after, limit).await.unwrap();
        found.into_iter().map(|record| record.key).collect::<Vec<_>>()
    };
    assert_eq!(ask("", 10).await, ["B", "a", "a\0", "ab", "b", "é"]);
    assert_eq!(ask("a", 2).await, ["a\0", "ab"]);
    assert!(ask("é", 10).await.is_empty());
    let all_at_once = names.map(|key| Change::Delete { kind: "connection".to_owned(), key: key.to_owned() });
    commit_ok(&*store, commit_of(all_at_once)).await;
    assert!(ask("", 10).await.is_empty());
}

/// Whatever happens to a record, its revision only grows.
pub async fn revisions_are_never_reused(location: &dyn StoreLocation) {
    let mut store = open(location).await;
    let mut last = 0;
    for round in 0..12 {
        let expires = (round % 4 == 3).then_some(PAST);
        let of_stranger = Stranger { did: "did:example:stranger".to_owned(), created: None };
        let written = record("a", revision_of(&*store, "a").await, "x");
        let commit = match round % 2 {
            0 => commit_of([Change::Put(written)]),
            _ => Commit { stranger: Some(of_stranger), ..commit_of([Change::Remember(written)]) },
        };
        commit_ok(&*store, commit).await;
        let revision = revision_of(&*store, "a").await;
        assert!(revision > last, "round {round}: {revision} after {last}");
        last = revision;
        // An update counts too, also of a record that has expired at once.
        commit_ok(&*store, commit_of([Change::Put(Record { expires, ..record("a", revision, "y") })])).await;
        last = last.max(revision_of(&*store, "a").await);
        match round % 3 {
            0 => {
                let gone = Change::Delete { kind: "connection".to_owned(), key: "a".to_owned() };
                commit_ok(&*store, commit_of([gone])).await;
            }
            1 => _ = store.delete_expired(now(), &Retention::default(), 10).await.unwrap(),
            _ => {}
        }
        if round % 5 == 0 {
            store = reopen(location, store).await;
        }
    }
}

pub async fn an_expired_record_is_not_returned(location: &dyn StoreLocation) {
    let store = open(location).await;
    let expired = Record { expires: Some(PAST), ..record("a", 0, "old") };
    let lasting = Record { expires: Some(now() + HOUR), ..record("b", 0, "new") };
    commit_ok(&*store, commit_of([Change::Put(expired.clone()), Change::Put(lasting)])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), None);
    assert_eq!(store.records_at(&[("connection", "a")]).await.unwrap(), [None]);
    let found = store.records("connection", "", 10).await.unwrap();
    assert_eq!(found.into_iter().map(|record| record.key).collect::<Vec<_>>(), ["b"]);
    let over = Change::Put(Record { revision: 1, ..expired });
    assert_eq!(store.commit(commit_of([over])).await.unwrap(), CommitOutcome::Conflict);
    commit_ok(&*store, commit_of([Change::Put(record("a", 0, "new"))])).await;
    assert_eq!(value_of(&*store, "a").await.as_deref(), Some("new"));
}

/// The connections of all our DIDs with a peer are found by the peer's DID, or by the beginning of it.
pub async fn connections_and_rotations_are_found_by_peer(location: &dyn StoreLocation) {
    let store = open(location).await;
    let moved = |key: &str| Record { kind: "moved".to_owned(), ..record(key, 0, "x") };
    let connections =
        ["b p:1:x", "a p:1:x", "a p:1:x:y", "a p:1", "a p:12:x", "c p:1:\u{e9}", "a q", "p:1:x", "a p:1;"];
    let mut changes: Vec<_> = connections.map(|key| Change::Put(record(key, 0, "x"))).into();
    changes.extend(["a p:1:x", "b q"].map(|key| Change::Put(moved(key))));
    changes.push(Change::Put(Record { kind: "profile".to_owned(), ..record("a p:1:x", 0, "x") }));
    changes.push(Change::Put(Record { expires: Some(PAST), ..record("d p:1:x", 0, "x") }));
    commit_ok(&*store, commit_of(changes)).await;
    let store = reopen(location, store).await;
    let ask = async |kind, peer: &str, after: &str, limit| {
        let found = store.records_with_peer(kind, peer, after, limit).await.unwrap();
        assert!(found.iter().all(|record| record.kind == kind && record.value == b"x"));
        found.into_iter().map(|record| record.key).collect::<Vec<_>>()
    };
    assert_eq!(ask("connection", "p:1:x", "", 10).await, ["a p:1:x", "b p:1:x", "p:1:x"]);
    assert_eq!(ask("connection", "p:1:x", "a p:1:x", 1).await, ["b p:1:x"]);
    assert_eq!(ask("connection", "p:1:", "", 10).await, ["a p:1:x", "a p:1:x:y", "b p:1:x", "c p:1:\u{e9}", "p:1:x"]);
    // A tilde stands for any rest.
    assert_eq!(ask("connection", "p:1:x~", "", 10).await, ["a p:1:x", "a p:1:x:y", "b p:1:x", "p:1:x"]);
    assert_eq!(ask("connection", "p:1:x~", "a p:1:x", 1).await, ["a p:1:x:y"]);
    assert_eq!(ask("connection", "p:1:z~", "", 10).await, [""; 0]);
    assert_eq!(ask("connection", "p:1:", "a p:1:x", 2).await, ["a p:1:x:y", "b p:1:x"]);
    assert_eq!(ask("moved", "p:1:x", "", 10).await, ["a p:1:x"]);
    assert_eq!(ask("moved", "q", "", 10).await, ["b q"]);
    for (kind, peer) in [("connection", "p"), ("connection", ""), ("profile", "p:1:x"), ("moved", "p:")] {
        let found = ask(kind, peer, "", 10).await;
        assert_eq!(found.is_empty(), peer != "p:", "{kind} {peer}: {found:?}");
    }
}
