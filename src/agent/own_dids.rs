//! Our DIDs. The agent knows them by their documents, even while their tokens are unavailable.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;

use super::canonical_did::canonical_did;
use crate::{
    did::{
        Document, Relationship, did_of,
        peer::short_form,
        webvh::{self, OwnLog},
    },
    didcomm::Identities,
    keys::PublicKey,
    secrets::{KeyState, Secrets},
};

/// Our DIDs, and the tokens that hold their keys.
pub struct OwnDids {
    secrets: Arc<dyn Secrets>,
    documents: watch::Sender<Arc<Documents>>,
    identities: watch::Sender<Arc<Identities>>,
}

/// The documents of our DIDs.
#[derive(Default, Clone)]
struct Documents {
    all: Vec<Document>,
    /// The position in `all`, by each name of a DID.
    by_name: HashMap<String, usize>,
    /// The DIDs that have rotated and whose overlap is over. Messages to them are not read.
    retired: Vec<String>,
    /// The log of each did:webvh, by its path.
    logs: HashMap<String, String>,
    /// The DIDs that are ours only if a token holds one of their keys. Some of them belong to others.
    candidates: Vec<String>,
}

/// The documents of an agent's DIDs, at the start and after a reload.
#[derive(Debug, Clone, Default)]
pub struct OwnDocuments {
    /// The documents of DIDs that were created here, newest first. They are ours in any case.
    pub created: Vec<Document>,
    /// Documents that are ours only if a token holds one of their keys.
    pub candidates: Vec<Document>,
    /// The logs of our did:webvh DIDs.
    pub logs: Vec<OwnLog>,
}

impl OwnDids {
    /// Makes the set of our DIDs from these documents. `secrets` makes the private-key operations of their keys.
    pub fn new(secrets: Arc<dyn Secrets>, documents: OwnDocuments) -> Self {
        let documents = Documents::new(documents);
        let (identities, _) = Identities::with_missing_keys(secrets.clone(), documents.all.clone());
        Self {
            secrets,
            documents: watch::Sender::new(Arc::new(documents)),
            identities: watch::Sender::new(Arc::new(identities)),
        }
    }

    /// Returns the private-key operations of our DIDs, and the states of their keys.
    pub fn secrets(&self) -> &Arc<dyn Secrets> {
        &self.secrets
    }

    /// Returns our DIDs. Each has only the keys that a token has shown.
    pub fn identities(&self) -> Arc<Identities> {
        self.identities.borrow().clone()
    }

    /// Returns our DIDs, each once, in the order of their documents.
    pub fn dids(&self) -> Vec<String> {
        let documents = self.documents.borrow();
        self.own(&documents).map(|document| document.id().to_owned()).collect()
    }

    /// Returns the document of one of our DIDs, by any of its names.
    pub fn document(&self, did: &str) -> Option<Document> {
        let documents = self.documents.borrow();
        documents.find(did).filter(|document| self.is_own(&documents, document)).cloned()
    }

    /// Returns the log of our did:webvh that is served at this path.
    pub fn log(&self, path: &str) -> Option<String> {
        self.documents.borrow().logs.get(path).cloned()
    }

    /// Returns our DID and the key agreement key that a recipient's `kid` names. `None` if the DID is not ours or is
    /// retired, or has no such key.
    pub fn recipient(&self, kid: &str) -> Option<(String, PublicKey)> {
        let documents = self.documents.borrow();
        let document = documents.find(did_of(kid)?).filter(|document| self.is_own(&documents, document))?;
        if documents.is_retired(document) {
            return None;
        }
        let key = document.method(kid, Relationship::KeyAgreement)?.key.clone().ok()?;
        Some((document.id().to_owned(), key))
    }

    /// Whether a DID may be ours: there is a candidate document, and no token has shown one of its keys yet.
    pub fn may_be_own(&self, did: &str) -> bool {
        let documents = self.documents.borrow();
        documents.find(did).is_some_and(|document| !self.is_own(&documents, document))
    }

    /// Replaces the documents.
    pub fn replace(&self, documents: OwnDocuments) {
        let retired = self.documents.borrow().retired.clone();
        self.documents.send_replace(Arc::new(Documents { retired, ..Documents::new(documents) }));
        self.refresh();
    }

    /// Returns the names of our DIDs that are reached by one of these routing DIDs: a service's endpoint is a routing
    /// DID, or uses a routing key of one. Both names of a did:peer:4 are returned, since a peer may write to either.
    pub fn routed_through(&self, routing_dids: &[String]) -> Vec<String> {
        let documents = self.documents.borrow();
        let is_routing = |uri: &str| {
            did_of(uri).is_some_and(|did| routing_dids.iter().any(|it| canonical_did(it) == canonical_did(did)))
        };
        let is_routed = |document: &&Document| {
            let mut endpoints = document.didcomm_services().flat_map(|service| &service.endpoints);
            endpoints
                .any(|endpoint| is_routing(&endpoint.uri) || endpoint.routing_keys.iter().any(|key| is_routing(key)))
        };
        let routed = self.own_active(&documents).filter(is_routed);
        let names = routed.flat_map(|document| [Some(document.id()), short_form(document.id())]);
        names.flatten().map(str::to_owned).collect()
    }

    /// Sets the retired DIDs: messages to them are not read. Returns whether the set has changed.
    pub fn retire(&self, dids: Vec<String>) -> bool {
        self.documents.send_if_modified(|documents| {
            let is_changed = documents.retired != dids;
            if is_changed {
                *documents = Arc::new(Documents { retired: dids, ..(**documents).clone() });
            }
            is_changed
        })
    }

    /// Looks up again which of our keys the tokens hold.
    pub fn refresh(&self) {
        let all = self.documents.borrow().all.clone();
        let (identities, _) = Identities::with_missing_keys(self.secrets.clone(), all);
        self.identities.send_replace(Arc::new(identities));
    }

    /// Returns the DID URLs of the methods in our documents whose keys no token has shown.
    pub fn missing_keys(&self) -> Vec<String> {
        let documents = self.documents.borrow().clone();
        let own: Vec<Document> = self.own(&documents).cloned().collect();
        Identities::with_missing_keys(self.secrets.clone(), own).1
    }

    /// Returns the key agreement keys of our DIDs that a token is ready to use. Retired DIDs are left out.
    pub fn ready_agreement_keys(&self) -> Vec<PublicKey> {
        let held = self.secrets.keys().borrow().clone();
        let is_ready = |key: &PublicKey| held.get(key).is_some_and(|held| held.state == KeyState::Ready);
        self.agreement_keys().into_iter().filter(is_ready).collect()
    }

    /// Returns the keys of this DID that no other of our DIDs has.
    pub fn keys_of_only(&self, did: &str) -> Vec<PublicKey> {
        let documents = self.documents.borrow();
        documents.find(did).map(|document| document.own_keys(&documents.all)).unwrap_or_default()
    }

    fn agreement_keys(&self) -> Vec<PublicKey> {
        let documents = self.documents.borrow();
        let methods = self.own_active(&documents).flat_map(|document| document.methods(Relationship::KeyAgreement));
        let mut keys: Vec<PublicKey> = Vec::new();
        for key in methods.filter_map(|method| method.key.as_ref().ok()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    fn is_own(&self, documents: &Documents, document: &Document) -> bool {
        let is_candidate = documents.candidates.iter().any(|did| did == document.id());
        !is_candidate || self.identities.borrow().document(document.id()).is_some()
    }

    fn own<'a>(&'a self, documents: &'a Documents) -> impl Iterator<Item = &'a Document> {
        documents.all.iter().filter(|document| self.is_own(documents, document))
    }

    fn own_active<'a>(&'a self, documents: &'a Documents) -> impl Iterator<Item = &'a Document> {
        self.own(documents).filter(|document| !documents.is_retired(document))
    }
}

impl Documents {
    fn new(documents: OwnDocuments) -> Self {
        let by_path = |log: OwnLog| Some((webvh::path(log.document().id())?, log.text().to_owned()));
        let logs = documents.logs.into_iter().filter_map(by_path).collect();
        let candidates = documents.candidates.iter().map(|document| document.id().to_owned()).collect();
        let all: Vec<Document> = documents.created.into_iter().chain(documents.candidates).collect();
        let mut by_name = HashMap::new();
        for (position, document) in all.iter().enumerate() {
            for name in [Some(document.id()), short_form(document.id())].into_iter().flatten() {
                by_name.entry(name.to_owned()).or_insert(position);
            }
        }
        Self { all, by_name, retired: Vec::new(), logs, candidates }
    }

    fn find(&self, did: &str) -> Option<&Document> {
        let position = self.by_name.get(did).or_else(|| self.by_name.get(short_form(did)?))?;
        self.all.get(*position)
    }

    fn is_retired(&self, document: &Document) -> bool {
        self.retired.iter().any(|did| did == document.id())
    }
}
