//! What the daemon uses: memory, disk, and rows of its store.

use std::{collections::BTreeMap, fs, path::Path};

use rusqlite::{Connection, OpenFlags};

use crate::daemon::Daemon;

/// The rows of the store that messages of peers can make.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stored(BTreeMap<String, u64>);

impl Stored {
    /// All rows that must be gone after an attack.
    pub fn attackable(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Counts the rows: envelopes, messages that wait to be sent, unread deliveries, and records by kind.
pub fn stored(daemon: &Daemon) -> Stored {
    let database = daemon.home.path().join("state/agent/agent.db");
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut counts = BTreeMap::new();
    for (name, sql) in [
        ("envelopes", "SELECT count(*) FROM envelopes"),
        ("unsent", "SELECT count(*) FROM outgoing WHERE state = 0"),
        ("unread", "SELECT count(*) FROM deliveries WHERE acknowledged IS NULL"),
    ] {
        let count: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        counts.insert(name.to_owned(), u64::try_from(count).unwrap());
    }
    let mut records = connection.prepare("SELECT kind, count(*) FROM records GROUP BY kind").unwrap();
    let rows = records.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    for (kind, count) in rows.map(Result::unwrap) {
        counts.insert(format!("record {kind}"), u64::try_from(count).unwrap());
    }
    Stored(counts)
}

/// The largest resident memory of each of the daemon's processes until now, all together, in KiB.
pub fn peak_memory_kib(daemon: &Daemon) -> u64 {
    let top = daemon.pid();
    let parents: BTreeMap<u32, u32> = processes().filter_map(|pid| Some((pid, number(pid, "PPid:")? as u32))).collect();
    let mut family = vec![top];
    while let Some(child) = parents.iter().find(|(pid, parent)| family.contains(parent) && !family.contains(pid)) {
        family.push(*child.0);
    }
    // The agent's parent is the supervisor, which also started the keepers.
    family.into_iter().filter_map(|pid| number(pid, "VmHWM:")).sum()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The number in a line of /proc/PID/status.
fn number(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The bytes of the files in the state folder.
pub fn disk_bytes(daemon: &Daemon) -> u64 {
    folder_bytes(&daemon.home.path().join("state"))
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
