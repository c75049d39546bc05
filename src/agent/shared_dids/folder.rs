//! The documents of our DIDs in this node's folder.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::record::{DidContent, DidFile, digests_of, document_digest};
use crate::{
    agent::{
        clock::{Millis, now},
        own_dids::OwnDocuments,
    },
    did::{Document, webvh::OwnLog},
};

/// The documents of this node's folder, as they were read last.
#[derive(Default)]
pub struct Folder {
    documents: OwnDocuments,
    /// By DID. Without nodes, nobody asks for them.
    files: OnceLock<HashMap<String, File>>,
    /// The digests of what the folder of retired DIDs has.
    retired: OnceLock<HashSet<String>>,
    /// The DIDs whose files a person has changed here since they were merged last.
    changed: Mutex<HashSet<String>>,
}

/// A document in the folder.
struct File {
    document: usize,
    log: Option<usize>,
    digest: String,
    created: Millis,
}

impl Folder {
    /// `changed` are DIDs whose files a person has changed.
    pub fn new(documents: OwnDocuments, changed: HashSet<String>) -> Self {
        Self { changed: Mutex::new(changed), documents, ..Self::default() }
    }

    fn by_did(&self) -> &HashMap<String, File> {
        self.files.get_or_init(|| {
            let documents = &self.documents;
            let logs: HashMap<&str, usize> =
                documents.logs.iter().enumerate().map(|(position, log)| (log.document().id(), position)).collect();
            let file = |(position, document): (usize, &Document)| {
                let log = logs.get(document.id()).copied();
                let created = documents.created_at.get(document.id()).copied().unwrap_or_else(now);
                let digest = match log {
                    Some(_) => content(documents, position, log).digest(),
                    None => document_digest(document.as_value()),
                };
                (document.id().to_owned(), File { document: position, log, digest, created })
            };
            documents.created.iter().enumerate().map(file).collect()
        })
    }

    /// The documents as they were read.
    pub fn documents(&self) -> &OwnDocuments {
        &self.documents
    }

    /// Returns the digest of a DID's document or log, if the folder has it.
    pub fn digest(&self, did: &str) -> Option<&str> {
        self.by_did().get(did).map(|file| &*file.digest)
    }

    /// Returns what the folder has of its DIDs, each with the DID.
    pub fn files(&self) -> impl Iterator<Item = (&str, impl FnOnce() -> DidFile)> {
        self.by_did().iter().map(|(did, file)| {
            let read = || DidFile {
                content: content(&self.documents, file.document, file.log),
                digest: file.digest.clone(),
                created: file.created,
                is_changed: self.lock_changed().contains(did),
            };
            (&**did, read)
        })
    }

    /// Returns the document of a DID, and its log if it has one.
    pub fn document(&self, did: &str) -> Option<(&Document, Option<&OwnLog>)> {
        let file = self.by_did().get(did)?;
        Some((&self.documents.created[file.document], file.log.map(|log| &self.documents.logs[log])))
    }

    /// Whether the folder of retired DIDs has a document or log with this digest, and the folder has none of the DID.
    pub fn has_retired(&self, did: &str, digest: &str) -> bool {
        let retired =
            self.retired.get_or_init(|| self.documents.retired.iter().flat_map(|text| digests_of(text)).collect());
        retired.contains(digest) && !self.by_did().contains_key(did)
    }

    /// Returns the DIDs whose files a person has changed since they were merged.
    pub fn changed(&self) -> HashSet<String> {
        self.lock_changed().clone()
    }

    /// Records that all files are merged.
    pub fn note_merged(&self) {
        self.lock_changed().clear();
    }

    fn lock_changed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn content(documents: &OwnDocuments, document: usize, log: Option<usize>) -> DidContent {
    match log {
        Some(log) => DidContent::Log(documents.logs[log].text().to_owned()),
        None => DidContent::Document(documents.created[document].as_value().to_string()),
    }
}
