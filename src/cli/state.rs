//! What outlives a command: our DIDs and their documents, long forms of did:peer:4 that were seen.

use std::{fs, io::Write, path::PathBuf, sync::Arc};

use sha2::{Digest, Sha256};

use claviger::did::{
    Document, LoadError,
    peer::{LongFormFolder, LongForms, LongFormsInMemory, short_form},
    read_documents,
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
        let folder = self.folder.join("documents");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut documents = read_documents(&folder)?;
        let made = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        documents.sort_by_key(|(path, _)| std::cmp::Reverse(made(path)));
        Ok(documents.into_iter().map(|(_, document)| document).collect())
    }

    /// Keeps the document of a DID of ours: all of it or nothing, also when the power fails.
    pub fn add_document(&self, document: &Document) -> Result<PathBuf, Failure> {
        let folder = self.folder.join("documents");
        let path = folder.join(format!("{}.json", file_name(document.id())));
        let text = serde_json::to_string_pretty(document.as_value()).expect("a document is JSON");
        let write = || {
            fs::create_dir_all(&folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            fs::File::open(&folder)?.sync_all()
        };
        write().map_err(|error| {
            Failure::io(path.display(), &error).hint("`state_dir` in the configuration names another folder")
        })?;
        Ok(path)
    }

    /// Puts the document of a DID aside, in a folder of its own: it is ours no more.
    pub fn put_aside(&self, document: &Document) -> Result<(), Failure> {
        let name = format!("{}.json", file_name(document.id()));
        let (path, aside) = (self.folder.join("documents").join(&name), self.folder.join("retired"));
        let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(&path, aside.join(&name)));
        moved.map_err(|error| Failure::io(path.display(), &error))
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
