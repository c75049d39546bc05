//! pcscd with a virtual reader, for tests through the real PC/SC. Needs root, and Debian's packages pcscd
//! and vsmartcard-vpcd.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The reader driver in Debian's vsmartcard-vpcd.
const DRIVER: &str = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so";
/// The names of the readers: those of YubiKeys with other interfaces switched on. pcscd adds the number of the slot, 00 00
/// and 00 01.
pub const READERS: [&str; 3] = ["Yubico YubiKey OTP+FIDO+CCID", "Yubico YubiKey FIDO+CCID", "Yubico YubiKey CCID"];
/// The port on which vpcd listens for its first card. The next ports are for the next cards.
pub const PORT: u16 = 0x8c7b;
/// The socket of pcscd.
const SOCKET: &str = "/run/pcscd/pcscd.comm";
/// The file with the process ID of pcscd.
const PROCESS_ID: &str = "/run/pcscd/pcscd.pid";
/// The file that is locked as long as a [`Pcscd`] runs: a machine has only one.
const LOCK: &str = "/run/claviger-test-pcscd.lock";
/// The timeout of a step. No step takes nearly as long.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long a [`Pcscd`] is waited for.
const TURN: Duration = Duration::from_secs(300);

/// The cards of one reader.
const SLOTS: u16 = 2;

/// A pcscd process with virtual readers, each for two cards. It is stopped when this is dropped.
pub struct Pcscd {
    process: Child,
    /// None after [`stop`](Self::stop).
    lock: Option<File>,
    _readers: tempfile::TempDir,
}

impl Pcscd {
    /// Starts pcscd with one reader and waits until it answers. Call it only if [`is_here`] returns true. If another
    /// program runs a [`Pcscd`], waits until that has stopped.
    ///
    /// # Panics
    /// If pcscd cannot be started or does not answer, or another [`Pcscd`] runs for five minutes.
    pub fn start() -> Self {
        Self::with_readers(1)
    }

    /// Starts pcscd with up to three readers, named as in [`READERS`]. See [`start`](Self::start).
    pub fn with_readers(count: usize) -> Self {
        let lock = lock_file().expect("a file to lock");
        until_within("another program stops its pcscd", TURN, || lock.try_lock().is_ok());
        let readers = tempfile::tempdir().expect("a folder for the readers");
        let configuration: String = (0..)
            .zip(&READERS[..count])
            .map(|(number, name)| {
                // The driver has two slots in each process, and so for each copy of it.
                let driver = readers.path().join(format!("driver-{number}.so"));
                fs::copy(DRIVER, &driver).expect("a copy of the driver");
                let (driver, port) = (driver.display(), PORT + SLOTS * number);
                format!(
                    "FRIENDLYNAME \"{name}\"\nDEVICENAME /dev/null:{port:#X}\nLIBPATH {driver}\nCHANNELID {port:#X}\n\n"
                )
            })
            .collect();
        fs::write(readers.path().join("readers"), configuration).expect("a file for the readers");
        let mut command = Command::new(pcscd().expect("pcscd is here"));
        command
            .arg("--foreground")
            .arg("--config")
            .arg(readers.path().join("readers"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().expect("pcscd starts");
        let mut service = Self { process, lock: Some(lock), _readers: readers };
        until("pcscd answers", || {
            // The answer must not come from a pcscd that another program has started at the same time.
            let ended = service.process.try_wait().expect("the state of pcscd");
            assert!(ended.is_none(), "pcscd has ended: another pcscd is running");
            running() == Some(service.process.id()) && UnixStream::connect(SOCKET).is_ok()
        });
        service
    }

    /// Stops pcscd, which removes its socket.
    pub fn stop(&mut self) {
        // The ID of a process that has ended may be that of another one.
        if let Ok(None) = self.process.try_wait() {
            let _ = Command::new("kill").arg(self.process.id().to_string()).status();
            let _ = self.process.wait();
        }
        self.lock = None;
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether [`Pcscd::start`] can be called. If not, the reason is printed.
///
/// # Panics
/// If [`Pcscd::start`] cannot be called, and `CLAVIGER_REQUIRE_TOKENS` is set.
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
        () if is_foreign_running() => Some("another pcscd is running".into()),
        () => None,
    }
}

fn pcscd() -> Option<PathBuf> {
    ["/usr/sbin/pcscd", "/usr/local/sbin/pcscd"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

/// Whether a pcscd runs that was not started here, by [`Pcscd`]. Such a one will not stop.
fn is_foreign_running() -> bool {
    running().is_some() && lock_file().is_ok_and(|lock| lock.try_lock().is_ok()) && running().is_some()
}

/// The process ID of the pcscd that runs.
fn running() -> Option<u32> {
    let written = fs::read_to_string(PROCESS_ID).ok()?;
    // pcscd writes a NUL after the line.
    let id = written.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().ok()?;
    Path::new("/proc").join(u32::to_string(&id)).exists().then_some(id)
}

fn lock_file() -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(LOCK)
}

/// Waits until `is_done` returns true. `what` names the condition in the panic.
///
/// # Panics
/// After 20 seconds.
pub fn until(what: &str, is_done: impl FnMut() -> bool) {
    until_within(what, TIMEOUT, is_done);
}

fn until_within(what: &str, timeout: Duration, mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + timeout;
    while !is_done() {
        assert!(Instant::now() < end, "{what}: timeout");
        thread::sleep(Duration::from_millis(50));
    }
}
