//! Reads another process's memory and searches it for many needles at once.
//!
//! It reads everything that the process has written: heap, stacks, anonymous and shared memory, writable data of
//! programs and libraries. It does not read file pages that the process only reads, nor pages that the process never
//! touched, since reading would create them.

pub mod agent;
pub mod peer;

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// The length of a piece of a needle, in bytes. Each piece is searched for by itself: glibc 2.26 and later overwrite
/// the first 16 bytes of freed memory, and a part of a key is a leak too.
const PIECE: usize = 16;
const PAGE: u64 = 4096;

/// The byte strings that are searched for.
#[derive(Default, Clone)]
pub struct Needles {
    names: Vec<String>,
    pieces: Vec<(usize, Vec<u8>)>,
}

impl Needles {
    /// Adds a needle in both byte orders.
    pub fn add(&mut self, name: impl Into<String>, bytes: &[u8]) {
        assert!(bytes.len() >= PIECE, "a short needle would be found by chance");
        let name_of = self.names.len();
        self.names.push(name.into());
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        for bytes in [bytes, &reversed] {
            // The last piece overlaps the one before if the needle is not a multiple of 16 bytes.
            let starts = (0..bytes.len() / PIECE).map(|piece| piece * PIECE).chain([bytes.len() - PIECE]);
            for start in BTreeSet::from_iter(starts) {
                let piece = &bytes[start..start + PIECE];
                assert!(piece.iter().collect::<BTreeSet<_>>().len() > 4, "the needle is not random");
                self.pieces.push((name_of, piece.to_vec()));
            }
        }
    }

    /// Adds all needles of another set.
    pub fn extend(&mut self, others: &Self) {
        let offset = self.names.len();
        self.names.extend(others.names.iter().cloned());
        self.pieces.extend(others.pieces.iter().map(|(name, piece)| (name + offset, piece.clone())));
    }
}

/// A needle that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub name: String,
    pub address: u64,
    /// The mapping: `[heap]`, `[stack]`, a file, or empty.
    pub mapping: String,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x} {}", self.name, self.address, self.mapping)
    }
}

/// The result of reading a process once.
pub struct Snapshot {
    pub hits: Vec<Hit>,
    /// How many bytes were read.
    pub bytes: usize,
}

impl Snapshot {
    /// Whether a needle was among the hits.
    pub fn has(&self, name: &str) -> bool {
        self.hits.iter().any(|hit| hit.name == name)
    }
}

/// A process whose memory is read.
pub struct Process {
    pid: u32,
    memory: File,
    pages: File,
}

impl Process {
    /// Opens a process for reading. For a process that is not dumpable this needs CAP_SYS_PTRACE.
    pub fn open(pid: u32) -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        Ok(Self { pid, memory: open("mem")?, pages: open("pagemap")? })
    }

    /// Reads the process once, while it runs.
    pub fn scan(&self, needles: &Needles) -> io::Result<Snapshot> {
        let patterns = needles.pieces.iter().map(|(_, piece)| piece);
        let builder = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(patterns);
        let automaton = builder.map_err(io::Error::other)?;
        let mut snapshot = Snapshot { hits: Vec::new(), bytes: 0 };
        let mut bytes = Vec::new();
        for mapping in fs::read_to_string(format!("/proc/{}/maps", self.pid))?.lines().filter_map(Mapping::parse) {
            for (start, end) in self.written(&mapping) {
                bytes.resize((end - start) as usize, 0);
                // The memory may have been unmapped meanwhile.
                let Ok(read) = self.memory.read_at(&mut bytes, start) else { continue };
                snapshot.bytes += read;
                for found in automaton.find_iter(&bytes[..read]) {
                    let (name, _) = needles.pieces[found.pattern().as_usize()];
                    let address = start + found.start() as u64;
                    let mapping = mapping.name.clone();
                    snapshot.hits.push(Hit { name: needles.names[name].clone(), address, mapping });
                }
            }
        }
        Ok(snapshot)
    }

    /// The address ranges of a mapping whose pages the process has written.
    fn written(&self, mapping: &Mapping) -> Vec<(u64, u64)> {
        // Documentation/admin-guide/mm/pagemap.rst of the kernel.
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const FILE_PAGE: u64 = 1 << 61;
        let mut entries = vec![0; ((mapping.end - mapping.start) / PAGE * 8) as usize];
        let Ok(read) = self.pages.read_at(&mut entries, mapping.start / PAGE * 8) else { return Vec::new() };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (entry, start) in entries[..read].chunks_exact(8).zip((mapping.start..).step_by(PAGE as usize)) {
            let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
            if entry & (PRESENT | SWAPPED) == 0 || (entry & FILE_PAGE != 0 && !mapping.writable) {
                continue;
            }
            match runs.last_mut() {
                Some((_, end)) if *end == start => *end += PAGE,
                _ => runs.push((start, start + PAGE)),
            }
        }
        runs
    }
}

/// A line of `/proc/PID/maps`.
struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
    name: String,
}

impl Mapping {
    /// None for the kernel's mappings, and for those that cannot be read.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let access = words.next()?;
        let name = words.nth(3).unwrap_or_default().to_owned();
        let kernels = ["[vvar", "[vdso]", "[vsyscall]"].iter().any(|kernels| name.starts_with(kernels));
        let address = |text| u64::from_str_radix(text, 16).ok();
        let mapping = Self { start: address(start)?, end: address(end)?, writable: access.contains('w'), name };
        (!kernels && access.starts_with('r')).then_some(mapping)
    }
}

/// Whether this process may read the memory of processes that are not dumpable. In CI this process must be allowed to.
pub fn may_read_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    const CAP_SYS_PTRACE: u32 = 19;
    let may = u64::from_str_radix(capabilities.trim(), 16).expect("hexadecimal") >> CAP_SYS_PTRACE & 1 == 1;
    let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
    assert!(may || !ci, "CI must read other processes' memory: run it as root");
    if !may {
        eprintln!("skipped: only root can read another process's memory");
    }
    may
}
