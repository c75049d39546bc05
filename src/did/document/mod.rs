//! DID documents (DID Core 1.0 section 5), those that strangers wrote and our own.

mod build;
mod method;
mod read;
mod service;

pub use build::DocumentBuilder;
pub(super) use build::{CONTEXT, ServiceNames};
pub use method::VerificationMethod;
pub use service::{Service, ServiceEndpoint};

use serde_json::Value;

use super::{did_of, is_did, peer, resolver::shortened};
use crate::keys::PublicKey;

/// The longest document that is read, as JSON without white space, in bytes.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// The same for a document that is written out from its own DID, which stands in it many times.
pub(super) const MAX_EXPANDED: usize = 2 * 1024 * 1024;
/// The most verification methods, and the most services, that a document may have.
pub(super) const MAX_ENTRIES: usize = 100;

/// A DID document, read once: its ids made absolute, its keys checked.
#[derive(Debug, Clone)]
pub struct Document {
    id: String,
    also_known_as: Vec<String>,
    methods: Vec<VerificationMethod>,
    /// For each relationship, in the order of [`Relationship::ALL`], the places of its methods.
    relationships: [Vec<usize>; 5],
    services: Vec<Service>,
    value: Value,
    bytes: usize,
}

/// What a key of a DID may be used for (DID Core section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relationship {
    /// To speak as the DID: DIDComm's signatures.
    Authentication,
    /// To encrypt to the DID, and by DIDComm's authcrypt from it.
    KeyAgreement,
    /// To make claims, such as credentials.
    AssertionMethod,
    /// To invoke a capability.
    CapabilityInvocation,
    /// To delegate a capability.
    CapabilityDelegation,
}

/// Why JSON is no DID document. Its author is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It is longer than a document may be.
    #[error("the document has {length} bytes; at most {limit} are read")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that is read.
        limit: usize,
    },
    /// It has more entries of a kind than a document may have.
    #[error("the document's {member} has {length} entries; at most {limit} are read")]
    TooMany {
        /// The member.
        member: &'static str,
        /// How many there are.
        length: usize,
        /// The most that are read.
        limit: usize,
    },
    /// It is not JSON.
    #[error("the document is not JSON: line {line}, column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A member does not have the form that DID Core gives it.
    #[error("the document's {member} is not {expected}")]
    Member {
        /// The member; of a verification method or service, with the name of its parent.
        member: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// Its `id` is not the DID that was asked for (poisoning).
    #[error("the document is about {found:?}, not about {asked:?}")]
    WrongId {
        /// The DID asked for.
        asked: String,
        /// The document's `id`.
        found: String,
    },
    /// Two verification methods with different keys have one id.
    #[error("two verification methods have the id {0:?}")]
    DuplicateMethod(String),
}

impl Document {
    /// Reads a document; what is not understood in it is kept in [`as_value`](Self::as_value) and otherwise ignored.
    ///
    /// A verification method whose key is unsupported or broken is kept with its reason. A reference to a method that
    /// stands in another document is not followed.
    ///
    /// # Errors
    /// If the document is over the limits (64 KiB, 100 methods, 100 services), lacks an `id` that is a DID, or has a
    /// member of another form than DID Core sections 4 and 5 say.
    pub fn from_value(value: Value) -> Result<Self, DocumentError> {
        read::document(value, MAX_BYTES)
    }

    /// Reads a document that was written out from its own DID.
    pub(super) fn of_did(value: Value) -> Result<Self, DocumentError> {
        read::document(value, MAX_EXPANDED)
    }

    /// Reads a document from JSON text, whose length is looked at first.
    ///
    /// # Errors
    /// As [`from_value`](Self::from_value), and if it is not JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, DocumentError> {
        // White space is no fault, but not without bound either.
        if json.len() > 4 * MAX_BYTES {
            return Err(DocumentError::TooLong { length: json.len(), limit: MAX_BYTES });
        }
        let value = serde_json::from_slice(json)
            .map_err(|error| DocumentError::Json { line: error.line(), column: error.column() })?;
        Self::from_value(value)
    }

    /// The document, if it is that of `did`: what every resolver has to ask (DID Core section 7.1.1).
    ///
    /// # Errors
    /// [`DocumentError::WrongId`] if it is another's.
    pub fn of(self, did: &str) -> Result<Self, DocumentError> {
        if self.id == did {
            return Ok(self);
        }
        Err(DocumentError::WrongId { asked: shortened(did), found: shortened(&self.id) })
    }

    /// A builder of a document of our own.
    pub fn builder() -> DocumentBuilder {
        DocumentBuilder::default()
    }

    /// The DID it is about.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Other names that the document claims. They prove nothing; see [`names`](Self::names).
    pub fn also_known_as(&self) -> &[String] {
        &self.also_known_as
    }

    /// The document as JSON, as it was read.
    pub fn as_value(&self) -> &Value {
        &self.value
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        let methods = self.methods.iter().map(|method| method.id.len() + method.controller.len() + 400);
        2 * self.bytes + methods.sum::<usize>()
    }

    /// The methods that stand in a relationship, embedded or referenced, in the order of the document.
    pub fn methods(&self, relationship: Relationship) -> impl Iterator<Item = &VerificationMethod> {
        self.relationships[relationship as usize].iter().map(|place| &self.methods[*place])
    }

    /// Every method, also one that stands in no relationship and so may be used for nothing.
    pub fn all_methods(&self) -> &[VerificationMethod] {
        &self.methods
    }

    /// The keys that none of these other documents has; this one may be among them.
    pub fn own_keys(&self, others: &[Document]) -> Vec<PublicKey> {
        let keys = |document: &Document| document.methods.iter().filter_map(|method| method.key.clone().ok()).collect();
        let others: Vec<PublicKey> =
            others.iter().filter(|document| document.id() != self.id()).flat_map(|it| -> Vec<_> { keys(it) }).collect();
        let own: Vec<PublicKey> = keys(self);
        own.into_iter().filter(|key| !others.contains(key)).collect()
    }

    /// The method with this absolute id, *if it stands in the relationship*: a key that stands in another is none here.
    ///
    /// The id of a `did:peer:4` may be in its long or its short form, whichever the document is in; and of a
    /// `did:peer` 0 or 2 a fragment that is the key itself, or its first eight characters, is found as well, as libraries
    /// older than the specification's clarifications write it.
    pub fn method(&self, id: &str, relationship: Relationship) -> Option<&VerificationMethod> {
        if let Some(method) = self.methods(relationship).find(|method| method.id == id) {
            return Some(method);
        }
        let did = did_of(id)?;
        let fragment = id[did.len()..].strip_prefix('#')?;
        if did == self.id {
            let legacy = peer::has_legacy_fragments(did);
            return legacy.then(|| self.methods(relationship).find(|method| method.has_legacy_fragment(fragment)))?;
        }
        let own = |method: &&VerificationMethod| {
            method.id.strip_prefix(&self.id).and_then(|rest| rest.strip_prefix('#')) == Some(fragment)
        };
        self.names(did).then(|| self.methods(relationship).find(own))?
    }

    /// The services, in the order of the document.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The `DIDCommMessaging` services that have an endpoint, both in order of preference (DIDComm v2.1 "Service
    /// Endpoint").
    pub fn didcomm_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| service.is_didcomm() && !service.endpoints.is_empty())
    }

    /// Whether `did` is the subject of this document: its `id`, or the other form of that `did:peer:4`.
    ///
    /// `alsoKnownAs` is *not* believed: anyone may claim any name there.
    pub fn names(&self, did: &str) -> bool {
        self.id == did || peer::short_form(did).is_some_and(|short| peer::short_form(&self.id) == Some(short))
    }
}

/// Two documents are equal if their JSON is.
impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Relationship {
    /// All of them.
    pub const ALL: [Relationship; 5] = [
        Relationship::Authentication,
        Relationship::KeyAgreement,
        Relationship::AssertionMethod,
        Relationship::CapabilityInvocation,
        Relationship::CapabilityDelegation,
    ];

    /// Its member in a document.
    pub fn name(self) -> &'static str {
        match self {
            Relationship::Authentication => "authentication",
            Relationship::KeyAgreement => "keyAgreement",
            Relationship::AssertionMethod => "assertionMethod",
            Relationship::CapabilityInvocation => "capabilityInvocation",
            Relationship::CapabilityDelegation => "capabilityDelegation",
        }
    }
}

/// `id` made absolute, if it is relative to `did` (DID Core section 3.2.2).
fn absolute(did: &str, id: &str) -> String {
    if id.starts_with(['#', '?', '/']) { format!("{did}{id}") } else { id.to_owned() }
}

/// The id checked to be a DID, as each document's must be.
fn checked_id(id: &str) -> Result<&str, DocumentError> {
    if is_did(id) { Ok(id) } else { Err(DocumentError::Member { member: "id", expected: "a DID" }) }
}
