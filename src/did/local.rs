//! The resolver that needs no network: did:key, did:peer, and given documents.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    cached_resolver::CachedResolver,
    canonical::with_capital_escapes,
    document::{Document, DocumentError},
    key,
    peer::{self, LongForms, LongFormsInMemory},
    resolve_error::ResolveError,
    resolver::Resolver,
    url::is_did,
};

/// A cached resolver for `did:key` and `did:peer`.
pub fn local() -> CachedResolver<LocalResolver> {
    CachedResolver::new(LocalResolver::new())
}

/// Resolves `did:key`, `did:peer` 0, 2 and 4, and the DIDs of given documents.
///
/// A DID that contains its own document (`did:key`, and `did:peer` except the short form of numalgo 4) is always
/// resolved from the DID, and never from a given document.
pub struct LocalResolver {
    documents: HashMap<String, Arc<Document>>,
    long_forms: Arc<dyn LongForms>,
}

/// Why a file with a DID document was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a DID document.
    #[error("{path}: {source}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DocumentError,
    },
    /// The file is not a valid log of a did:webvh.
    #[error("{path}: {source}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ResolveError,
    },
    /// Two files have different documents of one DID.
    #[error("{path}: another file has a different document of {did}", path = path.display())]
    Conflict {
        /// The second file.
        path: PathBuf,
        /// The DID.
        did: String,
    },
}

impl LocalResolver {
    /// A resolver without documents, which stores long forms of `did:peer:4` in memory.
    pub fn new() -> Self {
        Self { documents: HashMap::new(), long_forms: Arc::new(LongFormsInMemory::default()) }
    }

    /// Stores long forms of `did:peer:4` in `long_forms`. Call this before [`with_documents`](Self::with_documents),
    /// which stores the long forms of its documents there too.
    pub fn with_long_forms(mut self, long_forms: Arc<dyn LongForms>) -> Self {
        self.long_forms = long_forms;
        self
    }

    /// Adds documents. A document replaces an earlier document of the same DID.
    pub fn with_documents(mut self, documents: impl IntoIterator<Item = Document>) -> Self {
        for document in documents {
            for name in document.also_known_as().iter().map(String::as_str).chain([document.id()]) {
                if document.is_about(name) && peer::short_form(name).is_some_and(|short| short != name) {
                    self.long_forms.remember(name);
                }
            }
            self.documents.insert(with_capital_escapes(document.id()).into_owned(), Arc::new(document));
        }
        self
    }

    /// The documents that were added.
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
        let self_contained =
            if did.starts_with("did:key:") { key::resolve(did) } else { peer::resolve(did, &*self.long_forms) };
        let document = match (self_contained, self.documents.get(&*with_capital_escapes(did))) {
            (Err(ResolveError::UnsupportedMethod(_) | ResolveError::LongFormUnknown(_)), Some(document)) => {
                document.clone()
            }
            (self_contained, _) => self_contained?,
        };
        document.log_unused_parts();
        Ok(document)
    }

    async fn resolve_offline(&self, did: &str) -> Option<Arc<Document>> {
        self.resolve(did).await.ok()
    }
}

/// Reads DID documents: from the `*.json` files in the folder `path`, in the order of their names, or from the one file
/// `path`. Returns each document with the path of its file.
///
/// # Errors
/// If a file cannot be read or is not a DID document, or two files have different documents of one DID.
pub fn read_documents(path: &Path) -> Result<Vec<(PathBuf, Document)>, LoadError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Read { path, source }
    };
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        files = entries.map_err(read_error(path))?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
    }
    let mut documents: Vec<(PathBuf, Document)> = Vec::with_capacity(files.len());
    let mut positions: HashMap<String, usize> = HashMap::new();
    for path in files {
        let json = fs::read(&path).map_err(read_error(&path))?;
        let document = match Document::from_json(&json) {
            Ok(document) => document,
            Err(source) => return Err(LoadError::Document { path, source }),
        };
        match positions.get(document.id()).map(|position| &documents[*position].1) {
            Some(known) if *known == document => {}
            Some(_) => return Err(LoadError::Conflict { path, did: document.id().to_owned() }),
            None => {
                positions.insert(document.id().to_owned(), documents.len());
                documents.push((path, document));
            }
        }
    }
    Ok(documents)
}
