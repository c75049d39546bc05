//! The state folder: the documents of our DIDs, and the long forms of did:peer:4.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, fchown, lchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use claviger::did::{
    Document, LoadError,
    peer::{LongFormFolder, LongForms, LongFormsInMemory, short_form},
    read_documents,
    webvh::OwnLog,
};

use super::failure::Failure;

/// The number of long forms that are kept, at most. Any peer may send any number.
const MAX_LONG_FORMS: usize = 100_000;

/// The state folder. It is made when the first file is written.
pub struct StateDir {
    folder: PathBuf,
}

impl StateDir {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The documents of the DIDs that claviger made, the newest first.
    pub fn documents(&self) -> Result<Vec<Document>, LoadError> {
        Ok(self.documents_by_age()?.into_iter().map(|(_, document)| document).collect())
    }

    /// The documents of the DIDs that claviger made, the newest first, each with the time when its DID was made, if that is known.
    pub fn documents_by_age(&self) -> Result<Vec<(Option<SystemTime>, Document)>, LoadError> {
        let folder = self.documents_folder();
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let with_time = |(path, document): (PathBuf, Document)| (modified(&path), document);
        let mut documents: Vec<_> = read_documents(&folder)?.into_iter().map(with_time).collect();
        documents.extend(self.logs()?.into_iter().map(|log| (Some(log.created()), log.document().clone())));
        documents.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        Ok(documents)
    }

    /// The texts of the documents and logs of retired DIDs. What cannot be read is left out.
    pub fn retired(&self) -> Vec<String> {
        let entries = fs::read_dir(self.retired_folder()).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
    }

    /// The verified logs of the did:webvh DIDs that claviger made.
    pub fn logs(&self) -> Result<Vec<OwnLog>, LoadError> {
        let folder = self.documents_folder();
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let read_error = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::Read { path, source }
        };
        let entries = fs::read_dir(&folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut paths: Vec<_> = entries.map_err(read_error(&folder))?.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        paths.sort();
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).map_err(read_error(&path))?;
            OwnLog::read(text).map_err(|source| LoadError::Log { path, source })
        };
        paths.into_iter().map(read).collect()
    }

    /// Locks the documents against changes by other processes, until the file is dropped. Waits for a process that has
    /// the lock.
    pub fn lock(&self) -> Result<fs::File, Failure> {
        let folder = self.documents_folder();
        let lock = || {
            self.make_folder(&folder)?;
            let lock = fs::File::open(&folder)?;
            lock.lock().map(|()| lock)
        };
        lock().map_err(|error| Failure::io(folder.display(), &error))
    }

    /// Stores the document of one of our DIDs. Returns its path.
    pub fn add_document(&self, document: &Document) -> Result<PathBuf, Failure> {
        let text = serde_json::to_string_pretty(document.as_value()).expect("a document is JSON");
        self.write(&format!("{}.json", file_name(document.id())), &format!("{text}\n"))
    }

    /// Sets when the DID of a document was made, if that is known: documents are sorted by the times of their files.
    pub fn set_age(&self, file: &Path, created: Option<SystemTime>) -> Result<(), Failure> {
        let Some(created) = created else { return Ok(()) };
        let set = fs::File::open(file).and_then(|open| open.set_modified(created));
        set.map_err(|error| Failure::io(file.display(), &error))
    }

    /// Stores the log of one of our did:webvh DIDs. Returns its path.
    pub fn add_log(&self, log: &OwnLog) -> Result<PathBuf, Failure> {
        self.write(&format!("{}.jsonl", file_name(log.document().id())), log.text())
    }

    /// Writes a file completely or not at all, even on a power failure.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let folder = self.documents_folder();
        let path = folder.join(name);
        let write = || {
            let owner = self.make_folder(&folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(text.as_bytes())?;
            // A changed document keeps its time, because documents are sorted by age.
            if let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) {
                file.as_file().set_modified(modified)?;
            }
            if let Some((user, group)) = owner {
                fchown(file.as_file(), Some(user), Some(group))?;
            }
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            fs::File::open(&folder)?.sync_all()
        };
        write().map_err(|error| {
            Failure::io(path.display(), &error).hint("`state_dir` in the configuration names another folder")
        })?;
        Ok(path)
    }

    /// Makes a folder in the state folder. If root does that for an agent of another user, the folder belongs to the agent.
    /// Returns the owner for the files in it, if that is not this user.
    fn make_folder(&self, folder: &Path) -> io::Result<Option<(u32, u32)>> {
        let is_new = !folder.exists();
        fs::create_dir_all(folder)?;
        let Some((user, group)) = self.other_owner() else { return Ok(None) };
        // That user could lead root to any other folder.
        if fs::symlink_metadata(folder)?.is_symlink() {
            return Err(io::Error::other(format!("{} is a symbolic link", folder.display())));
        }
        if is_new {
            lchown(folder, Some(user), Some(group))?;
        }
        Ok(Some((user, group)))
    }

    /// The user and the group of the state folder, if this is root and the folder is that of another user.
    fn other_owner(&self) -> Option<(u32, u32)> {
        let state = fs::metadata(&self.folder).ok()?;
        (rustix::process::geteuid().is_root() && state.uid() != 0).then(|| (state.uid(), state.gid()))
    }

    /// The file of a DID that claviger made: its document or its log.
    pub fn file_of(&self, document: &Document) -> Option<PathBuf> {
        let name = file_name(document.id());
        let files = ["json", "jsonl"].map(|ending| self.documents_folder().join(format!("{name}.{ending}")));
        files.into_iter().find(|file| file.is_file())
    }

    /// Moves the file of a DID to the folder of retired DIDs.
    pub fn move_to_retired(&self, file: &Path) -> Result<(), Failure> {
        let retired = self.retired_folder();
        let to = retired.join(file.file_name().unwrap_or_default());
        let moved = self.make_folder(&retired).and_then(|_| fs::rename(file, to));
        moved.map_err(|error| Failure::io(file.display(), &error))
    }

    /// The folder of the documents.
    pub fn documents_folder(&self) -> PathBuf {
        self.folder.join("documents")
    }

    /// The folder of the documents of retired DIDs.
    pub fn retired_folder(&self) -> PathBuf {
        self.folder.join("retired")
    }

    /// The folder of long forms.
    pub fn long_forms_folder(&self) -> PathBuf {
        self.folder.join("long-forms")
    }

    /// The storage of long forms: the state folder, or memory if the folder is not writable or is another user's.
    pub fn long_forms(&self) -> Arc<dyn LongForms> {
        if self.other_owner().is_some() {
            return Arc::new(LongFormsInMemory::default());
        }
        match LongFormFolder::open(self.long_forms_folder(), MAX_LONG_FORMS) {
            Ok(folder) => Arc::new(folder),
            Err(error) => {
                tracing::debug!(folder = %self.folder.display(), %error, "keeping long forms of did:peer:4 in memory");
                Arc::new(LongFormsInMemory::default())
            }
        }
    }
}

/// The name of a DID's file: method and hash, because a DID may be longer than a file name.
fn file_name(did: &str) -> String {
    let did = short_form(did).unwrap_or(did);
    let method: String = did.split(':').nth(1).unwrap_or_default().chars().take(20).collect();
    let hash = Sha256::digest(did.as_bytes());
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{method}-{hash}")
}
