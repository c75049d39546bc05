//! Checks of stores: what damage is found.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use claviger::agent::store::{CheckReport, Store, StoreError, StoreLocation, check};
use rusqlite::Connection;

use crate::store::content::{fill, make, open_low};

async fn check_file(path: &Path) -> CheckReport {
    check(&StoreLocation::Sqlite(path.to_owned()), |_, _| ()).await.unwrap()
}

fn codes(report: &CheckReport) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

#[tokio::test]
async fn damage_in_sqlite_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (make(folder.path()).await, folder.path().join("bad.db"));
    assert_eq!(check_file(&good).await.findings, []);
    for (damage, expected) in [
        ("UPDATE total_load SET bytes = bytes + 1", &["sums-differ"][..]),
        ("UPDATE load SET envelopes = 7 WHERE recipient = (SELECT min(recipient) FROM load)", &["sums-differ"]),
        ("UPDATE unresolved_load SET bytes = 0", &["sums-differ"]),
        ("DELETE FROM named_load", &["sums-differ"]),
        ("UPDATE left_by SET unsent = unsent + 1 WHERE peer = (SELECT min(peer) FROM left_by)", &["sums-differ"]),
        ("UPDATE total_unread SET of_strangers = 0", &["sums-differ"]),
        ("UPDATE of_strangers SET replies = 99", &["sums-differ"]),
        ("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'envelopes'", &["number-never-given"]),
        (
            "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'events'",
            &["ranges-wrong", "number-never-given", "cursor-unknown"],
        ),
        ("UPDATE cursor_ranges SET last = first - 1 WHERE last IS NOT NULL", &["cursor-unknown"]),
        ("DELETE FROM event_ranges WHERE last IS NULL", &["ranges-wrong", "cursor-unknown"]),
        ("INSERT INTO cursor_ranges (first, last) VALUES (7, NULL)", &["ranges-wrong"]),
        ("UPDATE deliveries SET sealed = x'00' WHERE acknowledged IS NOT NULL", &["content-left"]),
        ("UPDATE outgoing SET sealed = x'00' WHERE state = 1", &["content-left"]),
        ("UPDATE outgoing SET state = 9 WHERE state = 1", &["state-unknown"]),
        ("UPDATE records SET revision = 0 WHERE kind = 'moved'", &["revision-wrong"]),
        ("UPDATE records SET seen = NULL WHERE peer IS NOT NULL", &["stranger-half-known"]),
        ("UPDATE handled SET mark = x'00' WHERE seq = (SELECT min(seq) FROM handled)", &["digest-malformed"]),
        (
            "UPDATE handled SET stranger = 2 WHERE seq = (SELECT min(seq) FROM handled WHERE NOT stranger)",
            &["flag-malformed"],
        ),
        ("INSERT INTO concluded SELECT digest, 1 FROM envelopes", &["envelope-processed"]),
        ("UPDATE deliveries SET message = CAST(x'ff' AS TEXT)", &["unreadable"]),
    ] {
        fs::copy(&good, &bad).unwrap();
        Connection::open(&bad).unwrap().execute_batch(damage).unwrap();
        let report = check_file(&bad).await;
        assert_eq!(codes(&report), expected, "{damage}: {:?}", report.findings);
    }
    // Every page in turn: none goes unnoticed that has content.
    let length = fs::metadata(&good).unwrap().len() / 4096;
    let mut noticed = 0;
    for page in (1..length).step_by(usize::try_from(length / 40).unwrap()) {
        fs::copy(&good, &bad).unwrap();
        OpenOptions::new().write(true).open(&bad).unwrap().write_all_at(&[0xa5; 4096], page * 4096).unwrap();
        noticed += match check(&StoreLocation::Sqlite(bad.clone()), |_, _| ()).await {
            Ok(report) => u64::from(!report.findings.is_empty()),
            Err(error) => u64::from(error.to_string().contains("is damaged")),
        };
    }
    assert!(noticed >= 35, "{noticed}");
}

#[tokio::test]
async fn a_store_in_use_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let missing = check(&StoreLocation::Sqlite(path.clone()), |_, _| ()).await.unwrap_err();
    assert!(matches!(&missing, StoreError::Unusable(why) if why.contains("does not exist")), "{missing}");
    let store = open_low(&path);
    let filling = fill(&store, 0);
    let checking = async {
        for _ in 0..5 {
            assert_eq!(check_file(&path).await.findings, []);
        }
    };
    tokio::join!(filling, checking);
    let tables = check_file(&path).await.tables;
    assert!(tables.len() == 7 && tables.iter().all(|(_, rows)| *rows > 0), "{tables:?}");
    store.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    check_file(&path).await;
    assert!(fs::read(&path).unwrap() == before, "the check has changed the file");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn damage_in_postgresql_is_found() {
    use claviger::agent::store::{PostgresStore, copy};

    use crate::{postgres_server::Server, store::postgres::Location};
    let Some(server) = Server::shared() else { return };
    let location = Location::of(server);
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (make(folder.path()).await, StoreLocation::Postgres(Box::new(location.options())));
    copy(&StoreLocation::Sqlite(source), &target, |_| ()).await.unwrap();
    for (damage, repair, expected) in [
        (
            "UPDATE records SET digest = sha256(digest) WHERE kind = 'moved' OR key LIKE 'many%'",
            "",
            &["digests-differ"][..],
        ),
        (
            "SELECT setval('outgoing_sequence_seq', 1)",
            "SELECT setval('outgoing_sequence_seq', 99)",
            &["number-never-given"],
        ),
        (
            "UPDATE cursor_ranges SET last = first WHERE last IS NULL AND sequence = 'deliveries'",
            "UPDATE cursor_ranges SET last = NULL WHERE first = (SELECT max(first) FROM cursor_ranges WHERE sequence = 'deliveries')",
            &["ranges-wrong", "cursor-unknown"],
        ),
        (
            "UPDATE outgoing SET state = 7 WHERE state = 4",
            "UPDATE outgoing SET state = 4 WHERE state = 7",
            &["state-unknown"],
        ),
        (
            "DELETE FROM claviger WHERE name = 'dropped'",
            "INSERT INTO claviger VALUES ('dropped', 0)",
            &["facts-missing"],
        ),
    ] {
        location.sql(damage);
        let report = check(&target, |_, _| ()).await.unwrap();
        let found: Vec<_> =
            codes(&report).into_iter().filter(|code| repair.is_empty() || *code != "digests-differ").collect();
        assert_eq!(found, expected, "{damage}: {:?}", report.findings);
        location.sql(repair);
    }
    PostgresStore::open(location.options(), Default::default()).await.unwrap().close().await.unwrap();
}
