//! The agent's sandbox. It restricts the process that talks to the network for the rest of the process's life, even if
//! an attacker controls the process.
//!
//! - Landlock denies the file system except for the listed paths. So the process cannot read the PIN's source, PKCS#11
//!   modules or a software token's store, and cannot reach USB devices.
//! - seccomp denies system calls that reach beyond the process. So it cannot reach pcscd or other processes' memory,
//!   and cannot start programs.
//! - Capabilities are dropped, for a process that root started.
//!
//! Network sockets, threads, timers and everything that is already open still work. **New Unix sockets do not:**
//! connect, bind and listen before entering the sandbox. `accept` on a Unix socket that listens already works.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::finding::Finding;

/// A sandbox for this process: the paths that stay accessible. All other paths are denied.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is denied until `enforce` is called"]
pub struct Sandbox {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// The files that name resolution reads (nsswitch.conf(5), resolv.conf(5), gai.conf(5)). All of `/etc` would be too
/// much: a PIN may be there.
///
/// A rule applies to the file that exists when the sandbox is entered. After `/etc/resolv.conf` was replaced, the agent
/// must be restarted. systemd-resolved and NetworkManager replace their own files inside the listed folders, which
/// works.
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
    /// A sandbox that denies all paths.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows reading a file, or everything below a folder. An empty path is the working folder, as the parent of a bare
    /// file name is.
    pub fn allow_read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(Path::new(".").join(path.into()));
        self
    }

    /// Allows reading and writing a file, or everything below a folder. In a folder, files may also be created, renamed
    /// and deleted; devices and sockets may not be created.
    pub fn allow_write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(Path::new(".").join(path.into()));
        self
    }

    /// Allows reading those files of the system's name resolution that exist.
    pub fn allow_name_resolution(mut self) -> Self {
        self.read.extend(NAME_RESOLUTION.iter().filter(|path| Path::new(path).exists()).map(PathBuf::from));
        self
    }

    /// Enters the sandbox, which cannot be left, and reports which parts are in effect. An older kernel supports fewer.
    ///
    /// Call this before any thread is started, including those of an async runtime: up to ABI 8, Landlock restricts
    /// only the thread that calls it and the threads that this thread starts.
    ///
    /// # Errors
    /// [`SandboxError::Threads`] or [`SandboxError::Proc`] if there are other threads, or they cannot be counted; then
    /// nothing is changed. Another [`SandboxError`] if a path cannot be allowed or the kernel refuses a part; then the
    /// process may be restricted in part.
    pub fn enforce(self) -> Result<SandboxReport, SandboxError> {
        #[cfg(target_os = "linux")]
        return linux::enforce(&self);
        #[cfg(not(target_os = "linux"))]
        Ok(SandboxReport {
            landlock_abi: None,
            findings: [FILES, SCOPES, CALLS, CAPABILITIES].map(Finding::unsupported).to_vec(),
        })
    }
}

/// The names of the sandbox's parts in findings and errors.
const FILES: &str = "file system denied";
const SCOPES: &str = "abstract sockets and signals denied";
const CALLS: &str = "system calls denied";
const CAPABILITIES: &str = "no capabilities";

/// Which parts of the sandbox are in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SandboxReport {
    /// The enforced Landlock ABI, if any.
    pub landlock_abi: Option<u32>,
    /// All parts of the sandbox, each with whether it is in effect.
    pub findings: Vec<Finding>,
}

impl SandboxReport {
    /// Whether all parts are in effect.
    pub fn holds(&self) -> bool {
        self.findings.iter().all(|finding| finding.holds)
    }
}

/// Why the sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The process has other threads, which Landlock would not restrict.
    #[error(
        "the sandbox cannot be entered while {0} threads run, since it would restrict only one of them: enter it before starting threads"
    )]
    Threads(usize),
    /// The threads cannot be counted.
    #[error("the sandbox cannot count the threads of this process; check that /proc is mounted")]
    Proc(#[source] io::Error),
    /// An allowed path cannot be opened.
    #[error("the sandbox cannot allow the path {}: check that it exists and that this user may open it", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The kernel supports a part of the sandbox, but refused to apply it.
    #[error("the kernel refused a part of the sandbox ({part})")]
    Refused {
        /// The refused part.
        part: &'static str,
        /// The kernel's error.
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
        super::{finding::Finding, seccomp},
        CALLS, CAPABILITIES, FILES, SCOPES, Sandbox, SandboxError, SandboxReport,
    };

    /// The newest Landlock ABI that these rules were tested with. ABI 5 has all file system rights that are denied
    /// here. ABI 6 has all scopes.
    const TESTED: ABI = ABI::V7;

    const NEWER_KERNEL: &str = "run Linux 6.12 or newer with Landlock enabled (boot parameter `lsm=landlock,...`)";

    /// Enters the sandbox: see [`Sandbox::enforce`].
    pub(super) fn enforce(sandbox: &Sandbox) -> Result<SandboxReport, SandboxError> {
        let threads = fs::read_dir("/proc/self/task").map_err(SandboxError::Proc)?.count();
        if threads != 1 {
            return Err(SandboxError::Threads(threads));
        }
        // Built before anything is denied, so that an error leaves the process unchanged.
        let filters = seccomp::filters().map_err(|source| SandboxError::Refused { part: CALLS, source })?;
        let abi = restrict_files(sandbox)?;
        let capabilities = drop_capabilities();
        let calls = filters.map(seccomp::apply).transpose();
        let calls = calls.map_err(|source| SandboxError::Refused { part: CALLS, source })?;

        let needs_abi = |needed: u32| match abi {
            Some(abi) if abi >= needed => Ok(()),
            Some(abi) => Err(format!("the kernel has Landlock ABI {abi}; the whole sandbox needs ABI {needed}")),
            None => Err("Landlock is not built into the kernel, or is disabled".to_owned()),
        };
        let calls = calls.ok_or_else(|| format!("there is no system call filter for {}", std::env::consts::ARCH));
        let findings = vec![
            Finding::new(FILES, needs_abi(5), NEWER_KERNEL),
            Finding::new(SCOPES, needs_abi(6), NEWER_KERNEL),
            Finding::new(CALLS, calls, "run Claviger on x86_64, aarch64 or riscv64"),
            Finding::new(CAPABILITIES, capabilities, "run Claviger as a user of its own, not as root"),
        ];
        Ok(SandboxReport { landlock_abi: abi, findings })
    }

    /// Applies Landlock. Returns the enforced ABI.
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
        let is_folder = fs::metadata(path)?.is_dir();
        let access = if is_folder { access } else { access & AccessFs::from_file(TESTED) };
        Ok(PathBeneath::new(PathFd::new(path).map_err(Error::other)?, access))
    }

    /// The capabilities that are kept: to bind ports below 1024, and to lock memory, without which mmap would fail
    /// under MCL_FUTURE.
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
