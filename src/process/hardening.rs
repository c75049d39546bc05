//! Hardening of a process that holds a secret: no other process reads its memory, and none of its memory reaches a
//! disk.
//!
//! Call [`harden`] at the start of the process, before any thread is started, since threads inherit `no_new_privs` from
//! the thread that starts them. Some measures end with `execve` and with a change of user (prctl(2), PR_SET_DUMPABLE).
//! So each program must call [`harden`] itself, after it has changed to the user it runs as.

use serde::Serialize;

use super::finding::Finding;

/// Every measure, and whether it is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HardeningReport(pub Vec<Finding>);

impl HardeningReport {
    /// Checks the measures of this process without changing anything. A process in the [sandbox](super::sandbox) cannot
    /// read `/proc`, so check before entering it.
    pub fn inspect() -> Self {
        report(|measure| (measure.check)())
    }

    /// Whether all measures are in effect.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|finding| finding.holds)
    }
}

/// Applies every measure that this machine allows, and reports which are in effect.
pub fn harden() -> HardeningReport {
    report(|measure| {
        let applied = (measure.apply)();
        // A measure may be in effect although it could not be applied, for instance by the operator's configuration. If
        // a measure is not in effect, the error of applying it explains more than the error of the check.
        (measure.check)().map_err(|error| applied.err().unwrap_or(error))
    })
}

/// A measure: how it is applied and checked, and what a person can do if it is not in effect.
struct Measure {
    name: &'static str,
    apply: fn() -> Result<(), String>,
    check: fn() -> Result<(), String>,
    remedy: &'static str,
}

#[cfg(target_os = "linux")]
fn report(result: impl Fn(&Measure) -> Result<(), String>) -> HardeningReport {
    HardeningReport(
        linux::MEASURES.iter().map(|measure| Finding::new(measure.name, result(measure), measure.remedy)).collect(),
    )
}

#[cfg(not(target_os = "linux"))]
fn report(_: impl Fn(&Measure) -> Result<(), String>) -> HardeningReport {
    let names = ["not dumpable", "no core dump", "memory locked", "no new privileges", "umask 077", "close-on-exec"];
    HardeningReport(names.map(Finding::unsupported).to_vec())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;

    use rustix::{
        fs::Mode,
        mm::{MlockAllFlags, mlockall},
        process::{
            DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit, umask,
        },
        thread::{CapabilitySet, capabilities, no_new_privs, set_no_new_privs},
    };

    use super::Measure;

    /// All measures, in the order in which they are applied.
    pub(super) const MEASURES: &[Measure] = &[
        Measure {
            name: "not dumpable",
            apply: || set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(text),
            check: not_dumpable,
            remedy: "start the process with `claviger`, which applies this measure; in a container, allow prctl in the seccomp profile",
        },
        Measure {
            name: "no core dump",
            apply: || setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(text),
            check: no_core_dump,
            remedy: "set LimitCORE=0 in the systemd unit, or run `ulimit -Hc 0` in the shell that starts the process",
        },
        Measure {
            name: "memory locked",
            apply: lock_memory,
            check: memory_locked,
            remedy: "set LimitMEMLOCK=infinity in the systemd unit, or `--ulimit memlock=-1` for a container; or encrypt the swap",
        },
        Measure {
            name: "no new privileges",
            apply: || set_no_new_privs(true).map_err(text),
            check: no_new_privileges,
            remedy: "set NoNewPrivileges=yes in the systemd unit",
        },
        Measure {
            name: "umask 077",
            apply: || {
                umask(Mode::RWXG | Mode::RWXO);
                Ok(())
            },
            check: private_umask,
            remedy: "set UMask=0077 in the systemd unit",
        },
        // Rust's standard library sets the flag on every file it opens (std::fs::OpenOptions), so there is nothing to
        // apply. Inherited descriptors may lack it.
        Measure {
            name: "close-on-exec",
            apply: || Ok(()),
            check: close_on_exec,
            remedy: "close these descriptors in the program that starts this process, which inherits them",
        },
    ];

    fn text(error: impl ToString) -> String {
        error.to_string()
    }

    /// Checks that the process is not dumpable. Only root can then read its memory or attach to it; its own user
    /// cannot. Such a process writes no core dump, not even into a pipe (core(5)).
    fn not_dumpable() -> Result<(), String> {
        match dumpable_behavior() {
            Ok(DumpableBehavior::NotDumpable) => Ok(()),
            Ok(_) => Err("other programs of the same user can read the memory of the process".to_owned()),
            Err(error) => Err(text(error)),
        }
    }

    /// Checks that the limit for core dumps is 0 and cannot be raised.
    ///
    /// RLIMIT_CORE is not sufficient: the kernel ignores it if `core_pattern` is a pipe (core(5), "Piping core dumps to
    /// a program"), as it is for systemd-coredump and apport. A process that is not dumpable writes no core dump in
    /// either case. The limit protects the process before it is made not dumpable, and programs that a vendor's module
    /// may start.
    fn no_core_dump() -> Result<(), String> {
        match getrlimit(Resource::Core) {
            Rlimit { current: Some(0), maximum: Some(0) } => Ok(()),
            Rlimit { current: Some(0), .. } => Err("the limit for core dumps is 0, but can be raised again".to_owned()),
            _ => Err("the limit for core dumps is not 0".to_owned()),
        }
    }

    /// Locks present and future memory; each page is locked when it is first used.
    ///
    /// Memory is not locked under a finite limit: with MCL_FUTURE a later mmap that exceeds the limit fails
    /// (mlockall(2)), and the program would fail in the middle of a message. The limit counts address space, not used
    /// pages: the stack of one thread alone takes 2 MiB of it.
    fn lock_memory() -> Result<(), String> {
        let limit = getrlimit(Resource::Memlock);
        let unlimited = Rlimit { current: None, maximum: None };
        if setrlimit(Resource::Memlock, unlimited).is_err() {
            setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum }).map_err(text)?;
        }
        let is_privileged = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
        if let (Some(bytes), false) = (getrlimit(Resource::Memlock).current, is_privileged) {
            return Err(format!(
                "the process may lock only {} KiB of memory, and would fail when it needs more",
                bytes / 1024
            ));
        }
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        mlockall(flags).map_err(|error| format!("mlockall: {error}"))
    }

    /// Checks that every private writable mapping has the flag `lo` (proc_pid_smaps(5)). The memory of a device cannot
    /// have it.
    fn memory_locked() -> Result<(), String> {
        let smaps = fs::read_to_string("/proc/self/smaps").map_err(|error| format!("/proc/self/smaps: {error}"))?;
        let (mut is_writable, mut unlocked) = (false, 0);
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("VmFlags:") => {
                    let flags: Vec<&str> = words.collect();
                    let is_memory = !flags.iter().any(|flag| ["io", "pf", "ht"].contains(flag));
                    unlocked += usize::from(is_writable && is_memory && !flags.contains(&"lo"));
                }
                // The first line of a mapping begins with its range of addresses, the others with `Name:`.
                Some(first) if !first.ends_with(':') => {
                    is_writable = words.next().is_some_and(|access| access.contains('w') && access.ends_with('p'));
                }
                _ => {}
            }
        }
        match unlocked {
            0 => Ok(()),
            _ => Err(format!("{unlocked} memory mappings of the process may be written to the swap")),
        }
    }

    fn no_new_privileges() -> Result<(), String> {
        match no_new_privs() {
            Ok(true) => Ok(()),
            Ok(false) => Err("a program that the process starts could gain privileges through set-user-ID".to_owned()),
            Err(error) => Err(text(error)),
        }
    }

    fn private_umask() -> Result<(), String> {
        let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("Umask:"))
            .ok_or("the kernel does not report the umask")?;
        let mask = u32::from_str_radix(mask.trim(), 8).map_err(text)?;
        if mask & 0o077 == 0o077 {
            return Ok(());
        }
        Err(format!("the umask is {mask:03o}: other users may open the files that this process creates"))
    }

    /// Checks all descriptors but standard input, output and error.
    fn close_on_exec() -> Result<(), String> {
        let mut inherited = Vec::new();
        for entry in fs::read_dir("/proc/self/fd").map_err(|error| format!("/proc/self/fd: {error}"))? {
            let Some(number) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) else {
                continue;
            };
            // A descriptor that was closed meanwhile has no such file.
            let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else { continue };
            let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
            let closes = flags.is_some_and(|flags| flags & libc::O_CLOEXEC.cast_unsigned() != 0);
            if number > 2 && !closes {
                inherited.push(number.to_string());
            }
        }
        if inherited.is_empty() {
            return Ok(());
        }
        Err(format!("a program that the process starts would inherit the descriptors {}", inherited.join(", ")))
    }
}
