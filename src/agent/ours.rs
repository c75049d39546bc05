//! Our DIDs, as a daemon has them: known by their documents, also while their tokens are away.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;

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

/// Our DIDs and the tokens behind them.
pub struct Ours {
    secrets: Arc<dyn Secrets>,
    documents: watch::Sender<Arc<Documents>>,
    identities: watch::Sender<Arc<Identities>>,
}

/// The documents of our DIDs, by each of their names.
#[derive(Default, Clone)]
struct Documents {
    all: Vec<Document>,
    by_name: HashMap<String, usize>,
    /// Those that have moved, and that nobody should write to any more.
    retired: Vec<String>,
    /// The logs of each did:webvh, by their paths.
    logs: HashMap<String, String>,
    /// Those that are ours only if a token holds a key of theirs: others' documents are among them.
    perhaps: Vec<String>,
}

/// The documents of our DIDs.
#[derive(Debug, Clone, Default)]
pub struct OwnDocuments {
    /// Made here: ours whether their token is there or not. The newest first.
    pub made: Vec<Document>,
    /// At hand: ours if a token holds a key of theirs.
    pub at_hand: Vec<Document>,
    /// The logs of those that are did:webvh.
    pub logs: Vec<OwnLog>,
}

impl Ours {
    /// Our DIDs by their documents.
    pub fn new(secrets: Arc<dyn Secrets>, documents: OwnDocuments) -> Self {
        let documents = Documents::new(documents);
        let (identities, _) = Identities::partial(secrets.clone(), documents.all.clone());
        Self {
            secrets,
            documents: watch::Sender::new(Arc::new(documents)),
            identities: watch::Sender::new(Arc::new(identities)),
        }
    }

    /// The tokens.
    pub fn secrets(&self) -> &Arc<dyn Secrets> {
        &self.secrets
    }

    /// Our DIDs with those keys that a token has shown.
    pub fn identities(&self) -> Arc<Identities> {
        self.identities.borrow().clone()
    }

    /// Our DIDs, each once, in the order they were given.
    pub fn dids(&self) -> Vec<String> {
        let documents = self.documents.borrow();
        documents.all.iter().filter(|document| self.has(&documents, document)).map(|it| it.id().to_owned()).collect()
    }

    /// The document of a DID of ours.
    pub fn document(&self, did: &str) -> Option<Document> {
        let documents = self.documents.borrow();
        documents.find(did).filter(|document| self.has(&documents, document)).cloned()
    }

    /// The log of a did:webvh of ours that is served at this path.
    pub fn log(&self, path: &str) -> Option<String> {
        self.documents.borrow().logs.get(path).cloned()
    }

    /// The DID of ours, and the key, that a key id of an envelope names.
    pub fn recipient(&self, kid: &str) -> Option<(String, PublicKey)> {
        let documents = self.documents.borrow();
        let document = documents.find(did_of(kid)?).filter(|document| self.has(&documents, document))?;
        if documents.retired.iter().any(|did| did == document.id()) {
            return None;
        }
        let key = document.method(kid, Relationship::KeyAgreement)?.key.clone().ok()?;
        Some((document.id().to_owned(), key))
    }

    /// Whether a document is that of a DID of ours.
    fn has(&self, documents: &Documents, document: &Document) -> bool {
        let perhaps = documents.perhaps.iter().any(|did| did == document.id());
        !perhaps || self.identities.borrow().document(document.id()).is_some()
    }

    /// Whether a DID may be ours, and no token has shown a key of it yet.
    pub fn is_undecided(&self, did: &str) -> bool {
        let documents = self.documents.borrow();
        documents.find(did).is_some_and(|document| !self.has(&documents, document))
    }

    /// Takes these documents for those there were.
    pub fn replace(&self, documents: OwnDocuments) {
        let retired = self.documents.borrow().retired.clone();
        self.documents.send_replace(Arc::new(Documents { retired, ..Documents::new(documents) }));
        self.refresh();
    }

    /// The names of our DIDs that a service puts behind one of these mediators' DIDs: its endpoint is that DID, or it has a
    /// routing key of it. Of a did:peer:4 both forms: a peer writes to either.
    pub fn behind(&self, routing: &[String]) -> Vec<String> {
        let documents = self.documents.borrow();
        let leads = |uri: &str| did_of(uri).is_some_and(|did| routing.iter().any(|it| canonical(it) == canonical(did)));
        let is_behind = |document: &&Document| {
            let mut endpoints = document.didcomm_services().flat_map(|service| &service.endpoints);
            endpoints.any(|endpoint| leads(&endpoint.uri) || endpoint.routing_keys.iter().any(|key| leads(key)))
        };
        let read = |document: &&Document| !documents.retired.iter().any(|did| did == document.id());
        let ours =
            documents.all.iter().filter(|document| self.has(&documents, document)).filter(read).filter(is_behind);
        let names = ours.flat_map(|document| [Some(document.id()), short_form(document.id())]);
        names.flatten().map(str::to_owned).collect()
    }

    /// Reads messages to these DIDs no more. Whether they were others before.
    pub fn retire(&self, dids: Vec<String>) -> bool {
        self.documents.send_if_modified(|documents| {
            let changed = documents.retired != dids;
            if changed {
                *documents = Arc::new(Documents { retired: dids, ..(**documents).clone() });
            }
            changed
        })
    }

    /// Looks again which keys the tokens hold.
    pub fn refresh(&self) {
        let all = self.documents.borrow().all.clone();
        let (identities, _) = Identities::partial(self.secrets.clone(), all);
        self.identities.send_replace(Arc::new(identities));
    }

    /// The methods of our documents whose keys no token has shown, by their ids.
    pub fn missing(&self) -> Vec<String> {
        let documents = self.documents.borrow().clone();
        let ours = documents.all.iter().filter(|document| self.has(&documents, document)).cloned();
        Identities::partial(self.secrets.clone(), ours).1
    }

    /// The key agreement keys of those of our DIDs that are read, whether their tokens are there or not.
    fn agreement_keys(&self) -> Vec<PublicKey> {
        let documents = self.documents.borrow();
        let read = |document: &&Document| !documents.retired.iter().any(|did| did == document.id());
        let ours = documents.all.iter().filter(|document| self.has(&documents, document)).filter(read);
        let methods = ours.flat_map(|document| document.methods(Relationship::KeyAgreement));
        let mut keys: Vec<PublicKey> = Vec::new();
        for key in methods.filter_map(|method| method.key.as_ref().ok()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Those of them that a token is ready to use.
    pub fn ready_agreement_keys(&self) -> Vec<PublicKey> {
        let held = self.secrets.keys().borrow().clone();
        let is_ready = |key: &PublicKey| held.get(key).is_some_and(|held| held.state == KeyState::Ready);
        self.agreement_keys().into_iter().filter(is_ready).collect()
    }

    /// The keys that of our DIDs this one alone has.
    pub fn only_of(&self, did: &str) -> Vec<PublicKey> {
        let documents = self.documents.borrow();
        documents.find(did).map(|own| own.own_keys(&documents.all)).unwrap_or_default()
    }

    /// Follows the tokens: keys that are shown later are ours from then on. It ends when the tokens do.
    pub async fn follow(&self) {
        let mut keys = self.secrets.keys();
        while keys.changed().await.is_ok() {
            keys.borrow_and_update();
            self.refresh();
        }
    }
}

impl Documents {
    fn new(documents: OwnDocuments) -> Self {
        let place = |log: OwnLog| Some((webvh::path(log.document().id())?, log.text().to_owned()));
        let logs = documents.logs.into_iter().filter_map(place).collect();
        let perhaps = documents.at_hand.iter().map(|document| document.id().to_owned()).collect();
        let all: Vec<Document> = documents.made.into_iter().chain(documents.at_hand).collect();
        let mut by_name = HashMap::new();
        for (place, document) in all.iter().enumerate() {
            for name in [Some(document.id()), short_form(document.id())].into_iter().flatten() {
                by_name.entry(name.to_owned()).or_insert(place);
            }
        }
        Self { all, by_name, retired: Vec::new(), logs, perhaps }
    }

    fn find(&self, did: &str) -> Option<&Document> {
        let place = self.by_name.get(did).or_else(|| self.by_name.get(short_form(did)?))?;
        self.all.get(*place)
    }
}

/// The name under which a DID is remembered: of a did:peer:4 the short form, else itself.
pub fn canonical(did: &str) -> &str {
    short_form(did).unwrap_or(did)
}
