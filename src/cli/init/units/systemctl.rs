//! The machine's systemd.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::cli::{failure::Failure, shell::quoted};

/// Units that this command has enabled and started. Dropping this stops and disables them, unless [`keep`](Self::keep) is
/// called. A unit that was enabled before is left as it is: other keepers may need it.
#[derive(Default)]
pub struct StartedUnits(Vec<String>);

impl StartedUnits {
    /// Enables the unit, and starts it. Waits until the unit says that it is ready, if it does.
    pub fn start(&mut self, unit: &str) -> Result<&mut Self, Failure> {
        if !is("is-enabled", unit) {
            self.0.push(unit.to_owned());
        }
        run("systemctl", &["enable", "--now", "--quiet", unit])
            .map_err(|failure| failure.hint(format!("`journalctl -u {unit}` says why")))?;
        Ok(self)
    }

    /// Lets the units run.
    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for StartedUnits {
    fn drop(&mut self) {
        for unit in self.0.iter().rev() {
            if let Err(failure) = run("systemctl", &["disable", "--now", "--quiet", unit]) {
                tracing::warn!(unit, error = failure.message, "cannot stop a unit");
            }
        }
    }
}

/// Checks that this is root on a machine that systemd runs. Returns the path of this program.
pub fn check_machine() -> Result<PathBuf, Failure> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Failure::usage("bad-arguments", "--keeper needs systemd, which does not run on this machine")
            .hint("without --keeper, `claviger init` needs no systemd; for containers see docs/kubernetes.md"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::usage("bad-arguments", "--keeper makes users and units, so root must run it")
            .hint("sudo claviger init --keeper ..."));
    }
    let program = env::current_exe().map_err(|error| Failure::io("this program", &error))?;
    // The units have ProtectHome=yes and PrivateTmp=yes.
    let is_hidden =
        ["/home", "/root", "/run/user", "/tmp", "/var/tmp"].iter().any(|folder| program.starts_with(folder));
    if is_hidden {
        let message = format!("the units do not see {}, where this program is", program.display());
        return Err(Failure::usage("bad-arguments", message)
            .hint(format!("install -m 755 {} /usr/local/bin/claviger", quoted(program.display()))));
    }
    Ok(program)
}

/// Whether the unit has failed, and is not started again.
pub fn has_failed(unit: &str) -> bool {
    is("is-failed", unit)
}

/// Asks systemd about a unit: `is-enabled` or `is-failed`.
fn is(state: &str, unit: &str) -> bool {
    let status = Command::new("systemctl").args([state, "--quiet", unit]).stdin(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command of systemd.
pub fn run(program: &str, args: &[&str]) -> Result<(), Failure> {
    let ran = Command::new(program).args(args).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| Failure::io(program, &error))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(Failure::new("failed", format!("{program} {}: {}: {}", args.join(" "), ran.status, said.trim())))
}
