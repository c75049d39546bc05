//! A DID document.

use serde_json::Value;

use super::{error::DocumentError, method::VerificationMethod, relationship::Relationship, service::Service};
use crate::{
    did::{
        peer::{has_legacy_fragments, short_form},
        shorten::shortened,
        url::did_of,
    },
    keys::PublicKey,
};

/// A DID document. Its ids are absolute, and its keys were checked.
#[derive(Debug, Clone)]
pub struct Document {
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
}

impl Document {
    /// Returns the document if its `id` is `did`. Every resolver has to check the `id` (DID Core section 7.1.1).
    ///
    /// # Errors
    /// [`DocumentError::WrongId`] if it is the document of another DID.
    pub fn require_id(self, did: &str) -> Result<Self, DocumentError> {
        if self.id == did {
            return Ok(self);
        }
        Err(DocumentError::WrongId { requested: shortened(did), found: shortened(&self.id) })
    }

    /// The DID of the document.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Other names that the document claims for its subject, without proof. See [`is_about`](Self::is_about).
    pub fn also_known_as(&self) -> &[String] {
        &self.also_known_as
    }

    /// The document as JSON, unchanged.
    pub fn as_value(&self) -> &Value {
        &self.value
    }

    /// An estimate of the memory that the document takes, in bytes.
    pub(in crate::did) fn memory_size(&self) -> usize {
        let methods = self.methods.iter().map(|method| method.id.len() + method.controller.len() + 400);
        // A JSON value takes up to 250 bytes, even if its text is short.
        2 * self.bytes + 200 * self.values + methods.sum::<usize>()
    }

    /// The verification methods in a relationship, embedded or referenced, in the order of the document.
    pub fn methods(&self, relationship: Relationship) -> impl Iterator<Item = &VerificationMethod> {
        self.relationships[relationship as usize].iter().map(|index| &self.methods[*index])
    }

    /// All verification methods. A method that is in no relationship must not be used.
    pub fn all_methods(&self) -> &[VerificationMethod] {
        &self.methods
    }

    /// The keys of this document that none of the other documents has. `others` may contain this document.
    pub fn own_keys(&self, others: &[Document]) -> Vec<PublicKey> {
        let keys = |document: &Document| document.methods.iter().filter_map(|method| method.key.clone().ok()).collect();
        let others: Vec<PublicKey> =
            others.iter().filter(|document| document.id() != self.id()).flat_map(|it| -> Vec<_> { keys(it) }).collect();
        let own: Vec<PublicKey> = keys(self);
        own.into_iter().filter(|key| !others.contains(key)).collect()
    }

    /// The method with this absolute id, *if it is in the relationship*.
    ///
    /// For a `did:peer:4` the id may use the long or the short form of the DID. For a `did:peer` 0 or 2, the fragment
    /// may also be the key itself or its first eight characters: libraries from before the clarifications of the
    /// specification write such fragments.
    pub fn method(&self, id: &str, relationship: Relationship) -> Option<&VerificationMethod> {
        if let Some(method) = self.methods(relationship).find(|method| method.id == id) {
            return Some(method);
        }
        let did = did_of(id)?;
        let fragment = id[did.len()..].strip_prefix('#')?;
        if did == self.id {
            let legacy = has_legacy_fragments(did);
            return legacy.then(|| self.methods(relationship).find(|method| method.has_legacy_fragment(fragment)))?;
        }
        let own = |method: &&VerificationMethod| {
            method.id.strip_prefix(&self.id).and_then(|rest| rest.strip_prefix('#')) == Some(fragment)
        };
        self.is_about(did).then(|| self.methods(relationship).find(own))?
    }

    /// The services, in the order of the document.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The `DIDCommMessaging` services that have an endpoint. Services and endpoints are in order of preference
    /// (DIDComm v2.1 "Service Endpoint").
    pub fn didcomm_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| service.is_didcomm() && !service.endpoints.is_empty())
    }

    /// Whether `did` is the subject of this document: equal to `id`, or the other form of the same `did:peer:4`.
    ///
    /// `alsoKnownAs` is *not* trusted: a document may claim any name there.
    pub fn is_about(&self, did: &str) -> bool {
        self.id == did || short_form(did).is_some_and(|short| short_form(&self.id) == Some(short))
    }
}

/// Two documents are equal if their JSON is.
impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
