//! pcscd with a virtual reader, for tests through the real PC/SC. Needs root, and Debian's packages pcscd
//! and vsmartcard-vpcd.

use std::{
    fs,
    io::Write,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The reader driver in Debian's vsmartcard-vpcd.
const DRIVER: &str = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so";
/// The reader name of a YubiKey.
const READER: &str = "Yubico YubiKey OTP+FIDO+CCID";
/// The port on which vpcd listens for its first card. The next port is for the second card.
pub const PORT: u16 = 0x8c7b;
/// The socket of pcscd.
const SOCKET: &str = "/run/pcscd/pcscd.comm";
/// The timeout of a step. No step takes nearly as long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A pcscd process with one virtual reader for two cards. It is stopped when this is dropped.
pub struct Pcscd {
    process: Child,
    _readers: tempfile::NamedTempFile,
}

impl Pcscd {
    /// Starts pcscd and waits until it answers. Call it only if [`is_here`] returns true.
    ///
    /// # Panics If pcscd cannot be started, or does not answer.
    pub fn start() -> Self {
        let mut readers = tempfile::NamedTempFile::new().expect("a file for the readers");
        let reader = format!(
            "FRIENDLYNAME \"{READER}\"\nDEVICENAME /dev/null:{PORT:#X}\nLIBPATH {DRIVER}\nCHANNELID {PORT:#X}\n"
        );
        readers.write_all(reader.as_bytes()).expect("a file for the readers");
        let mut command = Command::new(pcscd().expect("pcscd is here"));
        command.arg("--foreground").arg("--config").arg(readers.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let service = Self { process: command.spawn().expect("pcscd starts"), _readers: readers };
        until("pcscd answers", || UnixStream::connect(SOCKET).is_ok());
        service
    }

    /// Stops pcscd, which removes its socket.
    pub fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether [`Pcscd::start`] can be called. If not, the reason is printed.
///
/// # Panics If [`Pcscd::start`] cannot be called, and `CLAVIGER_REQUIRE_TOKENS` is set.
pub fn is_here() -> bool {
    let Some(missing) = missing() else { return true };
    assert!(std::env::var_os("CLAVIGER_REQUIRE_TOKENS").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    false
}

/// Why [`Pcscd::start`] cannot be called here. None if it can be called.
pub fn missing() -> Option<String> {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    match () {
        () if pcscd().is_none() => Some("pcscd is missing: apt-get install pcscd".into()),
        () if !Path::new(DRIVER).exists() => Some("vsmartcard-vpcd is missing: apt-get install vsmartcard-vpcd".into()),
        () if !root => Some("pcscd must be started by root".into()),
        () if Path::new("/run/pcscd/pcscd.pid").exists() && is_running() => Some("another pcscd is running".into()),
        () => None,
    }
}

fn pcscd() -> Option<PathBuf> {
    ["/usr/sbin/pcscd", "/usr/local/sbin/pcscd"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

fn is_running() -> bool {
    let pid = fs::read_to_string("/run/pcscd/pcscd.pid").unwrap_or_default();
    Path::new("/proc").join(pid.trim()).join("comm").exists()
}

/// Waits until `is_done` returns true. `what` names the condition in the panic.
///
/// # Panics
/// After 20 seconds.
pub fn until(what: &str, mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !is_done() {
        assert!(Instant::now() < end, "{what}: timeout");
        thread::sleep(Duration::from_millis(50));
    }
}
