//! How a process protects itself: hardening, the agent's sandbox, and the memory gate over both.
//!
//! These tests start this program again in a role. A role must begin before any thread is started, while libtest starts
//! a thread for each test, so this program has its own `main`.

#[cfg(target_os = "linux")]
mod hardening;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod memory_gate;
#[cfg(target_os = "linux")]
#[path = "../support/modules.rs"]
mod modules;
#[cfg(target_os = "linux")]
mod sandbox;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: hardening, the sandbox and /proc are Linux's");
}

#[cfg(target_os = "linux")]
fn main() {
    use libtest_mimic::{Arguments, run};

    if hardening::play_role() || sandbox::play_role() || memory_gate::play_role() {
        return;
    }
    let arguments = Arguments::from_args();
    let mut trials = hardening::trials();
    trials.extend(sandbox::trials());
    let parallel = run(&arguments, trials);
    // The memory gate runs one trial at a time, with nothing else running, because each trial loads the machine.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let serial = run(&arguments, memory_gate::trials());
    if parallel.has_failed() || serial.has_failed() {
        std::process::exit(101);
    }
}
