//! A child process that serves one end of a pair of sockets.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, getpid, kill_process};

/// How long a keeper may run after its connection has ended, so that a running operation can finish. Killing a keeper
/// while it works may crash SoftHSM 2.6.1, which does no harm.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a child process, such as a keeper, with one end of a pair of sockets as its standard input. Returns the other
/// end of the pair, and the process.
///
/// # Errors
/// Those of starting a process.
pub fn spawn_on_socket(mut command: Command) -> io::Result<(UnixStream, ChildProcess)> {
    let (parent_end, child_end) = UnixStream::pair()?;
    let child = command.stdin(Stdio::from(OwnedFd::from(child_end))).spawn()?;
    Ok((parent_end, ChildProcess { child, exit_timeout: EXIT_TIMEOUT }))
}

/// Ends a keeper whose token fails. Nothing else sends this signal, and nothing handles it.
const FAILING: Signal = Signal::USR2;

/// Ends this process at once, as a keeper whose token fails. The module's clean-up does not run, since threads may be
/// inside the module. The parent recognises such an end ([`is_failing`]).
pub fn end_as_failing() {
    let _ = kill_process(getpid(), FAILING);
}

/// Whether a keeper has ended with [`end_as_failing`].
pub fn is_failing(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(FAILING.as_raw())
}

/// A child process that ends when its connection ends. Dropping this waits until the process has ended, and kills it
/// after a timeout of some seconds.
pub struct ChildProcess {
    child: Child,
    pub(super) exit_timeout: Duration,
}

impl ChildProcess {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether the process has ended because its token failed; see [`end_as_failing`].
    pub(super) fn has_ended_as_failing(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if is_failing(status))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let until = Instant::now() + self.exit_timeout;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        tracing::warn!(pid = self.id(), "child process does not end; killing it");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
