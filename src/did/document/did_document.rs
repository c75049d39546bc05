//! A DID document.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::Value;

use super::{error::DocumentError, method::VerificationMethod, relationship::Relationship, service::Service};
use crate::{
    did::{
        canonical::{is_same_did, with_capital_escapes},
        peer::has_legacy_fragments,
        shorten::shortened,
        url::did_of,
    },
    keys::PublicKey,
};

/// A DID document. Its ids are absolute, and its keys were checked. Clones share one content.
#[derive(Debug, Clone)]
pub struct Document(pub(super) Arc<Content>);

/// What is read from a document. A document of three keys takes some 10 KB, and an agent may have thousands.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) id: String,
    pub(super) also_known_as: Vec<String>,
    pub(super) methods: Vec<VerificationMethod>,
    /// For each relationship, in the order of [`Relationship::ALL`], the indices of its methods.
    pub(super) relationships: [Vec<usize>; 5],
    pub(super) services: Vec<Service>,
    pub(super) value: Value,
    /// The length of the JSON text, in bytes.
    pub(super) bytes: usize,
    /// The number of JSON values.
    pub(super) values: usize,
    /// Earlier names of the DID, proved by the log of a did:webvh. Their percent-encodings are in capital letters.
    pub(super) former_ids: HashSet<String>,
    /// How long the document may be cached, if its DID says so.
    pub(super) ttl: Option<Duration>,
}

impl Document {
    /// Returns the document if it [is about](Self::is_about) `did`. Every resolver has to check the `id` (DID Core section
    /// 7.1.1).
    ///
    /// # Errors
    /// [`DocumentError::WrongId`] if it is the document of another DID.
    pub fn require_id(self, did: &str) -> Result<Self, DocumentError> {
        if self.is_about(did) {
            return Ok(self);
        }
        Err(DocumentError::WrongId { requested: shortened(did), found: shortened(&self.0.id) })
    }

    /// The DID of the document.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Other names that the document claims for its subject, without proof. See [`is_about`](Self::is_about).
    pub fn also_known_as(&self) -> &[String] {
        &self.0.also_known_as
    }

    /// The document as JSON, unchanged.
    pub fn as_value(&self) -> &Value {
        &self.0.value
    }

    /// Adds what the log of a did:webvh says: the earlier names of the DID, and how long the document may be cached.
    pub(in crate::did) fn with_log(self, former_ids: Vec<String>, ttl: Option<Duration>) -> Self {
        let former_ids = former_ids.iter().map(|id| with_capital_escapes(id).into_owned()).collect();
        Self(Arc::new(Content { former_ids, ttl, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// How long the document may be cached, if its DID says so.
    pub(in crate::did) fn ttl(&self) -> Option<Duration> {
        self.0.ttl
    }

    /// An estimate of the memory that the document takes, in bytes.
    pub(in crate::did) fn memory_size(&self) -> usize {
        let methods = self.0.methods.iter().map(|method| method.id.len() + method.controller.len() + 400);
        // A JSON value takes up to 250 bytes, even if its text is short.
        // A set has room for up to twice as many names.
        let former_ids = self.0.former_ids.iter().map(|id| id.len() + 64);
        2 * self.0.bytes + 200 * self.0.values + methods.sum::<usize>() + former_ids.sum::<usize>()
    }

    /// The verification methods in a relationship, embedded or referenced, in the order of the document.
    pub fn methods(&self, relationship: Relationship) -> impl Iterator<Item = &VerificationMethod> {
        self.0.relationships[relationship as usize].iter().map(|index| &self.0.methods[*index])
    }

    /// All verification methods. A method that is in no relationship must not be used.
    pub fn all_methods(&self) -> &[VerificationMethod] {
        &self.0.methods
    }

    /// The keys of this document that none of the other documents has. `others` may contain this document.
    pub fn own_keys(&self, others: &[Document]) -> Vec<PublicKey> {
        let keys =
            |document: &Document| document.0.methods.iter().filter_map(|method| method.key.clone().ok()).collect();
        let others: Vec<PublicKey> =
            others.iter().filter(|document| document.id() != self.id()).flat_map(|it| -> Vec<_> { keys(it) }).collect();
        let own: Vec<PublicKey> = keys(self);
        own.into_iter().filter(|key| !others.contains(key)).collect()
    }

    /// The method with this absolute id, *if it is in the relationship*.
    ///
    /// The id may use any name that the document [is about](Self::is_about). For a `did:peer` 0 or 2, the fragment may
    /// also be the key itself or its first eight characters: libraries from before the clarifications of the
    /// specification write such fragments.
    pub fn method(&self, id: &str, relationship: Relationship) -> Option<&VerificationMethod> {
        if let Some(method) = self.methods(relationship).find(|method| method.id == id) {
            return Some(method);
        }
        let did = did_of(id)?;
        let fragment = id[did.len()..].strip_prefix('#')?;
        if !self.is_about(did) {
            return None;
        }
        let own = |method: &&VerificationMethod| {
            method.id.split_once('#').is_some_and(|(name, own)| own == fragment && self.is_about(name))
        };
        let legacy = |method: &&VerificationMethod| has_legacy_fragments(did) && method.has_legacy_fragment(fragment);
        self.methods(relationship).find(own).or_else(|| self.methods(relationship).find(legacy))
    }

    /// The services, in the order of the document.
    pub fn services(&self) -> &[Service] {
        &self.0.services
    }

    /// The `DIDCommMessaging` services that have an endpoint. Services and endpoints are in order of preference
    /// (DIDComm v2.1 "Service Endpoint").
    pub fn didcomm_services(&self) -> impl Iterator<Item = &Service> {
        self.0.services.iter().filter(|service| service.is_didcomm() && !service.endpoints.is_empty())
    }

    /// Whether `did` is the subject of this document: equal to `id`, with percent-encodings in either case; the other
    /// form of the same `did:peer:4`; or, if a resolver has verified the log of a `did:webvh`, an earlier name in the log.
    ///
    /// `alsoKnownAs` is *not* trusted: a document may claim any name there.
    pub fn is_about(&self, did: &str) -> bool {
        is_same_did(&self.0.id, did)
            || !self.0.former_ids.is_empty() && self.0.former_ids.contains(&*with_capital_escapes(did))
    }
}

/// Two documents are equal if their JSON is.
impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.0.value == other.0.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_content() {
        let document = Document::builder().build("did:web:a.example").unwrap();
        assert!(std::ptr::eq(document.as_value(), document.clone().as_value()));
    }

    #[test]
    fn former_names_are_found_with_escapes_in_either_case_and_take_memory() {
        let name = |port: &str, number: usize| format!("did:webvh:QmScid:a.example{port}:{number}");
        let document = Document::builder().build(&name("%3a1", 0)).unwrap();
        let size = document.memory_size();
        let former: Vec<String> = (1..1000).map(|number| name("%3a1", number)).collect();
        let names_size: usize = former.iter().map(String::len).sum();
        let document = document.with_log(former, None);
        for number in [0, 1, 500, 999] {
            assert!(document.is_about(&name("%3a1", number)) && document.is_about(&name("%3A1", number)), "{number}");
        }
        for other in [name("%3a1", 1000), name("%3a2", 1), name("%3A1", 1).to_ascii_uppercase()] {
            assert!(!document.is_about(&other), "{other}");
        }
        assert!(document.memory_size() > size + names_size);
    }
}
