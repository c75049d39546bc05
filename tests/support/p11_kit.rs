//! p11-kit: its files, and `p11-kit server`, which offers a token on a socket.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

pub fn are_tokens_required() -> bool {
    ["CLAVIGER_REQUIRE_TOKENS", "CI"].iter().any(|name| env::var_os(name).is_some())
}

/// p11-kit's file with this name, or none if it is missing and not required. `P11_KIT_LIBRARIES` names another folder.
pub fn library(name: &str) -> Option<PathBuf> {
    let named = env::var_os("P11_KIT_LIBRARIES").map(PathBuf::from);
    let installed = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let folders = named.into_iter().chain(installed).chain(["/usr/lib64".into()]);
    let found =
        folders.flat_map(|folder| [folder.join("pkcs11").join(name), folder.join(name)]).find(|it| it.is_file());
    if found.is_none() {
        assert!(!are_tokens_required(), "{name} is missing, and required: softhsm/install devices installs it");
        eprintln!("skipped: {name} is missing");
    }
    found
}

/// A running `p11-kit server`. It ends when it is dropped.
pub struct Server(Child);

impl Server {
    /// Starts `command`, and waits until it listens on `socket`.
    pub fn start(mut command: Command, socket: &Path) -> Self {
        // A server that was killed leaves its socket.
        let _ = fs::remove_file(socket);
        // A group of its own: the server starts a process for each connection.
        let server = command.process_group(0).stdout(Stdio::null()).spawn().expect("p11-kit is installed");
        let end = Instant::now() + Duration::from_secs(30);
        while !socket.exists() {
            assert!(Instant::now() < end, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
