//! Our own DIDs: their documents, and the key in a token for each verification method.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::error::Error;
use crate::{
    did::{self, Document, Relationship, VerificationMethod},
    keys::{Curve, PublicKey},
    secrets::{HeldKey, HeldKeys, KeyState, Secrets},
};

/// Our own DIDs: their documents, joined with the keys of [`Secrets`], which knows no DIDs.
///
/// A DID may have several documents: keep the old versions after a key rotation, so that messages to an old key can
/// still be read. The first document of a DID is the current one.
#[derive(Clone)]
pub struct Identities {
    secrets: Arc<dyn Secrets>,
    held: tokio::sync::watch::Receiver<HeldKeys>,
    documents: HashMap<String, Arc<Document>>,
    keys: HashMap<String, OwnKey>,
    /// The names of the documents that were left out, and of the methods whose keys are in no token.
    missing: HashSet<String>,
}

/// One of our verification methods, whose private key is in a token.
#[derive(Debug, Clone)]
pub struct OwnKey {
    /// The DID URL, as in the document.
    pub kid: String,
    /// The DID.
    pub did: String,
    /// The public key, which names the private key in the token.
    pub key: PublicKey,
    /// Whether the method is in `keyAgreement`.
    pub agreement: bool,
    /// Whether the method is in `authentication`.
    pub authentication: bool,
}

impl Identities {
    /// Joins the documents of our DIDs with the keys that `secrets` holds.
    ///
    /// # Errors
    /// [`Error::KeyNotHeld`] if a key in `authentication` or `keyAgreement` of a document is in no token.
    pub async fn new(
        secrets: impl Secrets + 'static,
        documents: impl IntoIterator<Item = Document>,
    ) -> Result<Self, Error> {
        let (identities, missing) = Self::with_missing_keys(secrets, documents);
        match missing.into_iter().next() {
            Some(kid) => Err(Error::KeyNotHeld(kid)),
            None => Ok(identities),
        }
    }

    /// Like [`new`](Self::new), but allows keys that no token holds. Also returns the ids of the verification methods
    /// with these keys. A document is left out if none of its keys is in a token.
    pub fn with_missing_keys(
        secrets: impl Secrets + 'static,
        documents: impl IntoIterator<Item = Document>,
    ) -> (Self, Vec<String>) {
        let held = secrets.keys();
        let secrets = Arc::new(secrets);
        let mut identities =
            Self { secrets, held, documents: HashMap::new(), keys: HashMap::new(), missing: HashSet::new() };
        let missing = documents.into_iter().flat_map(|document| identities.add(document)).collect();
        (identities, missing)
    }

    /// Adds a document. Returns the ids of the methods whose keys are in no token.
    fn add(&mut self, document: Document) -> Vec<String> {
        let held = self.held.borrow().clone();
        let mut missing = Vec::new();
        let mut any_held = false;
        for relationship in [Relationship::KeyAgreement, Relationship::Authentication] {
            for method in document.methods(relationship) {
                match own_key(&held, method, relationship) {
                    Some(key) => {
                        any_held = true;
                        self.add_key(&document, method, key, relationship);
                    }
                    None if !missing.contains(&method.id) => missing.push(method.id.clone()),
                    None => {}
                }
            }
        }
        self.missing.extend(missing.iter().flat_map(|kid| kids(document.id(), kid)));
        if !any_held {
            self.missing.extend(names(document.id()).map(Cow::into_owned));
        } else {
            let document = Arc::new(document);
            for name in names(document.id()) {
                self.documents.entry(name.into_owned()).or_insert_with(|| document.clone());
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

    /// The implementation of the private-key operations.
    pub fn secrets(&self) -> &dyn Secrets {
        &*self.secrets
    }

    /// The current document of one of our DIDs. A did:peer:4 is found by its long and its short form.
    pub fn document(&self, did: &str) -> Option<&Arc<Document>> {
        self.documents.get(did).or_else(|| self.documents.get(&*did::canonical_did(did)))
    }

    /// The current documents of our DIDs in no particular order. The document of a did:peer:4 comes once.
    pub fn documents(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.documents.iter().filter(|(name, document)| *name == document.id()).map(|(_, document)| document)
    }

    /// Our key with this DID URL, if it is in the relationship. For a did:peer:2, the key ids of older libraries are
    /// found too ([`Document::method`]).
    pub fn key(&self, kid: &str, relationship: Relationship) -> Option<&OwnKey> {
        let legacy = || self.keys.get(&self.document(did::did_of(kid)?)?.method(kid, relationship)?.id);
        self.keys.get(kid).or_else(legacy).filter(|own| match relationship {
            Relationship::KeyAgreement => own.agreement,
            Relationship::Authentication => own.authentication,
            _ => false,
        })
    }

    /// The error for a DID or a key id without a ready key: [`Error::NoReadyKey`] if it is ours.
    pub(super) fn no_ready_key(&self, name: &str, relationship: Relationship) -> Error {
        let is_ours = match self.document(name) {
            Some(document) => document.methods(relationship).next().is_some(),
            None => self.key(name, relationship).is_some() || self.missing.contains(name),
        };
        let (name, relationship) = (name.to_owned(), relationship.name());
        match is_ours {
            true => Error::NoReadyKey { name, relationship },
            false => Error::NotOurs { name, relationship },
        }
    }

    /// Whether the document of a DID, or the key id, has a key on a curve that fits the relationship, ready or not.
    pub(super) fn has_curve(&self, did_or_kid: &str, relationship: Relationship, curve: Curve) -> bool {
        let is_on_curve = |method: &VerificationMethod| method.key.as_ref().is_ok_and(|key| key.curve() == curve);
        match self.document(did_or_kid) {
            Some(document) => document.methods(relationship).any(is_on_curve),
            None => self.key(did_or_kid, relationship).is_some_and(|own| own.key.curve() == curve),
        }
    }

    /// Our keys of a DID, in the order of the document, or the key of a DID URL. Only keys that their token can use now
    /// are returned.
    pub(super) fn ready_keys(&self, did_or_kid: &str, relationship: Relationship) -> Vec<&OwnKey> {
        let own: Vec<&OwnKey> = match self.document(did_or_kid) {
            Some(document) => document.methods(relationship).filter_map(|it| self.key(&it.id, relationship)).collect(),
            None => self.key(did_or_kid, relationship).into_iter().collect(),
        };
        let held = self.held.borrow();
        // A message from a key that does not do ECDH-1PU cannot be authcrypted.
        let sends = |held: &HeldKey| relationship != Relationship::KeyAgreement || !held.anoncrypt_only;
        let is_ready = |held: &HeldKey| held.state == KeyState::Ready && sends(held);
        own.into_iter().filter(|own| held.get(&own.key).is_some_and(is_ready)).collect()
    }

    /// The token's description of a key. `None` if no token holds the key.
    pub fn held_key(&self, key: &PublicKey) -> Option<HeldKey> {
        self.held.borrow().get(key).cloned()
    }
}

/// The key of a method, if a token holds it and its usage fits the relationship.
fn own_key(held: &HeldKeys, method: &VerificationMethod, relationship: Relationship) -> Option<PublicKey> {
    let key = method.key.as_ref().ok()?;
    let usage = held.get(key)?.usage;
    let fits =
        if relationship == Relationship::KeyAgreement { usage.allows_key_agreement() } else { usage.allows_signing() };
    fits.then(|| key.clone())
}

/// The DID, and its canonical form if that is another: for the long form of a did:peer:4 the short form. Peers use both.
fn names(did: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let canonical = Some(did::canonical_did(did)).filter(|canonical| canonical != did);
    [Some(Cow::Borrowed(did)), canonical].into_iter().flatten()
}

/// The id of a method under each name of its DID. An id under another DID, which a document may contain,
/// is not changed.
fn kids(did: &str, kid: &str) -> Vec<String> {
    match kid.strip_prefix(did) {
        Some(fragment) if fragment.starts_with('#') => names(did).map(|name| format!("{name}{fragment}")).collect(),
        _ => vec![kid.to_owned()],
    }
}
