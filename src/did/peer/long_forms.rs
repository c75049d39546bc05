//! Where long forms of did:peer:4 are kept, so that their short forms can be resolved.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use quick_cache::{Weighter, sync::Cache};

use super::{MAX_LENGTH, four::short_form};

/// Keeps the long forms of `did:peer:4` that were seen. What it gives back is checked again, so it need not be trusted.
pub trait LongForms: Send + Sync {
    /// Keeps a long form, whose hash was checked. One that cannot be kept is no reason to fail: it is logged.
    fn remember(&self, long: &str);

    /// The long form whose short form this is.
    fn recall(&self, short: &str) -> Option<String>;
}

/// Keeps the long forms in memory, those of late and often used ones if there are too many.
pub struct LongFormsInMemory(Cache<String, String, Length>);

#[derive(Clone)]
struct Length;

impl Weighter<String, String> for Length {
    fn weight(&self, short: &String, long: &String) -> u64 {
        (short.len() + long.len()) as u64
    }
}

impl LongFormsInMemory {
    /// At most about `bytes` of them.
    pub fn new(bytes: u64) -> Self {
        // The number is an estimate, for the size of the tables: long forms are often one to four kilobytes.
        Self(Cache::with_weighter((bytes / 2048) as usize + 1, bytes, Length))
    }
}

/// 16 MiB.
impl Default for LongFormsInMemory {
    fn default() -> Self {
        Self::new(16 * 1024 * 1024)
    }
}

impl LongForms for LongFormsInMemory {
    fn remember(&self, long: &str) {
        if let Some(short) = short_form(long) {
            self.0.insert(short.to_owned(), long.to_owned());
        }
    }

    fn recall(&self, short: &str) -> Option<String> {
        self.0.get(short)
    }
}

/// Keeps the long forms in a folder, a file for each, and in memory.
///
/// Anyone may show us any number of them, so their number is bounded. What is there stays: when the folder is full, new
/// ones are kept in memory only. A file is written once for a new peer, and synced; this blocks for some milliseconds.
pub struct LongFormFolder {
    folder: PathBuf,
    limit: usize,
    memory: LongFormsInMemory,
    /// The names of the files.
    names: Mutex<HashSet<String>>,
}

impl LongFormFolder {
    /// The folder, made if it is not there, with at most `limit` files.
    ///
    /// # Errors
    /// If it cannot be made or read.
    pub fn open(folder: impl Into<PathBuf>, limit: usize) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        let names = fs::read_dir(&folder)?
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .filter(|name| name.as_ref().map_or(true, |name| file_name(&format!("did:peer:{name}")).is_some()))
            .collect::<io::Result<_>>()?;
        Ok(Self { folder, limit, memory: LongFormsInMemory::default(), names: Mutex::new(names) })
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.names.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn store(&self, name: &str, long: &str) -> io::Result<()> {
        {
            let mut names = self.names();
            let known = names.contains(name);
            if known && self.load(name).is_some() {
                return Ok(());
            }
            if !known && names.len() >= self.limit {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the folder is full"));
            }
            names.insert(name.to_owned());
        }
        write(&self.folder.join(name), long)
    }

    fn load(&self, name: &str) -> Option<String> {
        let path = self.folder.join(name);
        // Another program may have damaged it; what is longer than a DID is not read.
        let length = fs::metadata(&path).ok()?.len();
        let long = (length <= MAX_LENGTH as u64).then(|| fs::read_to_string(path).ok())??;
        (file_name(short_form(&long)?) == Some(name)).then_some(long)
    }
}

impl LongForms for LongFormFolder {
    fn remember(&self, long: &str) {
        let Some(short) = short_form(long) else { return };
        let Some(name) = file_name(short).filter(|_| self.memory.recall(short).is_none()) else { return };
        self.memory.remember(long);
        if let Err(error) = self.store(name, long) {
            tracing::warn!(%short, %error, "the long form of a did:peer:4 is kept in memory only");
        }
    }

    fn recall(&self, short: &str) -> Option<String> {
        self.memory.recall(short).or_else(|| {
            let long = self.load(file_name(short)?)?;
            self.memory.remember(&long);
            Some(long)
        })
    }
}

/// The name of a short form's file: what stands after `did:peer:`. None if that is not a hash, so no path gets out.
fn file_name(short: &str) -> Option<&str> {
    let name = short.strip_prefix("did:peer:")?;
    let hash = name.strip_prefix("4z")?;
    (hash.len() < 60 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(name)
}

/// All of the file or none of it, also when two processes write it.
fn write(path: &Path, content: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        io::Write::write_all(&mut file, content.as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // It is of no use; that it is still there does no harm.
        let _ = fs::remove_file(&temporary);
    }
    written
}
