//! Files that contain a PIN.

use std::{
    fs::{File, Metadata},
    io::{Error, Read},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{source_id::PinSourceId, value::Pin};
use crate::secrets::TokenError;

/// The longest content of a PIN file, in bytes.
const MAX_LENGTH: u64 = 1024;

/// A PIN file, opened once: the file that is identified is the file that is read.
pub(super) struct PinFile {
    path: PathBuf,
    file: File,
}

impl PinFile {
    /// Opens the file. Fails with [`TokenError::Pin`] if it cannot be opened.
    pub(super) fn open(path: PathBuf) -> Result<Self, TokenError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    /// The identity of the opened file.
    pub(super) fn id(&self) -> Result<PinSourceId, TokenError> {
        PinSourceId::of_file(&self.path, &self.file).map_err(|error| failed(&self.path, &error))
    }

    /// Logs a warning if users other than the owner may read the file.
    pub(super) fn warn_if_readable_by_others(&self) {
        if self.file.metadata().is_ok_and(|metadata| is_readable_by_others(&metadata)) {
            tracing::warn!(path = %self.path.display(), "PIN file is readable by other users; run chmod 600 on it");
        }
    }

    /// Reads the PIN. Fails with [`TokenError::Pin`] if the file is longer than 1,024 bytes, empty or not UTF-8.
    pub(super) fn read(self) -> Result<Pin, TokenError> {
        // The buffer has its full size from the start: a buffer that grows leaves copies of the PIN behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH as usize + 1));
        (&self.file).take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(|error| failed(&self.path, &error))?;
        let path = self.path.display();
        if bytes.len() as u64 > MAX_LENGTH {
            return Err(TokenError::Pin(format!("the PIN file {path} is longer than {MAX_LENGTH} bytes")));
        }
        Pin::from_file(&bytes)
            .ok_or_else(|| TokenError::Pin(format!("the PIN file {path} is empty or is not valid UTF-8")))
    }
}

/// Whether users other than the owner may read the file.
#[cfg(unix)]
pub(super) fn is_readable_by_others(metadata: &Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

/// Outside Unix, permissions are not mode bits.
#[cfg(not(unix))]
pub(super) fn is_readable_by_others(_: &Metadata) -> bool {
    false
}

fn failed(path: &Path, error: &Error) -> TokenError {
    TokenError::Pin(format!("the PIN file {} cannot be read: {error}", path.display()))
}
