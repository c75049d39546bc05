//! The agent's sandbox: what a process that talks to the network can never do again, whoever has taken it over.
//!
//! Landlock denies the file system but for what is listed: so the PIN's source, the modules, the token store and USB.
//! seccomp denies the system calls that lead out of the process: so pcscd, other processes' memory, and new programs.
//! Capabilities go, for a process that root has started.
//!
//! Network sockets, threads, timers and everything that is already open go on working. **What is asked from then on
//! through a Unix socket is not**: connect, bind and listen before; `accept` on such a socket works.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::Finding;

/// What is let through. Everything else is denied.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is denied before `enforce`"]
pub struct Sandbox {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// What name resolution reads (nsswitch.conf(5), resolv.conf(5), gai.conf(5)). Not all of `/etc`: a PIN may be there.
/// Who resolves names with glibc and replaces `/etc/resolv.conf` starts the agent anew: a rule is for the file that was
/// there. The folders are where systemd-resolved and NetworkManager replace theirs.
const NAME_RESOLUTION: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/run/systemd/resolve",
    "/run/NetworkManager",
];

impl Sandbox {
    /// Lets nothing through yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a file, or all below a folder, be read.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets a file, or all below a folder, be read and written; in a folder files are made, renamed and deleted. No
    /// device and no socket is made there.
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Lets be read what the system's name resolution needs, as far as it is there.
    pub fn name_resolution(mut self) -> Self {
        self.read.extend(NAME_RESOLUTION.iter().filter(|path| Path::new(path).exists()).map(PathBuf::from));
        self
    }

    /// Closes the door for good, and says what holds: an older kernel holds less of it.
    ///
    /// It is called before any thread is started, an async runtime's included: Landlock binds the thread that calls it
    /// and those it starts, until ABI 8. With others there already it is an error, and nothing is changed.
    pub fn enforce(self) -> Result<SandboxReport, SandboxError> {
        #[cfg(target_os = "linux")]
        return linux::enforce(&self);
        #[cfg(not(target_os = "linux"))]
        Ok(SandboxReport {
            landlock_abi: None,
            findings: [FILES, SCOPES, CALLS, CAPABILITIES].map(Finding::elsewhere).to_vec(),
        })
    }
}

const FILES: &str = "file system denied";
const SCOPES: &str = "abstract sockets and signals denied";
const CALLS: &str = "system calls denied";
const CAPABILITIES: &str = "no capabilities";

/// What holds of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SandboxReport {
    /// The Landlock ABI that is enforced, if any.
    pub landlock_abi: Option<u32>,
    /// Each part.
    pub findings: Vec<Finding>,
}

impl SandboxReport {
    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        self.findings.iter().all(|finding| finding.holds)
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The caller has started threads, which Landlock would leave out.
    #[error("the sandbox is entered with {0} threads running, and would hold one: enter it before any is started")]
    Threads(usize),
    /// The number of threads cannot be seen.
    #[error("the sandbox cannot count the threads of this process: is /proc mounted?")]
    Proc(#[source] io::Error),
    /// A path of the configuration cannot be let through.
    #[error("the sandbox cannot let {} through: check that it exists, and that this user may open it", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel has Landlock or seccomp, and refused.
    #[error("the kernel refused the sandbox ({part})")]
    Refused {
        /// The part that it refused.
        part: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs, io::Error, path::Path};

    use landlock::{
        ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
        Scope, make_bitflags,
    };
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities};

    use super::{
        super::{Finding, calls},
        CALLS, CAPABILITIES, FILES, SCOPES, Sandbox, SandboxError, SandboxReport,
    };

    /// The newest ABI that these rules were tested with: the file system's rights are those of ABI 5, the scopes those of
    /// ABI 6.
    const TESTED: ABI = ABI::V7;

    const NEWER_KERNEL: &str = "run Linux 6.12 or newer, with Landlock among its security modules (`lsm=landlock,...`)";

    pub(super) fn enforce(sandbox: &Sandbox) -> Result<SandboxReport, SandboxError> {
        let threads = fs::read_dir("/proc/self/task").map_err(SandboxError::Proc)?.count();
        if threads != 1 {
            return Err(SandboxError::Threads(threads));
        }
        // Made before anything is denied, so that a refusal leaves the process as it was.
        let filters = calls::filters().map_err(|source| SandboxError::Refused { part: CALLS, source })?;
        let abi = restrict_files(sandbox)?;
        let capabilities = drop_capabilities();
        let calls = filters.map(calls::apply).transpose();
        let calls = calls.map_err(|source| SandboxError::Refused { part: CALLS, source })?;

        let since = |needed: u32| match abi {
            Some(abi) if abi >= needed => Ok(()),
            Some(abi) => Err(format!("Landlock's ABI is {abi} here, and {needed} holds all of it")),
            None => Err("the kernel has no Landlock, or it is switched off".to_owned()),
        };
        let calls = calls.ok_or_else(|| format!("there is no filter for {}", std::env::consts::ARCH));
        let findings = vec![
            Finding::new(FILES, since(5), NEWER_KERNEL),
            Finding::new(SCOPES, since(6), NEWER_KERNEL),
            Finding::new(CALLS, calls, "run it on x86_64, aarch64 or riscv64"),
            Finding::new(CAPABILITIES, capabilities, "start it as a user of its own"),
        ];
        Ok(SandboxReport { landlock_abi: abi, findings })
    }

    /// The ABI that is enforced.
    fn restrict_files(sandbox: &Sandbox) -> Result<Option<u32>, SandboxError> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let write = read
            | make_bitflags!(AccessFs::{
                WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer
            });
        let refused = |source| SandboxError::Refused { part: FILES, source };
        let rules = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Ruleset::default()
                .handle_access(AccessFs::from_all(TESTED))?
                .scope(Scope::from_all(TESTED))?
                .create()?)
        };
        let mut rules = rules().map_err(refused)?;
        for (paths, access) in [(&sandbox.read, read), (&sandbox.write, write)] {
            for path in paths {
                let rule = rule(path, access).map_err(|source| SandboxError::Path { path: path.clone(), source })?;
                rules = rules.add_rule(rule).map_err(|error| refused(error.into()))?;
            }
        }
        let status = rules.restrict_self().map_err(|error| refused(error.into()))?;
        Ok(match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => Some(effective_abi.min(TESTED) as u32),
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
        })
    }

    fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, Error> {
        let folder = fs::metadata(path)?.is_dir();
        let access = if folder { access } else { access & AccessFs::from_file(TESTED) };
        Ok(PathBeneath::new(PathFd::new(path).map_err(Error::other)?, access))
    }

    /// Ports below 1024 may be bound, and memory locked: under MCL_FUTURE an mmap would fail without the latter.
    const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::IPC_LOCK);

    fn drop_capabilities() -> Result<(), String> {
        let drop = || {
            clear_ambient_capability_set()?;
            let kept = capabilities(None)?.permitted & KEPT;
            set_capabilities(
                None,
                CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
            )
        };
        drop().map_err(|error: rustix::io::Errno| error.to_string())
    }
}
