//! Counters in a file that is mapped into memory: a test reads them while the module works and after it has crashed, and
//! counting costs no system call. Each process has a file of its own, so that what a dead one held is not counted.

use std::{
    fs::{self, OpenOptions},
    os::fd::AsRawFd,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{control, function::Function, shim};

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell {
    Calls(Function),
    /// Calls that were answered with an ordered code.
    Failed(Function),
    Sessions,
    Objects,
    /// The most objects that ever were there at once.
    Peak,
}

const CELLS: usize = 2 * Function::COUNT + 3;

impl Cell {
    fn index(self) -> usize {
        match self {
            Self::Calls(function) => function.number(),
            Self::Failed(function) => Function::COUNT + function.number(),
            Self::Sessions => 2 * Function::COUNT,
            Self::Objects => 2 * Function::COUNT + 1,
            Self::Peak => 2 * Function::COUNT + 2,
        }
    }

    /// One more.
    pub(crate) fn count(self) {
        cells()[self.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// So many now.
    pub(crate) fn set(self, number: usize) {
        cells()[self.index()].store(number as u64, Ordering::Relaxed);
    }

    /// Not less than this.
    pub(crate) fn raise(self, number: usize) {
        cells()[self.index()].fetch_max(number as u64, Ordering::Relaxed);
    }

    /// As it stands in a file.
    pub(crate) fn read(self, file: &Path) -> u64 {
        let bytes = fs::read(file).expect("a file of counters can be read");
        let at = 8 * self.index();
        // A process that makes its file just now has counted nothing.
        bytes.get(at..at + 8).map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().expect("eight bytes")))
    }
}

fn cells() -> &'static [AtomicU64] {
    static CELLS: OnceLock<&'static [AtomicU64]> = OnceLock::new();
    CELLS.get_or_init(|| match control::file() {
        Some(control) => map(&shim::counts_of(control, std::process::id()))
            .unwrap_or_else(|error| control::give_up(&format!("the counters: {error}"))),
        None => Box::leak(std::iter::repeat_with(AtomicU64::default).take(self::CELLS).collect()),
    })
}

fn map(path: &Path) -> std::io::Result<&'static [AtomicU64]> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let length = 8 * CELLS;
    file.set_len(length as u64)?;
    // SAFETY: a new mapping of a file that is `length` long, at a place that the system chooses.
    let start = unsafe {
        let (access, place) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        libc::mmap(place, length, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `length` bytes, aligned to a page and never unmapped; whoever else has the file only reads it.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), CELLS) })
}
