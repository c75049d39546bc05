//! A full disk that gets free space again, and a process that is killed while it writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use claviger::agent::store::{
    Change, Commit, CommitOutcome, ReceiveOutcome, SqliteOptions, SqliteStore, Store, StoreError,
};

use crate::store::{
    SqliteLocation,
    fixtures::{
        all, commit_of, delivery, handled_message, large_envelope, new_envelope, now, pending_ids, process_envelope,
        record, unread_ids,
    },
    open,
};

/// Stores envelopes, beginning with this number, until the store is full. Returns their ids.
async fn fill(store: &SqliteStore, first: u64) -> Vec<i64> {
    let mut stored = Vec::new();
    for number in first.. {
        match store.receive(large_envelope(number, 50_000)).await {
            Ok(ReceiveOutcome::Stored(id)) => stored.push(id),
            Err(error @ StoreError::Full(_)) => {
                assert!(error.is_retryable());
                return stored;
            }
            other => panic!("{other:?}"),
        }
        assert!(number < first + 10_000, "the store is never full");
    }
    stored
}

#[tokio::test]
async fn the_store_recovers_from_a_full_disk() {
    let Some(location) = SmallDisk::mount() else { return };
    let filler = location.path.join("filler");
    // Another program uses half of the disk.
    fs::write(&filler, vec![0; 4 << 20]).unwrap();
    let store = open(&location.path.join("store.db"), SqliteOptions::default());
    let stored = fill(&store, 0).await;
    assert!(stored.len() > 5, "{stored:?}");
    // The store stays full, can be read, and has all stored envelopes.
    assert!(matches!(store.receive(large_envelope(100_000, 200_000)).await, Err(StoreError::Full(_))));
    assert_eq!(pending_ids(&store).await, stored);

    // Concurrent requests: each answer says truly whether the envelope is stored.
    let store = Arc::new(store);
    let tasks: Vec<_> = (200_000..200_100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.receive(large_envelope(number, 20_000)).await })
        })
        .collect();
    let mut stored: BTreeSet<_> = stored.into_iter().collect();
    for task in tasks {
        match task.await.unwrap() {
            Ok(ReceiveOutcome::Stored(id)) => assert!(stored.insert(id)),
            Err(error) => assert!(error.is_retryable(), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pending_ids(&*store).await, stored.iter().copied().collect::<Vec<_>>());

    fs::remove_file(&filler).unwrap();
    store.probe_write().await.unwrap();
    for number in 300_000..300_020 {
        assert!(
            matches!(store.receive(large_envelope(number, 50_000)).await, Ok(ReceiveOutcome::Stored(id)) if stored.insert(id))
        );
    }
    assert_eq!(store.commit(process_envelope(*stored.first().unwrap())).await.unwrap(), CommitOutcome::Committed);
    stored.pop_first();
    store.close().await.unwrap();
    let store = open(&location.path.join("store.db"), SqliteOptions::default());
    assert_eq!(pending_ids(&store).await, stored.into_iter().collect::<Vec<_>>());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_database_still_handles_pending_envelopes() {
    let location = SqliteLocation::new();
    let limit = SqliteOptions { max_bytes: Some(1 << 20), ..Default::default() };
    let store = open(&location.path(), limit);
    let mut stored = fill(&store, 0).await;
    assert!((10..21).contains(&stored.len()), "{} times 50 kB in 1 MiB", stored.len());
    assert!(store.usage().await.unwrap().bytes > 900_000);
    // A commit can use the space of its envelope.
    for number in 0..stored.len() as u64 - 2 {
        let mut delivery = delivery(number);
        delivery.sealed = Some(vec![7; 45_000]);
        let commit = Commit {
            envelope: Some(stored.remove(0)),
            handled: Some(handled_message(number)),
            ..commit_of([Change::Deliver(delivery)])
        };
        assert_eq!(store.commit(commit).await.unwrap(), CommitOutcome::Committed);
    }
    let before = unread_ids(&store).await;
    let too_much =
        commit_of([Change::Put(claviger::agent::store::Record { value: vec![0; 1 << 20], ..record("a", 0, "") })]);
    assert!(matches!(store.commit(too_much).await, Err(StoreError::Full(_))));
    assert_eq!((unread_ids(&store).await, pending_ids(&store).await), (before.clone(), stored));
    assert_eq!(store.acknowledge(&before).await.unwrap(), before.len());
    assert!(!fill(&store, 1000).await.is_empty());
}

/// A file system of 8 MiB. Dropping it unmounts it.
struct SmallDisk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts the file system. Returns `None` if this user may not mount. The test with SQLite's own limit runs in
    /// any case.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&path).output();
        let mounted = mounted.expect("mount(8) runs");
        if !mounted.status.success() {
            let stderr = String::from_utf8_lossy(&mounted.stderr);
            assert!(std::env::var_os("CLAVIGER_REQUIRE_TOKENS").is_none(), "a small disk is mounted by root: {stderr}");
            eprintln!("test skipped: no small file system can be mounted: {stderr}");
            return None;
        }
        Some(Self { path, _folder: folder })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // `--lazy`, because the store of a failed test may still use the file system.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

const STORE: &str = "CLAVIGER_TEST_STORE";
const ROUND: &str = "CLAVIGER_TEST_ROUND";

/// Kills the writer fifty times, at random moments. Every answered write is complete, and no other write is half done.
#[tokio::test]
async fn answered_writes_survive_a_kill_at_any_moment() {
    let location = SqliteLocation::new();
    let (mut answered, mut killed) = (0, 0);
    let mut moment = now() as u64;
    for round in 0..50_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::disk::writes_until_it_is_killed", "--nocapture"])
            .env(STORE, location.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "writing" {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child does not write");
        }
        // xorshift64.
        moment ^= moment << 13;
        moment ^= moment >> 7;
        moment ^= moment << 17;
        thread::sleep(Duration::from_micros(moment % 60_000));
        child.kill().unwrap();
        let mut output = String::new();
        lines.read_to_string(&mut output).unwrap();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
        // The last line may be incomplete.
        let complete = output.rfind('\n').map_or("", |end| &output[..end]);
        answered += check(&location.path(), round, complete).await;
    }
    assert_eq!(killed, 50);
    assert!(answered > 50, "{answered} answers in 50 rounds are too few");
}

/// Checks a store against the answers of a child: `stored NUMBER ID` and `committed NUMBER ID`. Returns the number
/// of answers.
async fn check(path: &Path, round: u64, answers: &str) -> usize {
    let store = open(path, SqliteOptions::default());
    let envelopes = store.pending_envelopes(now(), &[], usize::MAX).await.unwrap();
    let envelopes: BTreeMap<_, _> = envelopes.into_iter().map(|envelope| (envelope.id, envelope.packed)).collect();
    let deliveries: BTreeSet<_> = unread_ids(&store).await.into_iter().collect();
    let answers: Vec<_> = answers.lines().filter(|line| !line.is_empty()).collect();
    for answer in &answers {
        let words: Vec<_> = answer.split(' ').collect();
        let [what, number, id] = words[..] else { panic!("{answer}") };
        let (number, id): (u64, i64) = (number.parse().unwrap(), id.parse().unwrap());
        let is_committed = deliveries.contains(&delivery(number).id);
        match what {
            "stored" => assert!(
                is_committed || envelopes.get(&id) == Some(&new_envelope(number).packed),
                "round {round}: {answer}"
            ),
            "committed" => assert!(is_committed && !envelopes.contains_key(&id), "round {round}: {answer}"),
            other => panic!("{other}"),
        }
    }
    // A commit is complete or absent, whether it was answered or not.
    let records: BTreeSet<_> =
        store.records("connection", "", usize::MAX).await.unwrap().into_iter().map(|record| record.key).collect();
    assert_eq!(deliveries.iter().map(|id| id.replace("delivery ", "")).collect::<BTreeSet<_>>(), records);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.envelopes, usage.deliveries), (envelopes.len() as u64, deliveries.len() as u64));
    assert_eq!(store.deliveries(all()).await.unwrap().len(), deliveries.len());
    store.close().await.unwrap();
    answers.len()
}

/// The child process of the test above: writes until it is killed. Does nothing without the environment of that test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_it_is_killed() {
    let (Ok(path), Ok(round)) = (std::env::var(STORE), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    let store = Arc::new(open(Path::new(&path), SqliteOptions::default()));
    print_line("writing");
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for step in 0.. {
                    let number = round * 1_000_000 + task * 100_000 + step;
                    let ReceiveOutcome::Stored(id) = store.receive(new_envelope(number)).await.unwrap() else {
                        panic!("a new envelope")
                    };
                    print_line(&format!("stored {number} {id}"));
                    if step % 3 > 0 {
                        continue;
                    }
                    let changes =
                        vec![Change::Deliver(delivery(number)), Change::Put(record(&number.to_string(), 0, "value"))];
                    let commit =
                        Commit { envelope: Some(id), handled: Some(handled_message(number)), ..commit_of(changes) };
                    assert_eq!(store.commit(commit).await.unwrap(), CommitOutcome::Committed);
                    print_line(&format!("committed {number} {id}"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Prints a line with a single write, so that a kill does not cut the line.
fn print_line(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}
