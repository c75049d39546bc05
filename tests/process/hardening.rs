//! Process hygiene, looked at before and after: this program starts itself again, since it is for life.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
    thread,
};

use claviger::process::{
    Finding,
    hygiene::{Hygiene, harden},
};
use libtest_mimic::{Failed, Trial};

const ROLE: &str = "CLAVIGER_TEST_HARDENING_ROLE";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("hardening::a_look_changes_nothing_and_tells_what_does_not_hold", look),
        Trial::test("hardening::what_is_hardened_holds", hardened),
        Trial::test("hardening::an_inherited_descriptor_is_found", inherited),
        Trial::test("hardening::a_hardened_process_works_on", works),
        Trial::test("hardening::a_hardened_process_leaves_no_core", core),
    ]
}

/// Does what this process was started for, if it was started for one of these tests.
pub fn play_role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    match role.as_str() {
        "look" => report(&Hygiene::look()),
        "harden" => report(&harden()),
        "use" => use_it(),
        "fall" => std::process::abort(),
        "harden and fall" => {
            harden();
            std::process::abort()
        }
        other => panic!("no such part: {other}"),
    }
    true
}

fn report(hygiene: &Hygiene) {
    println!("{}", serde_json::to_string(hygiene).expect("it is written as JSON"));
}

/// By a shell, which closes what it inherited itself, sets the limits and opens what is to be inherited.
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

fn look() -> Result<(), Failed> {
    let found = findings("look", "umask 022; ulimit -Sc 0")?;
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
    // Root, or a limit that is none: then it must. Else it must not, and says how much it could have locked.
    let memory = &found["memory locked"];
    if memory["holds"] != true {
        assert!(memory["why"].as_str().is_some_and(|why| why.contains("KiB")), "{memory}");
        let status = fs::read_to_string("/proc/self/status")?;
        let capable = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
        let capable = u64::from_str_radix(capable.trim(), 16)?;
        const CAP_IPC_LOCK: u32 = 14;
        assert_eq!(capable >> CAP_IPC_LOCK & 1, 0, "this user may lock memory: {memory}");
    }
    Ok(())
}

fn inherited() -> Result<(), Failed> {
    let found = findings("look", "exec 9</dev/null")?;
    assert_eq!(found["close-on-exec"]["holds"], false);
    assert!(found["close-on-exec"]["why"].as_str().is_some_and(|why| why.ends_with(" 9")), "{found}");
    assert_eq!(findings("look", ":")?["close-on-exec"]["holds"], true);
    Ok(())
}

fn works() -> Result<(), Failed> {
    // Root raises the limit; whoever is not, and has a small one, must not be locked under it.
    let output = start("use", "ulimit -l 64");
    let err = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {err}", output.status).into()) }
}

/// Threads and memory, far more than the limit, and still locked.
fn use_it() {
    let locked = |hygiene: &Hygiene| -> Option<Finding> {
        hygiene.0.iter().find(|finding| finding.name == "memory locked").cloned()
    };
    let before = locked(&harden()).expect("it is among them");
    let threads: Vec<_> = (0..16).map(|byte| thread::spawn(move || vec![byte; 4 << 20])).collect();
    let filled: Vec<Vec<u8>> = threads.into_iter().map(|thread| thread.join().expect("a thread ends")).collect();
    assert_eq!(filled.iter().map(Vec::len).sum::<usize>(), 64 << 20);
    let after = locked(&Hygiene::look()).expect("it is among them");
    assert_eq!(after.holds, before.holds, "{after:?}");
}

fn core() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let fall = |role| start(role, &format!("cd '{}'; ulimit -c unlimited 2>/dev/null", folder.path().display()));
    // The kernel says whether a core was written, to a file or into a pipe. A machine that writes none at all shows
    // nothing here.
    if !fall("fall").status.core_dumped() {
        eprintln!("not shown: no process leaves a core on this machine");
    }
    let fallen = fall("harden and fall").status;
    assert_eq!(fallen.signal(), Some(libc::SIGABRT), "{fallen}");
    assert!(!fallen.core_dumped());
    Ok(())
}
