//! What outlives a command: our DIDs and their documents, long forms of did:peer:4 that were seen.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use claviger::did::{
    Document, LoadError,
    peer::{LongFormFolder, LongForms, LongFormsInMemory, short_form},
    read_documents,
    webvh::OwnLog,
};

use super::failure::Failure;

/// Long forms that are kept at most: anyone may show us any number.
const LONG_FORMS: usize = 100_000;

/// The state folder, which is made when the first thing is put there.
pub struct State {
    folder: PathBuf,
}

impl State {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The documents of the DIDs made here, the newest first.
    pub fn documents(&self) -> Result<Vec<Document>, LoadError> {
        let folder = self.documents_folder();
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let made = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let with_time = |(path, document): (PathBuf, Document)| (made(&path), document);
        let mut documents: Vec<_> = read_documents(&folder)?.into_iter().map(with_time).collect();
        documents.extend(self.logs()?.into_iter().map(|log| (Some(log.begun()), log.document().clone())));
        documents.sort_by_key(|(made, _)| std::cmp::Reverse(*made));
        Ok(documents.into_iter().map(|(_, document)| document).collect())
    }

    /// The logs of each did:webvh made here. Nobody who has written to the disk changes one unseen.
    pub fn logs(&self) -> Result<Vec<OwnLog>, LoadError> {
        let folder = self.documents_folder();
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let unread = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::Read { path, source }
        };
        let entries = fs::read_dir(&folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let mut paths: Vec<_> = entries.map_err(unread(&folder))?.into_iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        paths.sort();
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).map_err(unread(&path))?;
            OwnLog::read(text).map_err(|source| LoadError::Log { path, source })
        };
        paths.into_iter().map(read).collect()
    }

    /// Until it is dropped nobody else changes what was made here; who does so now is waited for.
    pub fn lock(&self) -> Result<fs::File, Failure> {
        let folder = self.documents_folder();
        let lock = || {
            fs::create_dir_all(&folder)?;
            let lock = fs::File::open(&folder)?;
            lock.lock().map(|()| lock)
        };
        lock().map_err(|error| Failure::io(folder.display(), &error))
    }

    /// Keeps the document of a DID of ours.
    pub fn add_document(&self, document: &Document) -> Result<PathBuf, Failure> {
        let text = serde_json::to_string_pretty(document.as_value()).expect("a document is JSON");
        self.keep(&format!("{}.json", file_name(document.id())), &format!("{text}\n"))
    }

    /// Keeps the log of a did:webvh of ours, which has its document.
    pub fn keep_log(&self, log: &OwnLog) -> Result<PathBuf, Failure> {
        self.keep(&format!("{}.jsonl", file_name(log.document().id())), log.text())
    }

    /// All of it or nothing, also when the power fails.
    fn keep(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let folder = self.documents_folder();
        let path = folder.join(name);
        let write = || {
            fs::create_dir_all(&folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(text.as_bytes())?;
            // A DID is as old as it was before it changed.
            if let Ok(made) = fs::metadata(&path).and_then(|metadata| metadata.modified()) {
                file.as_file().set_modified(made)?;
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

    /// The file of a DID that was made here: its document, or its log.
    pub fn file_of(&self, document: &Document) -> Option<PathBuf> {
        let name = file_name(document.id());
        let files = ["json", "jsonl"].map(|ending| self.documents_folder().join(format!("{name}.{ending}")));
        files.into_iter().find(|file| file.is_file())
    }

    /// Puts the file of a DID aside, in a folder of its own: it is ours no more.
    pub fn put_aside(&self, file: &Path) -> Result<(), Failure> {
        let aside = self.folder.join("retired");
        let to = aside.join(file.file_name().unwrap_or_default());
        let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(file, to));
        moved.map_err(|error| Failure::io(file.display(), &error))
    }

    /// The folder of the documents.
    pub fn documents_folder(&self) -> PathBuf {
        self.folder.join("documents")
    }

    /// The folder of long forms.
    pub fn long_forms_folder(&self) -> PathBuf {
        self.folder.join("long-forms")
    }

    /// Where long forms are kept: the state folder, or memory if that cannot be written.
    pub fn long_forms(&self) -> Arc<dyn LongForms> {
        match LongFormFolder::open(self.long_forms_folder(), LONG_FORMS) {
            Ok(folder) => Arc::new(folder),
            Err(error) => {
                tracing::debug!(folder = %self.folder.display(), %error, "long forms are not kept");
                Arc::new(LongFormsInMemory::default())
            }
        }
    }
}

/// A DID may be longer than a file's name: method and hash.
fn file_name(did: &str) -> String {
    let did = short_form(did).unwrap_or(did);
    let method: String = did.split(':').nth(1).unwrap_or_default().chars().take(20).collect();
    let hash = Sha256::digest(did.as_bytes());
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{method}-{hash}")
}
