//! Our own DIDs: their documents, and which key in a token each of their methods is.

use std::{collections::HashMap, sync::Arc};

use super::Error;
use crate::{
    did::{self, Document, Relationship, VerificationMethod},
    keys::PublicKey,
    secrets::{HeldKey, HeldKeys, KeyState, Secrets},
};

/// Our DIDs on top of [`Secrets`], which knows keys only.
///
/// A DID may have several documents: old versions are kept through a rotation, so that what was encrypted to an old key
/// is still read. The first one given is the DID's document of today.
#[derive(Clone)]
pub struct Identities {
    secrets: Arc<dyn Secrets>,
    held: tokio::sync::watch::Receiver<HeldKeys>,
    documents: HashMap<String, Arc<Document>>,
    keys: HashMap<String, OwnKey>,
}

/// A verification method of ours whose private key a token holds.
#[derive(Debug, Clone)]
pub struct OwnKey {
    /// Its DID URL, as the document writes it.
    pub kid: String,
    /// Its DID.
    pub did: String,
    /// Its public half, by which the token is asked.
    pub key: PublicKey,
    /// Whether it stands in `keyAgreement`.
    pub agreement: bool,
    /// Whether it stands in `authentication`.
    pub authentication: bool,
}

impl Identities {
    /// Our DIDs. Every key in `authentication` and `keyAgreement` of each document must be held by a token: an error
    /// names the one that is not.
    pub async fn new(
        secrets: impl Secrets + 'static,
        documents: impl IntoIterator<Item = Document>,
    ) -> Result<Self, Error> {
        let (identities, missing) = Self::partial(secrets, documents);
        match missing.into_iter().next() {
            Some(kid) => Err(Error::NoTokenHolds(kid)),
            None => Ok(identities),
        }
    }

    /// Our DIDs, with those methods that a token holds, and the ids of those that none does. A document none of whose
    /// methods is held is not ours and is left out.
    pub fn partial(
        secrets: impl Secrets + 'static,
        documents: impl IntoIterator<Item = Document>,
    ) -> (Self, Vec<String>) {
        let held = secrets.keys();
        let mut identities = Self { secrets: Arc::new(secrets), held, documents: HashMap::new(), keys: HashMap::new() };
        let missing = documents.into_iter().flat_map(|document| identities.add(document)).collect();
        (identities, missing)
    }

    /// Adds a document; returns the methods that no token holds.
    fn add(&mut self, document: Document) -> Vec<String> {
        let held = self.held.borrow().clone();
        let mut missing = Vec::new();
        let mut ours = false;
        for relationship in [Relationship::KeyAgreement, Relationship::Authentication] {
            for method in document.methods(relationship) {
                match own_key(&held, method, relationship) {
                    Some(key) => {
                        ours = true;
                        self.add_key(&document, method, key, relationship);
                    }
                    None if !missing.contains(&method.id) => missing.push(method.id.clone()),
                    None => {}
                }
            }
        }
        if ours {
            let document = Arc::new(document);
            for name in names(document.id()) {
                self.documents.entry(name.to_owned()).or_insert_with(|| document.clone());
            }
        }
        missing
    }

    fn add_key(
        &mut self,
        document: &Document,
        method: &VerificationMethod,
        key: PublicKey,
        relationship: Relationship,
    ) {
        for name in kids(document.id(), &method.id) {
            let own = self.keys.entry(name).or_insert_with(|| OwnKey {
                kid: method.id.clone(),
                did: document.id().to_owned(),
                key: key.clone(),
                agreement: false,
                authentication: false,
            });
            match relationship {
                Relationship::KeyAgreement => own.agreement = true,
                _ => own.authentication = true,
            }
        }
    }

    /// The tokens.
    pub fn secrets(&self) -> &dyn Secrets {
        &*self.secrets
    }

    /// The document of one of our DIDs. A did:peer:4 has two names.
    pub fn document(&self, did: &str) -> Option<&Arc<Document>> {
        self.documents.get(did)
    }

    /// The documents of our DIDs, in no order; that of a did:peer:4 once.
    pub fn documents(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.documents.iter().filter(|(name, document)| *name == document.id()).map(|(_, document)| document)
    }

    /// Our key with this DID URL, if it stands in the relationship. Of a did:peer:2, a fragment as libraries older than
    /// the clarifications write it is found too ([`Document::method`]).
    pub fn key(&self, kid: &str, relationship: Relationship) -> Option<&OwnKey> {
        let legacy = || self.keys.get(&self.document(did::did_of(kid)?)?.method(kid, relationship)?.id);
        self.keys.get(kid).or_else(legacy).filter(|own| match relationship {
            Relationship::KeyAgreement => own.agreement,
            Relationship::Authentication => own.authentication,
            _ => false,
        })
    }

    /// Our keys for a DID, or the one of a DID URL, that a token is ready to use, in the order of the document.
    pub(super) fn ready_keys(&self, did_or_kid: &str, relationship: Relationship) -> Vec<&OwnKey> {
        let own: Vec<&OwnKey> = match self.document(did_or_kid) {
            Some(document) => document.methods(relationship).filter_map(|it| self.key(&it.id, relationship)).collect(),
            None => self.key(did_or_kid, relationship).into_iter().collect(),
        };
        let held = self.held.borrow();
        own.into_iter().filter(|own| held.get(&own.key).is_some_and(|held| held.state == KeyState::Ready)).collect()
    }

    /// What its token says of a key.
    pub fn held(&self, key: &PublicKey) -> Option<HeldKey> {
        self.held.borrow().get(key).cloned()
    }
}

/// The method's key if a token holds it for what the relationship needs: found out now, not at the first message.
fn own_key(held: &HeldKeys, method: &VerificationMethod, relationship: Relationship) -> Option<PublicKey> {
    let key = method.key.as_ref().ok()?;
    let usage = held.get(key)?.usage;
    let fits = if relationship == Relationship::KeyAgreement { usage.agrees() } else { usage.signs() };
    fits.then(|| key.clone())
}

/// A DID and, of a did:peer:4 in long form, its short form: peers use either.
fn names(did: &str) -> impl Iterator<Item = &str> {
    let short = did::peer::short_form(did).filter(|short| *short != did);
    [Some(did), short].into_iter().flatten()
}

/// A method's id under each name of its DID. An id under a foreign DID, which a document may embed, stays as it is.
fn kids(did: &str, kid: &str) -> Vec<String> {
    match kid.strip_prefix(did) {
        Some(fragment) if fragment.starts_with('#') => names(did).map(|name| format!("{name}{fragment}")).collect(),
        _ => vec![kid.to_owned()],
    }
}
