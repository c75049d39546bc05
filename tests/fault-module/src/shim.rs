//! The test's side: where the module is, what it is to do, what it was asked.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

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

    /// Has the module do this from its next call on, and nothing of what was ordered before.
    pub fn order(&self, orders: &[&str]) {
        for order in orders {
            order.parse::<crate::Order>().unwrap_or_else(|error| panic!("{error}"));
        }
        // Written aside and moved, so that no call reads half of it.
        let aside = with_suffix(&self.control, ".new");
        fs::write(&aside, orders.join("\n")).expect("the control file's folder can be written to");
        fs::rename(&aside, &self.control).expect("the control file can be replaced");
    }

    /// How often a function was called, from the start of all processes with these orders.
    pub fn calls(&self, function: &str) -> usize {
        self.trace().lines().filter(|line| line.split(' ').next() == Some(function)).count()
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
}

pub(crate) fn trace_of(control: &Path) -> PathBuf {
    with_suffix(control, ".trace")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
