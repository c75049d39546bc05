//! Tests of records: written by revision, listed, and expired.

use claviger::agent::store::{Change, CommitOutcome, Record};

use crate::store::{
    fixtures::{HOUR, PAST, commit_of, now, record},
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
    assert_eq!(store.record("connection", "ab").await.unwrap(), Some(record("ab", 1, "ab")));
    assert_eq!(store.record("profile", "a").await.unwrap(), Some(Record { revision: 1, ..profile }));
    assert_eq!(store.record("profile", "b").await.unwrap(), None);
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
    // The revision begins again.
    commit_ok(&*store, commit_of([Change::Put(record("a", 0, "again"))])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 1, "again")));
}

pub async fn an_expired_record_is_not_returned(location: &dyn StoreLocation) {
    let store = open(location).await;
    let expired = Record { expires: Some(PAST), ..record("a", 0, "old") };
    let lasting = Record { expires: Some(now() + HOUR), ..record("b", 0, "new") };
    commit_ok(&*store, commit_of([Change::Put(expired.clone()), Change::Put(lasting)])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), None);
    let found = store.records("connection", "", 10).await.unwrap();
    assert_eq!(found.into_iter().map(|record| record.key).collect::<Vec<_>>(), ["b"]);
    let over = Change::Put(Record { revision: 1, ..expired });
    assert_eq!(store.commit(commit_of([over])).await.unwrap(), CommitOutcome::Conflict);
    commit_ok(&*store, commit_of([Change::Put(record("a", 0, "new"))])).await;
    assert_eq!(store.record("connection", "a").await.unwrap(), Some(record("a", 1, "new")));
}
