//! The file of `-o`, to which a command writes its data instead of stdout.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::failure::Failure;

/// An open file. It must be opened before the process enters its sandbox. Its content stays until there is a result, so
/// that a command that fails destroys no earlier one.
pub struct OutputFile {
    path: PathBuf,
    file: Mutex<OpenFile>,
}

struct OpenFile {
    file: File,
    /// Whether the earlier content is gone.
    is_cleared: bool,
}

impl OutputFile {
    /// Opens a file, or makes one with these permissions.
    pub fn open(path: &Path, mode: u32) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(path);
        let file = file.map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(OpenFile { file, is_cleared: false }) })
    }

    /// Whether this is the same file as `other`.
    pub fn is_same(&self, other: &File) -> bool {
        self.with_file(|own| Ok(is_same_file(&own.file, other))).unwrap_or(false)
    }

    /// Writes a line. The first one replaces the earlier content.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.with_file(|own| {
            own.clear()?;
            own.file.write_all(format!("{text}\n").as_bytes())
        })
    }

    /// Ends a result that may have no lines.
    pub fn finish(&self) -> Result<(), Failure> {
        self.with_file(OpenFile::clear)
    }

    fn with_file<T>(&self, action: impl FnOnce(&mut OpenFile) -> io::Result<T>) -> Result<T, Failure> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        action(&mut file).map_err(|error| Failure::io(self.path.display(), &error))
    }
}

impl OpenFile {
    fn clear(&mut self) -> io::Result<()> {
        // A pipe or a device has no length.
        if !self.is_cleared && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.is_cleared = true;
        Ok(())
    }
}

/// Whether both are one file, whatever its names are.
pub fn is_same_file(a: &File, b: &File) -> bool {
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
    identity(a).is_some_and(|a| identity(b) == Some(a))
}
