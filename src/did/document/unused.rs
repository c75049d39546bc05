//! The parts of a document that are not used, and why.

use std::fmt;

use serde_json::Value;

use super::{
    did_document::Document,
    id::absolute,
    read::reference,
    relationship::Relationship,
    service::{ServiceEndpoint, one_or_many},
};
use crate::{
    did::shorten::shortened,
    keys::{Curve, KeyError, PublicKey},
};

/// A part of a DID document that is not used. It does not invalidate the document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnusedPart {
    /// A verification method whose key cannot be used.
    Method {
        /// The id, without the DID of the document.
        id: String,
        /// Why the key cannot be used.
        error: KeyError,
    },
    /// A relationship refers to a method that is not in the document. Methods of other documents are not fetched.
    Reference {
        /// The relationship.
        relationship: Relationship,
        /// The id of the method, without the DID of the document.
        id: String,
    },
    /// A relationship names a key on a curve that DIDComm does not use for it, such as Ed25519 in `keyAgreement`.
    Curve {
        /// `keyAgreement` or `authentication`.
        relationship: Relationship,
        /// The id of the method, without the DID of the document.
        id: String,
        /// The curve.
        curve: Curve,
    },
    /// A service, or an endpoint of one, to which no DIDComm v2 message is sent.
    Service {
        /// The id, without the DID of the document. Empty if it is absent.
        id: String,
        /// Why it is not used.
        reason: &'static str,
    },
}

/// The most parts of a document that are logged.
const MAX_LOGGED: usize = 20;

impl Document {
    /// Returns the parts of the document that are not used.
    pub fn unused_parts(&self) -> Vec<UnusedPart> {
        let mut parts: Vec<UnusedPart> = Vec::new();
        for method in &self.0.methods {
            if let Err(error) = &method.key {
                parts.push(UnusedPart::Method { id: self.relative(&method.id), error: error.clone() });
            }
        }
        for relationship in Relationship::ALL {
            for id in one_or_many(self.0.value.get(relationship.name())).iter().filter_map(reference) {
                let id = absolute(&self.0.id, id);
                if !self.methods(relationship).any(|method| method.id == id) {
                    parts.push(UnusedPart::Reference { relationship, id: self.relative(&id) });
                }
            }
        }
        for relationship in [Relationship::KeyAgreement, Relationship::Authentication] {
            for method in self.methods(relationship) {
                let Some(curve) = method.key.as_ref().ok().map(PublicKey::curve) else { continue };
                let is_used = match relationship {
                    Relationship::KeyAgreement => curve.supports_key_agreement(),
                    _ => curve.signature_algorithm().is_some(),
                };
                if !is_used {
                    parts.push(UnusedPart::Curve { relationship, id: self.relative(&method.id), curve });
                }
            }
        }
        for service in one_or_many(self.0.value.get("service")) {
            let id = service["id"].as_str().map(|id| self.relative(id)).unwrap_or_default();
            parts.extend(unused(service).map(|reason| UnusedPart::Service { id: id.clone(), reason }));
        }
        parts
    }

    fn relative(&self, id: &str) -> String {
        id.strip_prefix(&self.0.id).filter(|rest| rest.starts_with('#')).unwrap_or(id).to_owned()
    }

    /// Logs the parts that are not used, at most 20, each in one event with the target [`UNUSED_PARTS`] at level `debug`.
    pub(in crate::did) fn log_unused_parts(&self) {
        if !tracing::enabled!(target: UNUSED_PARTS, tracing::Level::DEBUG) {
            return;
        }
        for part in self.unused_parts().iter().take(MAX_LOGGED) {
            tracing::debug!(target: UNUSED_PARTS, did = shortened(&self.0.id), "part of a DID document not used: {part}");
        }
    }
}

/// The target of log events about the parts of a peer's document that are not used.
pub const UNUSED_PARTS: &str = "claviger::did::unused_parts";

/// Why a service is not used, or each of its endpoints that is not.
fn unused(service: &Value) -> impl Iterator<Item = &'static str> {
    let kinds = one_or_many(service.get("type"));
    let endpoints = one_or_many(service.get("serviceEndpoint"));
    let whole = match service.as_object() {
        None => Some("it is not an object"),
        Some(_) if !kinds.iter().any(|kind| kind == "DIDCommMessaging") => Some("its type is not DIDCommMessaging"),
        Some(_) if endpoints.is_empty() => Some("it has no serviceEndpoint"),
        Some(_) => None,
    };
    let endpoints = endpoints.iter().filter_map(move |endpoint| match service.as_object() {
        Some(members) if whole.is_none() => match ServiceEndpoint::read(endpoint, members) {
            None => Some("an endpoint has no uri"),
            Some(endpoint) if !endpoint.accepts_v2() => Some("an endpoint does not accept didcomm/v2"),
            Some(_) => None,
        },
        _ => None,
    });
    whole.into_iter().chain(endpoints)
}

impl fmt::Display for UnusedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method { id, error } => write!(f, "the key {:?}: {error}", shortened(id)),
            Self::Reference { relationship, id } => {
                write!(f, "{} names {:?}, which the document does not have", relationship.name(), shortened(id))
            }
            Self::Curve { relationship, id, curve } => {
                let relationship = relationship.name();
                write!(f, "the key {:?}: DIDComm does not use {curve} for {relationship}", shortened(id))
            }
            Self::Service { id, reason } => write!(f, "the service {:?}: {reason}", shortened(id)),
        }
    }
}
