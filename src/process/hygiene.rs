//! What every process that holds a secret does first: no one reads its memory, and none of it reaches a disk.
//!
//! [`harden`] is called at the start of the process, before any thread: `no_new_privs` belongs to a thread and is
//! inherited. It survives no `execve` and no change of user (prctl(2), PR_SET_DUMPABLE), so each program calls it itself,
//! after it has become the user it runs as.

use serde::Serialize;

use super::Finding;

/// Each measure, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Hygiene(pub Vec<Finding>);

impl Hygiene {
    /// How it stands with this process, without changing anything. A process in the [sandbox](super::sandbox) does not
    /// see `/proc`: it looks before it enters.
    pub fn look() -> Self {
        measures(|measure| (measure.look)())
    }

    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|finding| finding.holds)
    }
}

/// Takes every measure that this machine allows, and says which hold.
pub fn harden() -> Hygiene {
    measures(|measure| {
        let taken = (measure.take)();
        // What holds, holds, whoever saw to it; else the reason why it could not be taken says most.
        (measure.look)().map_err(|seen| taken.err().unwrap_or(seen))
    })
}

/// A measure: how it is taken, how it is seen, and what a person can do if it does not hold.
struct Measure {
    name: &'static str,
    take: fn() -> Result<(), String>,
    look: fn() -> Result<(), String>,
    remedy: &'static str,
}

#[cfg(target_os = "linux")]
fn measures(result: impl Fn(&Measure) -> Result<(), String>) -> Hygiene {
    Hygiene(linux::MEASURES.iter().map(|measure| Finding::new(measure.name, result(measure), measure.remedy)).collect())
}

#[cfg(not(target_os = "linux"))]
fn measures(_: impl Fn(&Measure) -> Result<(), String>) -> Hygiene {
    let names = ["not dumpable", "no core dump", "memory locked", "no new privileges", "umask 077", "close-on-exec"];
    Hygiene(names.map(Finding::elsewhere).to_vec())
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

    pub(super) const MEASURES: &[Measure] = &[
        Measure {
            name: "not dumpable",
            take: || set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(said),
            look: not_dumpable,
            remedy: "start it through `claviger`, which sees to it; a container's seccomp profile must allow prctl",
        },
        Measure {
            name: "no core dump",
            take: || setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(said),
            look: no_core,
            remedy: "LimitCORE=0 in the systemd unit, or `ulimit -Hc 0` in the shell that starts it",
        },
        Measure {
            name: "memory locked",
            take: lock_memory,
            look: memory_locked,
            remedy: "LimitMEMLOCK=infinity in the systemd unit, `--ulimit memlock=-1` for a container; or encrypt the swap",
        },
        Measure {
            name: "no new privileges",
            take: || set_no_new_privs(true).map_err(said),
            look: no_privileges,
            remedy: "NoNewPrivileges=yes in the systemd unit",
        },
        Measure {
            name: "umask 077",
            take: || {
                umask(Mode::RWXG | Mode::RWXO);
                Ok(())
            },
            look: private_umask,
            remedy: "UMask=0077 in the systemd unit",
        },
        // Rust's standard library sets it on all that it opens (std::fs::OpenOptions), so there is nothing to take.
        Measure {
            name: "close-on-exec",
            take: || Ok(()),
            look: close_on_exec,
            remedy: "close these descriptors in whatever starts this program: they were inherited from it",
        },
    ];

    fn said(error: impl ToString) -> String {
        error.to_string()
    }

    /// No user but root, the process's own included, opens its memory or attaches to it; and there is no core dump, into
    /// a pipe neither (core(5)).
    fn not_dumpable() -> Result<(), String> {
        match dumpable_behavior() {
            Ok(DumpableBehavior::NotDumpable) => Ok(()),
            Ok(_) => Err("its user's other programs can read its memory".to_owned()),
            Err(error) => Err(said(error)),
        }
    }

    /// RLIMIT_CORE alone would not do: where `core_pattern` is a pipe the kernel does not look at it (core(5), "Piping
    /// core dumps to a program"), and systemd-coredump and apport are pipes. A process that is not dumpable writes none
    /// either way; the limit is for the time before, and for the programs that a vendor's module may start.
    fn no_core() -> Result<(), String> {
        match getrlimit(Resource::Core) {
            Rlimit { current: Some(0), maximum: Some(0) } => Ok(()),
            Rlimit { current: Some(0), .. } => Err("its limit for core dumps is 0, and may be raised again".to_owned()),
            _ => Err("its limit for core dumps is not 0".to_owned()),
        }
    }

    /// Locks what is there and what will be, each page when it is first used.
    ///
    /// Never under a finite limit: with MCL_FUTURE a later mmap that passes it fails (mlockall(2)), and so would the
    /// program, in the middle of a message. The limit counts address space, not pages: a thread's stack alone is 2 MiB of
    /// it.
    fn lock_memory() -> Result<(), String> {
        let limit = getrlimit(Resource::Memlock);
        let unlimited = Rlimit { current: None, maximum: None };
        if setrlimit(Resource::Memlock, unlimited).is_err() {
            setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum }).map_err(said)?;
        }
        let privileged = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
        if let (Some(bytes), false) = (getrlimit(Resource::Memlock).current, privileged) {
            return Err(format!("it may lock {} KiB, and would fail when it needs more", bytes / 1024));
        }
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        mlockall(flags).map_err(|error| format!("mlockall: {error}"))
    }

    /// Every private writable mapping has the flag `lo` (proc_pid_smaps(5)). A device's memory cannot have it.
    fn memory_locked() -> Result<(), String> {
        let smaps = fs::read_to_string("/proc/self/smaps").map_err(|error| format!("/proc/self/smaps: {error}"))?;
        let (mut writable, mut loose) = (false, 0);
        for line in smaps.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("VmFlags:") => {
                    let flags: Vec<&str> = words.collect();
                    let memory = !flags.iter().any(|flag| ["io", "pf", "ht"].contains(flag));
                    loose += usize::from(writable && memory && !flags.contains(&"lo"));
                }
                // The first line of a mapping is its range of addresses; the others are `Name:`.
                Some(first) if !first.ends_with(':') => {
                    writable = words.next().is_some_and(|access| access.contains('w') && access.ends_with('p'));
                }
                _ => {}
            }
        }
        match loose {
            0 => Ok(()),
            _ => Err(format!("{loose} of its mappings may be written to the swap")),
        }
    }

    fn no_privileges() -> Result<(), String> {
        match no_new_privs() {
            Ok(true) => Ok(()),
            Ok(false) => Err("a program that it starts could gain privileges by set-user-ID".to_owned()),
            Err(error) => Err(said(error)),
        }
    }

    fn private_umask() -> Result<(), String> {
        let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:")).ok_or("the kernel does not tell it")?;
        let mask = u32::from_str_radix(mask.trim(), 8).map_err(said)?;
        if mask & 0o077 == 0o077 {
            return Ok(());
        }
        Err(format!("it is {mask:03o}: others may open the files that this process makes"))
    }

    /// All but standard input, output and error.
    fn close_on_exec() -> Result<(), String> {
        let mut inherited = Vec::new();
        for entry in fs::read_dir("/proc/self/fd").map_err(|error| format!("/proc/self/fd: {error}"))? {
            let Some(number) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) else {
                continue;
            };
            // One that is closed meanwhile has no such file.
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
        Err(format!("a program that it starts would have its descriptors {}", inherited.join(", ")))
    }
}
