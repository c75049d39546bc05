//! The test's side of the module: writes the orders, and reads the counters and the trace.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{counters::Counter, function::Function, order::Order};

/// A fault module that a test controls.
#[derive(Debug, Clone)]
pub struct Shim {
    control: PathBuf,
}

impl Shim {
    /// `control` is the control file. The environment of the module's process must name it in `CLAVIGER_FAULT_CONTROL`.
    pub fn new(control: impl Into<PathBuf>) -> Self {
        Self { control: control.into() }
    }

    /// The module's file. Cargo builds it next to the tests of a package that depends on this crate.
    pub fn module() -> PathBuf {
        let test = std::env::current_exe().expect("this program has a file");
        let folder = test.parent().expect("a file is in a folder");
        let module = format!("{}claviger_fault_module{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let found = [folder.join(&module), folder.join("deps").join(&module)].into_iter().find(|file| file.is_file());
        found.unwrap_or_else(|| panic!("{module} is not in {}", folder.display()))
    }

    /// Replaces all orders, from the module's next call on. The crate's documentation lists the orders.
    pub fn order(&self, orders: &[&str]) {
        for order in orders {
            order.parse::<Order>().unwrap_or_else(|error| panic!("{error}"));
        }
        // Makes the text unique, so that a repeated order counts its calls from 1 again.
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = format!("# {} {}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // Written to another file and renamed, so that no call reads a part of it.
        let temporary = with_suffix(&self.control, ".new");
        fs::write(&temporary, [&[&*number], orders].concat().join("\n"))
            .expect("the control file's folder can be written to");
        fs::rename(&temporary, &self.control).expect("the control file can be replaced");
    }

    /// The number of calls of a function, in all processes with this control file since they started. Calls that hang
    /// or crash are counted; the trace does not have them.
    pub fn calls(&self, function: &str) -> usize {
        let function = known(function);
        self.counter_files().map(|(_, counts)| Counter::Calls(function).read(&counts) as usize).sum()
    }

    /// The number of calls of a function in one process.
    pub fn calls_of(&self, process: u32, function: &str) -> usize {
        Counter::Calls(known(function)).read(&counters_path(&self.control, process)) as usize
    }

    /// The number of calls of all functions, and how many of them a `fail` order refused.
    pub fn calls_and_failures(&self) -> (usize, usize) {
        let sum = |counter: fn(Function) -> Counter| {
            let each = |counts: PathBuf| Function::all().map(move |function| counter(function).read(&counts) as usize);
            self.counter_files().flat_map(|(_, counts)| each(counts)).sum()
        };
        (sum(Counter::Calls), sum(Counter::Failed))
    }

    /// The number of open sessions in all running processes.
    pub fn open_sessions(&self) -> usize {
        self.sum_of_running(Counter::Sessions)
    }

    /// The number of session objects in all running processes.
    pub fn live_objects(&self) -> usize {
        self.sum_of_running(Counter::Objects)
    }

    /// The number of calls of a function with this mechanism.
    pub fn calls_with(&self, function: &str, mechanism: u64) -> usize {
        let call = format!("{function} {mechanism:#x} ");
        self.trace().lines().filter(|line| line.starts_with(&call)).count()
    }

    /// The calls, one a line: function, mechanism or `-`, and return value.
    pub fn trace(&self) -> String {
        fs::read_to_string(trace_path(&self.control)).unwrap_or_default()
    }

    /// The highest number of session objects that a process had at once.
    pub fn peak_objects(&self) -> usize {
        self.counter_files().map(|(_, counts)| Counter::PeakObjects.read(&counts) as usize).max().unwrap_or_default()
    }

    /// The processes that have called the module.
    pub fn processes(&self) -> Vec<u32> {
        self.counter_files().map(|(process, _)| process).collect()
    }

    /// The processes that have called the module and are still running. A zombie does not count.
    pub fn running_processes(&self) -> Vec<u32> {
        self.processes().into_iter().filter(|process| is_running(*process)).collect()
    }

    fn sum_of_running(&self, counter: Counter) -> usize {
        let running = self.counter_files().filter(|(process, _)| is_running(*process));
        running.map(|(_, counts)| counter.read(&counts) as usize).sum()
    }

    /// The processes that have called the module, and the files of their counters.
    fn counter_files(&self) -> impl Iterator<Item = (u32, PathBuf)> {
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

fn is_running(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("State:"))
        .is_some_and(|state| !state.trim().starts_with(['Z', 'X']))
}

fn known(function: &str) -> Function {
    Function::find(function).unwrap_or_else(|| panic!("{function} is not a PKCS#11 function"))
}

pub(crate) fn trace_path(control: &Path) -> PathBuf {
    with_suffix(control, ".trace")
}

pub(crate) fn counters_path(control: &Path, process: u32) -> PathBuf {
    with_suffix(control, &format!(".counts.{process}"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
