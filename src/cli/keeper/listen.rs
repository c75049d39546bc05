//! `claviger keeper --listen`: holds a listening socket, and starts one keeper process after another to serve it.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use claviger::secrets::{
    Backoff,
    keeper::{FailedKeepers, is_failing},
};

use super::settings::may_connect;
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    keeper_process::listening_keeper_command,
    output::Out,
};

/// The pauses before a keeper that ended is started again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// A keeper that ends sooner has failed at its start.
const MIN_UPTIME: Duration = Duration::from_secs(5);

/// Listens on a socket, and keeps a keeper process running that serves it.
pub fn run(address: &str, token: &TokenConfig, config: &Config, out: &Out) -> Result<(), Failure> {
    let path = address.strip_prefix("unix:").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
        Failure::usage("bad-arguments", format!("{address:?} is not the address of a socket"))
            .hint("the form is unix:PATH")
    })?;
    // Report a wrong configuration once here, and not from each keeper.
    drop(may_connect(config)?);
    let listener = bind(&path)?;
    out.say(&format!("Serving the token {:?} on {}.", token.name, path.display()));
    let mut failures = 0;
    let (mut failed_keepers, mut has_failed) = (FailedKeepers::default(), false);
    loop {
        let start = Instant::now();
        let mut keeper = start_keeper(&listener, token, config, failed_keepers.next(has_failed))?;
        has_failed = false;
        let mut request = [0];
        let wants_successor = keeper.stdout.take().is_some_and(|mut stdout| stdout.read_exact(&mut request).is_ok());
        if wants_successor {
            // The keeper keeps running until it has answered the requests that it accepted.
            thread::spawn(move || keeper.wait());
            failures = 0;
            continue;
        }
        let status = keeper.wait().map_err(|error| Failure::io("the keeper", &error))?;
        // Exit status 2: the configuration is wrong, and would be wrong again.
        if status.code() == Some(2) {
            return Err(Failure::usage("keeper-failed", "the keeper cannot run with this configuration: see above"));
        }
        has_failed = is_failing(status);
        tracing::warn!(%status, "keeper ended; starting it again");
        if start.elapsed() > MIN_UPTIME {
            failures = 0;
        }
        failures += 1;
        thread::sleep(BACKOFF.pause(failures));
    }
}

/// Binds the socket. A socket that nobody serves any more is replaced; nothing else is removed.
fn bind(path: &Path) -> Result<UnixListener, Failure> {
    let failed = |error: io::Error| Failure::io(path.display(), &error);
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                return Err(Failure::new("keeper-there", format!("a keeper listens on {} already", path.display())));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(Failure::new("io", format!("{} exists, and is not a socket", path.display()))),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Anyone may connect. The keeper then checks the user that the kernel reports.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

fn start_keeper(
    listener: &UnixListener,
    token: &TokenConfig,
    config: &Config,
    failed_keepers: u32,
) -> Result<Child, Failure> {
    let failed = |error: io::Error| Failure::io("the keeper cannot be started", &error);
    let mut command = listening_keeper_command(config, &token.name, failed_keepers).map_err(failed)?;
    command.envs(&token.environment).stdout(Stdio::piped());
    command.stdin(Stdio::from(listener.as_fd().try_clone_to_owned().map_err(failed)?));
    command.spawn().map_err(failed)
}

/// Asks the parent, which reads our stdout, to start the next keeper.
pub fn request_successor() {
    let _ = io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush());
}

/// Makes the kernel end this process when its parent ends. Nothing else would tell a keeper with a listening socket
/// that the parent is gone. The keeper would go on serving, with nobody to stop it or to start the next keeper.
pub fn end_with_parent(parent: Option<i32>) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let failed = |error: rustix::io::Errno| Failure::io("PR_SET_PDEATHSIG", &error.into());
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(failed)?;
    // The parent may have ended before the call.
    if parent.is_some_and(|parent| getppid().map(|now| now.as_raw_nonzero().get()) != Some(parent)) {
        return Err(Failure::new("io", "the process that listens has ended"));
    }
    Ok(())
}
