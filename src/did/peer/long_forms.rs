//! Stores long forms of did:peer:4, so that their short forms can be resolved.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use quick_cache::{Weighter, sync::Cache};

use super::{forms::short_form, length::MAX_LENGTH};

/// Stores the long forms of `did:peer:4` that were seen. The resolver checks the hash of each returned long form again,
/// so an implementation need not be trusted.
pub trait LongForms: Send + Sync {
    /// Remembers a long form whose hash was checked, for a while. Any stranger can cause this call, with an envelope that
    /// does not even open, so an implementation keeps such long forms in bounded memory.
    fn remember(&self, long: &str);

    /// Keeps a long form whose owner was authenticated, or that a person named. This does not fail: an implementation
    /// logs errors. The default implementation only remembers it.
    fn keep(&self, long: &str) {
        self.remember(long);
    }

    /// Returns the long form that belongs to a short form.
    fn recall(&self, short: &str) -> Option<String>;
}

/// Stores long forms in memory. If there are too many, the least used ones are dropped.
pub struct LongFormsInMemory(Cache<String, String, ByLength>);

#[derive(Clone)]
struct ByLength;

impl Weighter<String, String> for ByLength {
    fn weight(&self, short: &String, long: &String) -> u64 {
        (short.len() + long.len()) as u64
    }
}

impl LongFormsInMemory {
    /// A store that holds long forms of about `bytes` bytes at most.
    pub fn new(bytes: u64) -> Self {
        // The number of entries is an estimate for the size of the tables: a long form often has 1 to 4 KB.
        Self(Cache::with_weighter((bytes / 2048) as usize + 1, bytes, ByLength))
    }
}

/// By default at most 16 MiB.
impl Default for LongFormsInMemory {
    fn default() -> Self {
        Self::new(16 * 1024 * 1024)
    }
}

impl LongForms for LongFormsInMemory {
    fn remember(&self, long: &str) {
        if let Some(short) = short_form(long).filter(|short| *short != long) {
            self.0.insert(short.to_owned(), long.to_owned());
        }
    }

    fn recall(&self, short: &str) -> Option<String> {
        self.0.get(short)
    }
}

/// Keeps long forms in a folder, one file each, and remembers the others in memory.
///
/// The number of files is bounded: once the folder is full, the oldest file makes room for a new one. Writing a file
/// includes a sync, and blocks for some milliseconds.
pub struct LongFormFolder {
    folder: PathBuf,
    limit: usize,
    memory: LongFormsInMemory,
    /// The names of the files in the folder.
    names: Mutex<HashSet<String>>,
}

impl LongFormFolder {
    /// Opens the folder, and creates it if it is absent. At most `limit` files are kept in it.
    ///
    /// # Errors
    /// If the folder cannot be created or read.
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
            while !known && names.len() >= self.limit {
                let Some(oldest) = self.oldest(&names) else {
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the folder is full"));
                };
                fs::remove_file(self.folder.join(&oldest)).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?;
                names.remove(&oldest);
            }
            names.insert(name.to_owned());
        }
        write_atomically(&self.folder.join(name), long)
    }

    /// Returns the name of the file that was written longest ago.
    fn oldest(&self, names: &HashSet<String>) -> Option<String> {
        let written = |name: &String| fs::metadata(self.folder.join(name)).and_then(|it| it.modified()).ok();
        names.iter().min_by_key(|name| written(name)).cloned()
    }

    fn load(&self, name: &str) -> Option<String> {
        let path = self.folder.join(name);
        // Another program may have damaged the file. A file that is longer than any DID is not read.
        let length = fs::metadata(&path).ok()?.len();
        let long = (length <= MAX_LENGTH as u64).then(|| fs::read_to_string(path).ok())??;
        (file_name(short_form(&long)?) == Some(name)).then_some(long)
    }
}

impl LongForms for LongFormFolder {
    fn remember(&self, long: &str) {
        self.memory.remember(long);
    }

    fn keep(&self, long: &str) {
        let Some(short) = short_form(long).filter(|short| *short != long) else { return };
        let Some(name) = file_name(short) else { return };
        self.memory.remember(long);
        if let Err(error) = self.store(name, long) {
            tracing::warn!(%short, %error, "long form remembered in memory only");
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

/// The file name of a short form: the part after `did:peer:`. Returns `None` if that part is not a hash, so that no DID
/// can name another path.
fn file_name(short: &str) -> Option<&str> {
    let name = short.strip_prefix("did:peer:")?;
    let hash = name.strip_prefix("4z")?;
    (hash.len() < 60 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(name)
}

/// Writes the whole file or nothing, even if two processes write the same file.
fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        io::Write::write_all(&mut file, content.as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        // A temporary file that remains does no harm.
        let _ = fs::remove_file(&temporary);
    }
    written
}
