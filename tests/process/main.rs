//! What a process does to itself: hardening and the agent's sandbox, and the memory gate over both.
//!
//! These tests start this program again in a role. A role begins before any thread is started, and libtest starts one for
//! each test: so this program has a main of its own.

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
    let side_by_side = run(&arguments, trials);
    // One after another, and alone: each loads the machine.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    let alone = run(&arguments, memory_gate::trials());
    if side_by_side.has_failed() || alone.has_failed() {
        std::process::exit(101);
    }
}
