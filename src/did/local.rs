//! The resolver that asks nobody: did:key, did:peer, and documents at hand.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    Cached, Document, DocumentError, ResolveError, Resolver, is_did, key,
    peer::{self, LongForms, LongFormsInMemory},
};

/// A resolver of `did:key` and `did:peer`, with a cache.
pub fn local() -> Cached<LocalResolver> {
    Cached::new(LocalResolver::new())
}

/// Resolves `did:key`, `did:peer` 0, 2 and 4, and the DIDs of documents that it was given.
///
/// A DID that is its own document (`did:key`, `did:peer` but the short form of numalgo 4) is always read from itself,
/// never from a document given for it.
pub struct LocalResolver {
    documents: HashMap<String, Arc<Document>>,
    long_forms: Arc<dyn LongForms>,
}

/// Why a file with a document was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a DID document.
    #[error("{path}: {source}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
    /// It is not a valid log of a did:webvh.
    #[error("{path}: {source}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ResolveError,
    },
    /// Two files are about one DID, and differ.
    #[error("{path}: another file has another document of {did}", path = path.display())]
    Twice {
        /// The second file.
        path: PathBuf,
        /// The DID.
        did: String,
    },
}

impl LocalResolver {
    /// One with no documents, that keeps long forms in memory.
    pub fn new() -> Self {
        Self { documents: HashMap::new(), long_forms: Arc::new(LongFormsInMemory::default()) }
    }

    /// Keeps long forms of `did:peer:4` there. It comes before the documents, whose long forms it is to keep.
    pub fn with_long_forms(mut self, long_forms: Arc<dyn LongForms>) -> Self {
        self.long_forms = long_forms;
        self
    }

    /// Resolves the DIDs of these documents as well; of two for one DID the later stands.
    pub fn with_documents(mut self, documents: impl IntoIterator<Item = Document>) -> Self {
        for document in documents {
            for name in document.also_known_as().iter().map(String::as_str).chain([document.id()]) {
                if document.names(name) && peer::short_form(name).is_some_and(|short| short != name) {
                    self.long_forms.remember(name);
                }
            }
            self.documents.insert(document.id().to_owned(), Arc::new(document));
        }
        self
    }

    /// The documents it was given.
    pub fn documents(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.documents.values()
    }
}

impl Default for LocalResolver {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Resolver for LocalResolver {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        let itself =
            if did.starts_with("did:key:") { key::resolve(did) } else { peer::resolve(did, &*self.long_forms) };
        match (itself, self.documents.get(did)) {
            (Err(ResolveError::UnsupportedMethod(_) | ResolveError::LongFormUnknown(_)), Some(document)) => {
                Ok(document.clone())
            }
            (itself, _) => itself,
        }
    }
}

/// The documents of a folder's `*.json` files, in the order of their names, with their files; or that of one file.
///
/// # Errors
/// If a file cannot be read or is not a DID document, or two files have different documents of one DID.
pub fn read_documents(path: &Path) -> Result<Vec<(PathBuf, Document)>, LoadError> {
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        files = entries.map_err(unread(path))?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
    }
    let mut documents: Vec<(PathBuf, Document)> = Vec::with_capacity(files.len());
    for path in files {
        let json = fs::read(&path).map_err(unread(&path))?;
        let document = match Document::from_json(&json) {
            Ok(document) => document,
            Err(source) => return Err(LoadError::Document { path, source }),
        };
        match documents.iter().find(|(_, known)| known.id() == document.id()) {
            Some((_, known)) if *known == document => {}
            Some(_) => return Err(LoadError::Twice { path, did: document.id().to_owned() }),
            None => documents.push((path, document)),
        }
    }
    Ok(documents)
}
