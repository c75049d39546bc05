//! A disk that is full and has room again, and a process that is killed while it writes.

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

use claviger::agent::store::{Change, Commit, Committed, Receipt, SqliteOptions, SqliteStore, Store, StoreError};

use crate::store::{
    SqlitePlace, open,
    things::{all, arrival, concluding, delivered, delivery, handled, large, now, record, turn, waiting},
};

/// Fills a store from this message on until it refuses; returns what was kept.
async fn fill(store: &SqliteStore, first: u64) -> Vec<i64> {
    let mut kept = Vec::new();
    for number in first.. {
        match store.receive(large(number, 50_000)).await {
            Ok(Receipt::New(id)) => kept.push(id),
            Err(error @ StoreError::Full(_)) => {
                assert!(error.passes());
                return kept;
            }
            other => panic!("{other:?}"),
        }
        assert!(number < first + 10_000, "it is never full");
    }
    kept
}

#[tokio::test]
async fn a_full_disk_is_told_and_recovered_from() {
    let Some(place) = SmallDisk::mount() else { return };
    let filler = place.path.join("filler");
    // Half of the disk is somebody else's.
    fs::write(&filler, vec![0; 4 << 20]).unwrap();
    let store = open(&place.path.join("store.db"), SqliteOptions::default());
    let kept = fill(&store, 0).await;
    assert!(kept.len() > 5, "{kept:?}");
    // It stays so, it can be read, and what was kept is whole.
    assert!(matches!(store.receive(large(100_000, 200_000)).await, Err(StoreError::Full(_))));
    assert_eq!(waiting(&store).await, kept);

    // All at once, on the same store: each is refused or kept, and nobody is told otherwise than it is.
    let store = Arc::new(store);
    let tasks: Vec<_> = (200_000..200_100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.receive(large(number, 20_000)).await })
        })
        .collect();
    let mut kept: BTreeSet<_> = kept.into_iter().collect();
    for task in tasks {
        match task.await.unwrap() {
            Ok(Receipt::New(id)) => assert!(kept.insert(id)),
            Err(error) => assert!(error.passes(), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waiting(&*store).await, kept.iter().copied().collect::<Vec<_>>());

    fs::remove_file(&filler).unwrap();
    store.probe().await.unwrap();
    for number in 300_000..300_020 {
        assert!(matches!(store.receive(large(number, 50_000)).await, Ok(Receipt::New(id)) if kept.insert(id)));
    }
    assert_eq!(store.commit(concluding(*kept.first().unwrap())).await.unwrap(), Committed::Done);
    kept.pop_first();
    store.close().await.unwrap();
    let store = open(&place.path.join("store.db"), SqliteOptions::default());
    assert_eq!(waiting(&store).await, kept.into_iter().collect::<Vec<_>>());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_database_still_does_its_turns() {
    let place = SqlitePlace::new();
    let limit = SqliteOptions { max_bytes: Some(1 << 20), ..Default::default() };
    let store = open(&place.path(), limit);
    let mut kept = fill(&store, 0).await;
    assert!((10..21).contains(&kept.len()), "{} times 50 kB in 1 MiB", kept.len());
    assert!(store.usage().await.unwrap().bytes > 900_000);
    // A turn has the room of its envelope.
    for number in 0..kept.len() as u64 - 2 {
        let mut delivery = delivery(number);
        delivery.sealed = Some(vec![7; 45_000]);
        let turn = Commit {
            envelope: Some(kept.remove(0)),
            handled: Some(handled(number)),
            ..turn([Change::Deliver(delivery)])
        };
        assert_eq!(store.commit(turn).await.unwrap(), Committed::Done);
    }
    let before = delivered(&store).await;
    let too_much =
        turn([Change::Put(claviger::agent::store::Record { value: vec![0; 1 << 20], ..record("a", 0, "") })]);
    assert!(matches!(store.commit(too_much).await, Err(StoreError::Full(_))));
    assert_eq!((delivered(&store).await, waiting(&store).await), (before.clone(), kept));
    assert_eq!(store.acknowledge(&before).await.unwrap(), before.len());
    assert!(!fill(&store, 1000).await.is_empty());
}

/// A file system of 8 MiB, for as long as it is held.
struct SmallDisk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    /// None if this user may not; what a limit of SQLite's own can show, the test above shows all the same.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&path).output();
        let mounted = mounted.expect("mount(8) runs");
        if !mounted.status.success() {
            let said = String::from_utf8_lossy(&mounted.stderr);
            assert!(std::env::var_os("CLAVIGER_REQUIRE_TOKENS").is_none(), "a small disk is mounted by root: {said}");
            eprintln!("not shown: a disk that is full, as no small one can be mounted: {said}");
            return None;
        }
        Some(Self { path, _folder: folder })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a store that a failed test has left there may still be at it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

const STORE: &str = "CLAVIGER_TEST_STORE";
const ROUND: &str = "CLAVIGER_TEST_ROUND";

/// Fifty times, at random moments: what was answered is there, whole, and nothing else is half there.
#[tokio::test]
async fn killed_at_any_moment_it_has_what_it_answered() {
    let place = SqlitePlace::new();
    let (mut answered, mut killed) = (0, 0);
    let mut moment = now() as u64;
    for round in 0..50_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::disk::writes_until_it_is_killed", "--nocapture"])
            .env(STORE, place.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "it writes" {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child does not write");
        }
        // xorshift64.
        moment ^= moment << 13;
        moment ^= moment >> 7;
        moment ^= moment << 17;
        thread::sleep(Duration::from_micros(moment % 60_000));
        child.kill().unwrap();
        let mut said = String::new();
        lines.read_to_string(&mut said).unwrap();
        killed += usize::from(child.wait().unwrap().signal() == Some(9));
        // The last line may be torn.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        answered += check(&place.path(), round, whole).await;
    }
    assert_eq!(killed, 50);
    assert!(answered > 50, "{answered} answers in 50 rounds show nothing");
}

/// Checks a store against the answers that a child gave: `kept NUMBER ID` and `turned NUMBER ID`. Returns how many.
async fn check(path: &Path, round: u64, answers: &str) -> usize {
    let store = open(path, SqliteOptions::default());
    let envelopes = store.waiting(now(), &[], usize::MAX).await.unwrap();
    let envelopes: BTreeMap<_, _> = envelopes.into_iter().map(|envelope| (envelope.id, envelope.packed)).collect();
    let deliveries: BTreeSet<_> = delivered(&store).await.into_iter().collect();
    let answers: Vec<_> = answers.lines().filter(|line| !line.is_empty()).collect();
    for answer in &answers {
        let words: Vec<_> = answer.split(' ').collect();
        let [what, number, id] = words[..] else { panic!("{answer}") };
        let (number, id): (u64, i64) = (number.parse().unwrap(), id.parse().unwrap());
        let turned = deliveries.contains(&delivery(number).id);
        match what {
            "kept" => assert!(turned || envelopes.get(&id) == Some(&arrival(number).packed), "round {round}: {answer}"),
            "turned" => assert!(turned && !envelopes.contains_key(&id), "round {round}: {answer}"),
            other => panic!("{other}"),
        }
    }
    // A turn is whole or not there, whether it was answered or not.
    let records: BTreeSet<_> =
        store.records("connection", "", usize::MAX).await.unwrap().into_iter().map(|record| record.key).collect();
    assert_eq!(deliveries.iter().map(|id| id.replace("delivery ", "")).collect::<BTreeSet<_>>(), records);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.envelopes, usage.deliveries), (envelopes.len() as u64, deliveries.len() as u64));
    assert_eq!(store.deliveries(all()).await.unwrap().len(), deliveries.len());
    store.close().await.unwrap();
    answers.len()
}

/// The child's part; alone it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_it_is_killed() {
    let (Ok(path), Ok(round)) = (std::env::var(STORE), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    let store = Arc::new(open(Path::new(&path), SqliteOptions::default()));
    say("it writes");
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for step in 0.. {
                    let number = round * 1_000_000 + task * 100_000 + step;
                    let Receipt::New(id) = store.receive(arrival(number)).await.unwrap() else { panic!("it is new") };
                    say(&format!("kept {number} {id}"));
                    if step % 3 > 0 {
                        continue;
                    }
                    let changes =
                        vec![Change::Deliver(delivery(number)), Change::Put(record(&number.to_string(), 0, "value"))];
                    let turn = Commit { envelope: Some(id), handled: Some(handled(number)), changes };
                    assert_eq!(store.commit(turn).await.unwrap(), Committed::Done);
                    say(&format!("turned {number} {id}"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// In one piece.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}
