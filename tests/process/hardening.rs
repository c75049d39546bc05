//! Process hardening, checked before and after. This program starts itself again, since hardening cannot be undone.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
    thread,
};

use claviger::process::{
    Finding,
    hardening::{HardeningReport, harden},
};
use libtest_mimic::{Failed, Trial};

const ROLE: &str = "CLAVIGER_TEST_HARDENING_ROLE";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("hardening::an_inspection_reports_what_is_missing", inspect),
        Trial::test("hardening::hardening_takes_effect", hardened),
        Trial::test("hardening::an_inherited_descriptor_is_found", inherited),
        Trial::test("hardening::a_hardened_process_still_works", works),
        Trial::test("hardening::a_hardened_process_writes_no_core_dump", core),
    ]
}

/// Plays the role in which one of these tests started this process. Returns false if the process has no role.
pub fn play_role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    match role.as_str() {
        "inspect" => report(&HardeningReport::inspect()),
        "harden" => report(&harden()),
        "work" => work(),
        "abort" => std::process::abort(),
        "harden and abort" => {
            harden();
            std::process::abort()
        }
        other => panic!("no such role: {other}"),
    }
    true
}

fn report(report: &HardeningReport) {
    println!("{}", serde_json::to_string(report).expect("a report is JSON"));
}

/// Starts this program in a role, through a shell that closes inherited descriptors and runs `before`, which sets
/// limits and opens the descriptors to be inherited.
fn start(role: &str, before: &str) -> Output {
    let program = std::env::current_exe().expect("this program");
    let close = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; ((fd < 3)) || eval \"exec $fd>&-\"; done";
    let script = format!("{close}; {before}; exec \"$0\"");
    let output = Command::new("bash").args(["-c", &script]).arg(program).env(ROLE, role).output();
    output.expect("this program starts again")
}

fn findings(role: &str, before: &str) -> Result<serde_json::Value, Failed> {
    let output = start(role, before);
    if !output.status.success() {
        return Err(format!("{role}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let found = found.as_array().expect("a list").clone();
    Ok(found.into_iter().map(|finding| (finding["name"].as_str().expect("a name").to_owned(), finding)).collect())
}

fn inspect() -> Result<(), Failed> {
    let found = findings("inspect", "umask 022; ulimit -Sc 0")?;
    for name in ["not dumpable", "no core dump", "memory locked", "no new privileges", "umask 077"] {
        let finding = &found[name];
        assert_eq!(finding["holds"], false, "{finding}");
        assert!(finding["why"].as_str().is_some_and(|why| !why.is_empty()), "{finding}");
        assert!(finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{finding}");
    }
    Ok(())
}

fn hardened() -> Result<(), Failed> {
    let found = findings("harden", "umask 022")?;
    for name in ["not dumpable", "no core dump", "no new privileges", "umask 077", "close-on-exec"] {
        assert_eq!(found[name], serde_json::json!({"name": name, "holds": true}));
    }
    // Memory is locked for root and without a limit. Otherwise it is not, and the report says how much may be locked.
    let memory = &found["memory locked"];
    if memory["holds"] != true {
        assert!(memory["why"].as_str().is_some_and(|why| why.contains("KiB")), "{memory}");
        let status = fs::read_to_string("/proc/self/status")?;
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
        let capabilities = u64::from_str_radix(capabilities.trim(), 16)?;
        const CAP_IPC_LOCK: u32 = 14;
        assert_eq!(capabilities >> CAP_IPC_LOCK & 1, 0, "this user may lock memory: {memory}");
    }
    Ok(())
}

fn inherited() -> Result<(), Failed> {
    let found = findings("inspect", "exec 9</dev/null")?;
    assert_eq!(found["close-on-exec"]["holds"], false);
    assert!(found["close-on-exec"]["why"].as_str().is_some_and(|why| why.ends_with(" 9")), "{found}");
    assert_eq!(findings("inspect", ":")?["close-on-exec"]["holds"], true);
    Ok(())
}

fn works() -> Result<(), Failed> {
    // Root raises the limit. For another user with a small limit, memory must not be locked.
    let output = start("work", "ulimit -l 64");
    let err = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {err}", output.status).into()) }
}

/// Starts threads and uses far more memory than the limit. Memory that was locked before is still locked.
fn work() {
    let locked = |report: &HardeningReport| -> Option<Finding> {
        report.0.iter().find(|finding| finding.name == "memory locked").cloned()
    };
    let before = locked(&harden()).expect("the report has the finding");
    let threads: Vec<_> = (0..16).map(|byte| thread::spawn(move || vec![byte; 4 << 20])).collect();
    let filled: Vec<Vec<u8>> = threads.into_iter().map(|thread| thread.join().expect("a thread ends")).collect();
    assert_eq!(filled.iter().map(Vec::len).sum::<usize>(), 64 << 20);
    let after = locked(&HardeningReport::inspect()).expect("the report has the finding");
    assert_eq!(after.holds, before.holds, "{after:?}");
}

fn core() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let run = |role| start(role, &format!("cd '{}'; ulimit -c unlimited 2>/dev/null", folder.path().display()));
    // The kernel reports whether a core dump was written, to a file or into a pipe. On a machine that writes none at
    // all, this test shows nothing.
    if !run("abort").status.core_dumped() {
        eprintln!("not tested: no process writes a core dump on this machine");
    }
    let status = run("harden and abort").status;
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    assert!(!status.core_dumped());
    Ok(())
}
