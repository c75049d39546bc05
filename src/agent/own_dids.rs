//! Our DIDs. The agent knows them by their documents, even while their tokens are unavailable.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::{
    canonical_did::canonical_did,
    clock::Millis,
    published::{PublishedContent, PublishedDocuments},
    refused_documents::{RefusedDid, refused_documents},
    store::types::ready_hash,
};
use crate::{
    did::{Document, Relationship, did_of, peer::short_form, webvh::OwnLog},
    didcomm::Identities,
    keys::PublicKey,
    secrets::{HeldKeys, KeyState, Secrets},
};

/// Our DIDs, and the tokens that hold their keys.
pub struct OwnDids {
    secrets: Arc<dyn Secrets>,
    documents: watch::Sender<Arc<Documents>>,
    identities: watch::Sender<Arc<Identities>>,
    /// The DIDs whose documents have a key that no token proves, sorted.
    refused: watch::Sender<Arc<Vec<RefusedDid>>>,
    /// The refused DIDs as they were logged last.
    logged: Mutex<Arc<Vec<RefusedDid>>>,
    /// The ready keys, which are asked for with each message.
    ready: Mutex<Option<ReadyKeys>>,
    /// Whether the documents of other nodes were not read yet.
    expects_more: AtomicBool,
}

/// The key agreement keys of our DIDs that a token is ready to use, and what they were computed from.
struct ReadyKeys {
    held: HeldKeys,
    documents: Arc<Documents>,
    identities: Arc<Identities>,
    keys: Arc<[PublicKey]>,
}

/// The documents of our DIDs.
#[derive(Default, Clone)]
struct Documents {
    all: Vec<Document>,
    /// The position in `all`, by each name of a DID.
    by_name: HashMap<String, usize>,
    /// The DIDs that have rotated and whose overlap is over. Messages to them are not read.
    retired: HashSet<String>,
    /// The documents and logs that the public side publishes.
    published: Arc<PublishedDocuments>,
    /// The DIDs that are ours only if a token holds one of their keys. Some of them belong to others.
    candidates: HashSet<String>,
    /// When DIDs were created, in milliseconds since 1970, by the ids of their documents.
    created_at: HashMap<String, Millis>,
}

/// The documents of an agent's DIDs, at the start and after a reload.
#[derive(Debug, Clone, Default)]
pub struct OwnDocuments {
    /// The documents of DIDs that were created here. They are ours in any case.
    pub created: Vec<Document>,
    /// Documents that are ours only if a token holds one of their keys.
    pub candidates: Vec<Document>,
    /// The logs of our did:webvh DIDs.
    pub logs: Vec<OwnLog>,
    /// When DIDs were created, by the ids of their documents, in milliseconds since 1970. The newest DID comes first. Then come
    /// those that are not here, in the order of their documents.
    pub created_at: HashMap<String, Millis>,
    /// The texts of the documents and logs that were retired here. With several agents on one store, no agent uses them any
    /// more.
    pub retired: Vec<String>,
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
            refused: watch::Sender::default(),
            logged: Mutex::default(),
            ready: Mutex::new(None),
            expects_more: AtomicBool::new(false),
        }
    }

    /// Returns our DIDs that are refused, because a token has shown that a key of the document is not proved. They are
    /// not published, and messages to them are not accepted. Messages that were accepted before are opened.
    pub fn refused(&self) -> Arc<Vec<RefusedDid>> {
        self.refused.borrow().clone()
    }

    /// Logs the DIDs that are refused, and those that no longer are, since the last call.
    pub(super) fn log_refused(&self) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.refused();
        let before = std::mem::replace(&mut *logged, now.clone());
        for RefusedDid { did, keys } in now.iter().filter(|refused| find(&before, &refused.did) != Some(refused)) {
            for key in keys {
                tracing::error!(%did, id = key.id, reason = key.why, "DID refused: a key of its document is not proved");
            }
        }
        for RefusedDid { did, .. } in before.iter().filter(|refused| find(&now, &refused.did).is_none()) {
            tracing::warn!(%did, "DID no longer refused");
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
        self.find_own(&documents, did).cloned()
    }

    /// Returns one of our DIDs as its document names it, by any of its names. This costs less than its document.
    pub fn find_did(&self, did: &str) -> Option<String> {
        let documents = self.documents.borrow();
        self.find_own(&documents, did).map(|document| document.id().to_owned())
    }

    /// Returns the document of our did:web, or the log of our did:webvh, that is published at this path for this `Host`.
    pub fn published(&self, host: &str, path: &str) -> Option<PublishedContent> {
        let documents = self.documents.borrow();
        let is_own = |did: &str| documents.find(did).is_some_and(|document| self.is_own(&documents, document));
        documents.published.find(host, path, is_own)
    }

    /// Returns when one of our DIDs was created, in milliseconds since 1970, if that is known.
    pub fn created_at(&self, did: &str) -> Option<Millis> {
        let documents = self.documents.borrow();
        self.find_own(&documents, did).and_then(|document| documents.created_at.get(document.id()).copied())
    }

    /// Returns the log of one of our did:webvh.
    pub fn log(&self, did: &str) -> Option<String> {
        let documents = self.documents.borrow();
        self.find_own(&documents, did).and_then(|document| documents.published.log(document.id()))
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

    /// Has the tokens searched for the key agreement key of our documents that a recipient's `kid` names, if no token has
    /// shown the key.
    pub fn look_for(&self, kid: &str) {
        let documents = self.documents.borrow();
        let Some(document) = did_of(kid).and_then(|did| documents.find(did)) else { return };
        if let Some(Ok(key)) = document.method(kid, Relationship::KeyAgreement).map(|method| method.key.as_ref()) {
            self.secrets.look_for(key);
        }
    }

    /// Whether a DID may be ours later: there is a candidate document, and no token has shown one of its keys yet; or its
    /// document is refused; or the documents of other nodes were not read yet.
    pub fn may_be_own(&self, did: &str) -> bool {
        let documents = self.documents.borrow();
        match documents.find(did) {
            Some(document) => !self.is_own(&documents, document),
            None => self.expects_more.load(Ordering::SeqCst),
        }
    }

    /// Sets whether there may be more of our DIDs, because the documents of other nodes were not read yet.
    pub(super) fn expect_more(&self, expects_more: bool) {
        self.expects_more.store(expects_more, Ordering::SeqCst);
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
    pub fn retire(&self, dids: HashSet<String>) -> bool {
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
        let mut refused = refused_documents(&self.secrets.keys().borrow(), &all);
        refused.sort_by(|one, other| one.did.cmp(&other.did));
        self.refused.send_replace(Arc::new(refused));
        let (identities, _) = Identities::with_missing_keys(self.secrets.clone(), all);
        self.identities.send_replace(Arc::new(identities));
    }

    /// Returns the DID URLs of all methods in our documents.
    pub(super) fn key_ids(&self) -> HashSet<String> {
        let documents = self.documents.borrow();
        documents.all.iter().flat_map(|document| document.all_methods()).map(|method| method.id.clone()).collect()
    }

    /// Returns the DID URLs of the methods in our documents whose keys no token has shown, also those of refused DIDs.
    pub fn missing_keys(&self) -> Vec<String> {
        let documents = self.documents.borrow().clone();
        let held = documents.all.iter().filter(|document| self.is_held(&documents, document));
        let own: Vec<Document> = held.cloned().collect();
        Identities::with_missing_keys(self.secrets.clone(), own).1
    }

    /// Returns the key agreement keys of our DIDs that a token is ready to use, each once. Retired DIDs are left out.
    /// They are computed anew only after a key or a document has changed.
    pub fn ready_agreement_keys(&self) -> Arc<[PublicKey]> {
        let held = self.secrets.keys().borrow().clone();
        let (documents, identities) = (self.documents.borrow().clone(), self.identities());
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = |ready: &&ReadyKeys| {
            ready.held.is_same(&held)
                && Arc::ptr_eq(&ready.documents, &documents)
                && Arc::ptr_eq(&ready.identities, &identities)
        };
        if let Some(ready) = ready.as_ref().filter(is_current) {
            return ready.keys.clone();
        }
        let is_ready = |key: &&PublicKey| held.get(key).is_some_and(|held| held.state == KeyState::Ready);
        // Those of refused DIDs too: they open the store, and the messages that were accepted before.
        let usable = documents.all.iter().filter(|document| self.is_held(&documents, document));
        let methods = usable
            .filter(|document| !documents.is_retired(document))
            .flat_map(|document| document.methods(Relationship::KeyAgreement));
        let mut known = HashSet::new();
        let keys = methods.filter_map(|method| method.key.as_ref().ok()).filter(is_ready);
        let keys: Arc<[PublicKey]> = keys.filter(|key| known.insert(*key)).cloned().collect();
        *ready = Some(ReadyKeys { held, documents: documents.clone(), identities, keys: keys.clone() });
        keys
    }

    /// Returns the [hashes](ready_hash) of the key agreement keys of our DIDs that a token is ready to use, and of the DIDs that
    /// have one of them. Those of retired DIDs are among them, since messages may wait that were accepted before.
    pub fn ready_hashes(&self) -> BTreeSet<i64> {
        let (held, documents) = (self.secrets.keys().borrow().clone(), self.documents.borrow().clone());
        let is_ready = |key: &&PublicKey| held.get(key).is_some_and(|held| held.state == KeyState::Ready);
        let mut hashes = BTreeSet::new();
        for document in documents.all.iter().filter(|document| self.is_held(&documents, document)) {
            let methods = document.methods(Relationship::KeyAgreement);
            for key in methods.filter_map(|method| method.key.as_ref().ok()).filter(is_ready) {
                hashes.extend([ready_hash(&key.to_multikey()), ready_hash(&canonical_did(document.id()))]);
            }
        }
        hashes
    }

    /// Reports changes of our DIDs and of their keys, after they were looked up again.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Identities>> {
        self.identities.subscribe()
    }

    /// Returns the keys of this DID that no other of our DIDs has.
    pub fn keys_of_only(&self, did: &str) -> Vec<PublicKey> {
        let documents = self.documents.borrow();
        documents.find(did).map(|document| document.own_keys(&documents.all)).unwrap_or_default()
    }

    fn find_own<'a>(&self, documents: &'a Documents, did: &str) -> Option<&'a Document> {
        documents.find(did).filter(|document| self.is_own(documents, document))
    }

    /// Whether the DID is ours, and not refused.
    fn is_own(&self, documents: &Documents, document: &Document) -> bool {
        self.is_held(documents, document) && find(&self.refused.borrow(), document.id()).is_none()
    }

    /// Whether the DID was made here, or a token holds one of its keys.
    fn is_held(&self, documents: &Documents, document: &Document) -> bool {
        !documents.candidates.contains(document.id()) || self.identities.borrow().document(document.id()).is_some()
    }

    fn own<'a>(&'a self, documents: &'a Documents) -> impl Iterator<Item = &'a Document> {
        documents.all.iter().filter(|document| self.is_own(documents, document))
    }

    fn own_active<'a>(&'a self, documents: &'a Documents) -> impl Iterator<Item = &'a Document> {
        self.own(documents).filter(|document| !documents.is_retired(document))
    }
}

/// Finds a DID among the refused ones, which are sorted. This is asked for with each message.
fn find<'a>(refused: &'a [RefusedDid], did: &str) -> Option<&'a RefusedDid> {
    let position = refused.binary_search_by(|refused| refused.did.as_str().cmp(did)).ok()?;
    refused.get(position)
}

impl Documents {
    fn new(documents: OwnDocuments) -> Self {
        let candidates = documents.candidates.iter().map(|document| document.id().to_owned()).collect();
        let mut all: Vec<Document> = documents.created.into_iter().chain(documents.candidates).collect();
        all.sort_by_key(|document| Reverse(documents.created_at.get(document.id()).copied()));
        let mut by_name = HashMap::new();
        for (position, document) in all.iter().enumerate() {
            for name in [document.id(), &*canonical_did(document.id())] {
                by_name.entry(name.to_owned()).or_insert(position);
            }
        }
        let published = Arc::new(PublishedDocuments::new(&all, &documents.logs));
        let created_at = documents.created_at;
        Self { all, by_name, retired: HashSet::new(), published, candidates, created_at }
    }

    fn find(&self, did: &str) -> Option<&Document> {
        let position = self.by_name.get(did).or_else(|| self.by_name.get(&*canonical_did(did)))?;
        self.all.get(*position)
    }

    fn is_retired(&self, document: &Document) -> bool {
        self.retired.contains(document.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{did::peer::create_2, secrets::Keyring};

    /// With each message the agent asks for the ready keys, and looks up a recipient. That must not cost more with more
    /// DIDs, so the keys are computed only after a change.
    #[tokio::test]
    async fn ready_keys_are_computed_once() {
        let key = PublicKey::from_multikey("z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc").unwrap();
        let document = |number: usize| {
            let service = crate::did::Service::didcomm(format!("https://example.com/{number}"), []);
            create_2(&[(Relationship::KeyAgreement, key.clone())], &[service]).unwrap()
        };
        let created: Vec<Document> = (0..1000).map(document).collect();
        let keyring: Arc<dyn Secrets> = Arc::new(Keyring::builder().start().await.unwrap());
        let own = OwnDids::new(keyring, OwnDocuments { created: created.clone(), ..OwnDocuments::default() });
        let first = own.ready_agreement_keys();
        assert!((0..1000).all(|_| Arc::ptr_eq(&own.ready_agreement_keys(), &first)));
        own.refresh();
        let second = own.ready_agreement_keys();
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&own.ready_agreement_keys(), &second));
        let retired: HashSet<String> = created.iter().map(|document| document.id().to_owned()).collect();
        assert!(own.retire(retired.clone()) && !own.retire(retired));
        assert!(!Arc::ptr_eq(&own.ready_agreement_keys(), &second));
    }
}
