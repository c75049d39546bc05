//! Counters in a memory-mapped file. A test can read them while the module runs and after it has crashed, and counting
//! needs no system call. Each process has its own file, so that the sessions of a dead process are not counted.

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

/// A value that is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counter {
    /// Calls of a function.
    Calls(Function),
    /// Calls that returned the code of a `fail` order.
    Failed(Function),
    /// Open sessions.
    Sessions,
    /// Session objects that exist.
    Objects,
    /// The highest number of objects that existed at once.
    PeakObjects,
}

const COUNTERS: usize = 2 * Function::COUNT + 3;

impl Counter {
    fn index(self) -> usize {
        match self {
            Self::Calls(function) => function.number(),
            Self::Failed(function) => Function::COUNT + function.number(),
            Self::Sessions => 2 * Function::COUNT,
            Self::Objects => 2 * Function::COUNT + 1,
            Self::PeakObjects => 2 * Function::COUNT + 2,
        }
    }

    /// Adds one.
    pub(crate) fn increment(self) {
        counters()[self.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the value.
    pub(crate) fn set(self, number: usize) {
        counters()[self.index()].store(number as u64, Ordering::Relaxed);
    }

    /// Sets the value if it is higher than the present one.
    pub(crate) fn raise(self, number: usize) {
        counters()[self.index()].fetch_max(number as u64, Ordering::Relaxed);
    }

    /// Reads the value from a process's file.
    pub(crate) fn read(self, file: &Path) -> u64 {
        let bytes = fs::read(file).expect("a file of counters can be read");
        let at = 8 * self.index();
        // The file of a process that is just starting may be empty.
        bytes.get(at..at + 8).map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().expect("eight bytes")))
    }
}

fn counters() -> &'static [AtomicU64] {
    static COUNTERS: OnceLock<&'static [AtomicU64]> = OnceLock::new();
    COUNTERS.get_or_init(|| match control::file() {
        Some(control) => map(&shim::counters_path(control, std::process::id()))
            .unwrap_or_else(|error| control::abort_with(&format!("the counters: {error}"))),
        None => Box::leak(std::iter::repeat_with(AtomicU64::default).take(self::COUNTERS).collect()),
    })
}

fn map(path: &Path) -> std::io::Result<&'static [AtomicU64]> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let length = 8 * COUNTERS;
    file.set_len(length as u64)?;
    // SAFETY: a new mapping of a file of `length` bytes, at an address that the system chooses.
    let start = unsafe {
        let (access, any_address) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        libc::mmap(any_address, length, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `length` bytes, page-aligned and never unmapped. Other processes only read the file.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), COUNTERS) })
}
