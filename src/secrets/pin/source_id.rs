//! The identity of a PIN's source, by which a changed source is recognised.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

/// Identifies a PIN's source. Contains nothing of the PIN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::secrets) enum PinSourceId {
    /// A file. A file that was written or replaced is another source.
    File {
        /// The canonical path.
        path: PathBuf,
        inode: u64,
        /// The modification time, in nanoseconds since 1970. The change time (ctime) is not used, since a
        /// backup changes it.
        modified: u64,
    },
    /// A systemd credential, by name. systemd writes the credential's file anew at each start, so an identity by
    /// file would let a wrong PIN be tried at each start. A new PIN in the same credential is recognised by its
    /// [`PinMark`](super::mark::PinMark).
    Credential(String),
    /// A PIN that the program or the URI contains. Another value is recognised by its mark.
    Value,
    /// A person who types the PIN each time.
    Person,
}

impl PinSourceId {
    /// Whether the identity stays the same when the PIN changes, so that a change is recognised by a mark.
    pub(super) fn has_marks(&self) -> bool {
        matches!(self, Self::Credential(_) | Self::Value)
    }

    /// The identity of an open file.
    pub(super) fn of_file(path: &Path, file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        let modified = modified.as_nanos().try_into().unwrap_or(u64::MAX);
        Ok(Self::File { path: path.canonicalize()?, inode, modified })
    }
}
