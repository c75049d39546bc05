//! The PIN guard: a folder that holds one record and one lock file for each token, shared by all programs that use it.
//!
//! The record makes a wrong PIN known across restarts and to every program. The lock file lets one program at a time
//! try a PIN, so that the others read the result before they decide. A PIN that a person types is not recorded here,
//! and needs no lock.
//!
//! If root makes a file in the folder of another user, the file becomes that user's: a service of that user must read it.
//! Root follows no link there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::record::PinRecord;
use crate::secrets::{TokenError, TokenInfo};

/// The guard of one token.
#[derive(Debug, Clone)]
pub(in crate::secrets) struct PinGuard {
    folder: PathBuf,
    info: TokenInfo,
}

/// The guard of one token, locked against every other thread and program until this is dropped.
pub(super) struct PinGuardLock<'g> {
    guard: &'g PinGuard,
    _lock_file: File,
}

impl PinGuard {
    pub(in crate::secrets) fn new(folder: &Path, token: &TokenInfo) -> Self {
        Self { folder: folder.to_owned(), info: token.clone() }
    }

    /// Reads the record. No lock is needed: the file is only ever replaced as a whole.
    ///
    /// # Errors
    /// [`TokenError::Pin`] if the file is damaged or cannot be read. A file that does not exist is an empty record.
    pub(in crate::secrets) fn read(&self) -> Result<PinRecord, TokenError> {
        let path = self.path("json");
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PinRecord::new(&self.info)),
            Err(error) => return Err(self.failed(&path, &error)),
        }
        serde_json::from_str(&text).map_err(|error| self.failed(&path, &error.into()))
    }

    /// Reads the record. If a person has confirmed the PIN, a file that cannot be read counts as an empty record.
    pub(super) fn read_or_new(&self, confirmed: bool) -> Result<PinRecord, TokenError> {
        self.read().or_else(|error| if confirmed { Ok(PinRecord::new(&self.info)) } else { Err(error) })
    }

    /// Records that a person locked the token. No program that shares the guard then uses the PIN until a person unlocks the
    /// token.
    pub(in crate::secrets) fn record_locked_by_person(&self) -> Result<(), TokenError> {
        let lock = self.lock()?;
        lock.write(&lock.read_or_new(true)?.locked_by_person())
    }

    /// Locks the guard. Blocks while another thread or program tries a PIN that the guard records.
    pub(super) fn lock(&self) -> Result<PinGuardLock<'_>, TokenError> {
        let lock = || {
            create_folder(&self.folder)?;
            let path = self.path("lock");
            let file = match self.create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    OpenOptions::new().read(true).write(true).open(&path)?
                }
                created => created?,
            };
            file.lock()?;
            Ok(file)
        };
        let _lock_file = lock().map_err(|error| self.failed(&self.path("lock"), &error))?;
        Ok(PinGuardLock { guard: self, _lock_file })
    }

    /// The path of one of the token's files. The file name is a hash of the token's serial number and label, and does
    /// not depend on the module. The label is part of the hash since some tokens have a serial number of zeros.
    fn path(&self, extension: &str) -> PathBuf {
        let mut hash = Sha256::new();
        for part in [&self.info.serial, &self.info.label] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let name: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{name}.{extension}"))
    }

    /// Makes a file that only its owner may read and write.
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        #[cfg(unix)]
        if let Some((user, group)) = other_owner(&self.folder, &file.metadata()?)? {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        }
        Ok(file)
    }

    fn failed(&self, path: &Path, error: &io::Error) -> TokenError {
        TokenError::Pin(format!(
            "the record of the PIN of the token {:?} cannot be read or written: {} ({error}). No PIN is tried until \
             its folder is writable for this user; `claviger token unlock` replaces a damaged file",
            self.info.label,
            path.display()
        ))
    }
}

impl PinGuardLock<'_> {
    /// Reads the record like [`PinGuard::read_or_new`]. No other program changes it while the lock is held.
    pub(super) fn read_or_new(&self, confirmed: bool) -> Result<PinRecord, TokenError> {
        self.guard.read_or_new(confirmed)
    }

    /// Replaces the record. It is on disk when this returns.
    pub(super) fn write(&self, record: &PinRecord) -> Result<(), TokenError> {
        self.write_to("new", record)?;
        self.rename("new")
    }

    /// Writes the record of a refusal beside the present record, before the PIN is presented. After that, recording the
    /// refusal needs no space on the disk.
    pub(super) fn prepare_refusal(&self, record: &PinRecord) -> Result<(), TokenError> {
        self.write_to("refused", record)
    }

    /// Replaces the record with the refusal that was prepared.
    pub(super) fn use_prepared_refusal(&self) -> Result<(), TokenError> {
        self.rename("refused")
    }

    /// Removes the refusal that was prepared, after the token has accepted the PIN. It may have the marks of other PINs.
    pub(super) fn discard_prepared_refusal(&self) {
        // The next attempt replaces the file.
        let _ = fs::remove_file(self.guard.path("refused"));
    }

    fn rename(&self, extension: &str) -> Result<(), TokenError> {
        let path = self.guard.path("json");
        let renamed = fs::rename(self.guard.path(extension), &path).and_then(|()| sync_folder(&self.guard.folder));
        renamed.map_err(|error| self.guard.failed(&path, &error))
    }

    fn write_to(&self, extension: &str, record: &PinRecord) -> Result<(), TokenError> {
        let path = self.guard.path(extension);
        let write = || {
            // Only the holder of the lock writes here. A temporary file that a crashed program left is replaced.
            let _ = fs::remove_file(&path);
            let mut file = self.guard.create(&path)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()
        };
        write().map_err(|error: io::Error| self.guard.failed(&path, &error))
    }
}

fn create_folder(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        created => created?,
    }
    #[cfg(unix)]
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty())
        && let Some((user, group)) = other_owner(parent, &fs::symlink_metadata(folder)?)?
    {
        std::os::unix::fs::lchown(folder, Some(user), Some(group))?;
    }
    Ok(())
}

/// The user and the group of a folder, if root has made this file in it and the folder is another user's.
#[cfg(unix)]
fn other_owner(folder: &Path, made: &fs::Metadata) -> io::Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(folder)?;
    Ok((made.uid() == 0 && owner.uid() != 0).then(|| (owner.uid(), owner.gid())))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Outside Unix a folder cannot be opened.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::pin::{prompt::PinState, record::PinRecordState, source_id::PinSourceId};

    fn token() -> TokenInfo {
        TokenInfo { label: "demo".into(), serial: "1".into(), ..TokenInfo::default() }
    }

    #[test]
    fn each_token_has_a_record_that_is_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state/pin-guard");
        let guard = PinGuard::new(&folder, &token());
        assert_eq!(guard.read().unwrap(), PinRecord::new(&token()));
        let attempt = PinRecord::new(&token()).begin_attempt(&PinSourceId::Value, None, PinState::Ready, false);
        let refused = attempt.unwrap().refused(None);
        guard.lock().unwrap().write(&refused).unwrap();
        assert_eq!(guard.read().unwrap(), refused);
        let other = PinGuard::new(&folder, &TokenInfo { label: "dem".into(), serial: "o1".into(), ..token() });
        assert_eq!(other.read().unwrap().state, PinRecordState::New);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&folder), mode(&guard.path("json"))), (0o700, 0o600));
        }
        for damage in ["", "{}", "{\"state\": \"accepted\"}", "accepted"] {
            fs::write(guard.path("json"), damage).unwrap();
            assert!(
                matches!(guard.read(), Err(TokenError::Pin(reason)) if reason.contains("cannot be read or written")),
                "{damage}"
            );
        }
    }

    /// After the attempt was begun, a refusal is recorded even if no file can be written any more.
    #[test]
    fn a_prepared_refusal_needs_no_space() {
        let folder = tempfile::tempdir().unwrap();
        let guard = PinGuard::new(folder.path(), &token());
        let begun = PinRecord::new(&token()).begin_attempt(&PinSourceId::Value, None, PinState::Ready, false).unwrap();
        let lock = guard.lock().unwrap();
        lock.prepare_refusal(&begun.clone().refused(None)).unwrap();
        lock.write(&begun).unwrap();
        // A folder in the place of the temporary file: it cannot be written.
        fs::create_dir(guard.path("new")).unwrap();
        assert!(lock.write(&begun).is_err());
        lock.use_prepared_refusal().unwrap();
        assert_eq!(guard.read().unwrap().state, PinRecordState::Refused);
    }

    /// `claviger token unlock`, run by root, must not lock out the service of another user. Nor must that user lead root to
    /// another file.
    #[cfg(unix)]
    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_folder() {
        use std::os::unix::fs::{MetadataExt, chown, symlink};
        const SERVICE: u32 = 54_321;
        let folder = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (folder.path().join("state"), folder.path().join("elsewhere"));
        fs::create_dir(&state).unwrap();
        fs::write(&elsewhere, "root's").unwrap();
        if chown(&state, Some(SERVICE), Some(SERVICE)).is_err() {
            eprintln!("skipped: only root can run this test");
            return;
        }
        let guard = PinGuard::new(&state.join("pin-guard"), &token());
        guard.record_locked_by_person().unwrap();
        symlink(&elsewhere, guard.path("new")).unwrap();
        guard.record_locked_by_person().unwrap();
        for path in [guard.folder.clone(), guard.path("lock"), guard.path("json")] {
            let made = fs::symlink_metadata(&path).unwrap();
            assert_eq!((made.uid(), made.gid(), made.is_symlink()), (SERVICE, SERVICE, false), "{}", path.display());
        }
        assert_eq!(guard.read().unwrap().state, PinRecordState::LockedByPerson);
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "root's");
        assert_eq!(fs::metadata(&elsewhere).unwrap().uid(), 0);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let guard = PinGuard::new(&folder.path().join("file/pin-guard"), &token());
        assert!(matches!(guard.lock().err(), Some(TokenError::Pin(reason)) if reason.contains("pin-guard")));
    }
}
