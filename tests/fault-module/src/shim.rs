//! The test's side: where the module is, what it is to do, what it was asked.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{counts::Cell, function::Function, order::Order};

/// The module under a test's orders.
#[derive(Debug, Clone)]
pub struct Shim {
    control: PathBuf,
}

impl Shim {
    /// The orders in this file, which the module's process must have as `CLAVIGER_FAULT_CONTROL`.
    pub fn new(control: impl Into<PathBuf>) -> Self {
        Self { control: control.into() }
    }

    /// The module's file. Cargo builds it beside the tests of a package that depends on this one.
    pub fn module() -> PathBuf {
        let test = std::env::current_exe().expect("this program has a file");
        let folder = test.parent().expect("a file is in a folder");
        let module = format!("{}claviger_fault_module{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let found = [folder.join(&module), folder.join("deps").join(&module)].into_iter().find(|file| file.is_file());
        found.unwrap_or_else(|| panic!("{module} is not in {}", folder.display()))
    }

    /// Has the module do this from its next call on, and nothing of what was ordered before. The orders are in the
    /// table of the crate.
    pub fn order(&self, orders: &[&str]) {
        for order in orders {
            order.parse::<Order>().unwrap_or_else(|error| panic!("{error}"));
        }
        // So that what is ordered a second time counts its calls from 1 again.
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = format!("# {} {}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // Written aside and moved, so that no call reads half of it.
        let aside = with_suffix(&self.control, ".new");
        fs::write(&aside, [&[&*number], orders].concat().join("\n"))
            .expect("the control file's folder can be written to");
        fs::rename(&aside, &self.control).expect("the control file can be replaced");
    }

    /// How often a function was called, from the start of all processes with these orders. A call that hangs, or that
    /// crashed, is counted; it stands in no trace.
    pub fn calls(&self, function: &str) -> usize {
        let function = known(function);
        self.counts().map(|(_, counts)| Cell::Calls(function).read(&counts) as usize).sum()
    }

    /// How often one process called a function.
    pub fn calls_of(&self, process: u32, function: &str) -> usize {
        Cell::Calls(known(function)).read(&counts_of(&self.control, process)) as usize
    }

    /// How often any function was called, and how often a `fail` was obeyed.
    pub fn calls_and_failures(&self) -> (usize, usize) {
        let sum = |cell: fn(Function) -> Cell| {
            let each = |counts: PathBuf| Function::all().map(move |function| cell(function).read(&counts) as usize);
            self.counts().flat_map(|(_, counts)| each(counts)).sum()
        };
        (sum(Cell::Calls), sum(Cell::Failed))
    }

    /// The sessions that are open now in all processes that live.
    pub fn open_sessions(&self) -> usize {
        self.of_the_living(Cell::Sessions)
    }

    /// The session objects that are there now in all processes that live: made, not destroyed, and their session open.
    pub fn live_objects(&self) -> usize {
        self.of_the_living(Cell::Objects)
    }

    /// How often a function was called with this mechanism.
    pub fn calls_with(&self, function: &str, mechanism: u64) -> usize {
        let call = format!("{function} {mechanism:#x} ");
        self.trace().lines().filter(|line| line.starts_with(&call)).count()
    }

    /// Every call: function, mechanism or `-`, and the code that was returned; a line each.
    pub fn trace(&self) -> String {
        fs::read_to_string(trace_of(&self.control)).unwrap_or_default()
    }

    /// The most session objects that a process ever had at once.
    pub fn peak_objects(&self) -> usize {
        self.counts().map(|(_, counts)| Cell::Peak.read(&counts) as usize).max().unwrap_or_default()
    }

    /// The processes that called the module.
    pub fn processes(&self) -> Vec<u32> {
        self.counts().map(|(process, _)| process).collect()
    }

    /// Those that live. One that has ended lives no more, though nobody has waited for it yet.
    pub fn living(&self) -> Vec<u32> {
        self.processes().into_iter().filter(|process| lives(*process)).collect()
    }

    fn of_the_living(&self, cell: Cell) -> usize {
        let living = self.counts().filter(|(process, _)| lives(*process));
        living.map(|(_, counts)| cell.read(&counts) as usize).sum()
    }

    /// The processes that called the module, and their counters.
    fn counts(&self) -> impl Iterator<Item = (u32, PathBuf)> {
        let (folder, file) = (self.control.parent(), self.control.file_name());
        let prefix = format!("{}.counts.", file.expect("a file").to_string_lossy());
        let entries = fs::read_dir(folder.expect("a file is in a folder")).expect("the control file's folder");
        entries.filter_map(move |entry| {
            let path = entry.expect("the control file's folder").path();
            let process = path.file_name()?.to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((process, path))
        })
    }
}

fn lives(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("State:"))
        .is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
}

fn known(function: &str) -> Function {
    Function::find(function).unwrap_or_else(|| panic!("{function} is no function of PKCS#11"))
}

pub(crate) fn trace_of(control: &Path) -> PathBuf {
    with_suffix(control, ".trace")
}

pub(crate) fn counts_of(control: &Path, process: u32) -> PathBuf {
    with_suffix(control, &format!(".counts.{process}"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
