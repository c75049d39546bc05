//! Builds documents of our own.

use serde_json::{Map, Value, json};

use super::{did_document::Document, error::DocumentError, id::absolute, relationship::Relationship, service::Service};
use crate::keys::PublicKey;

/// Builds a document of our own. Its keys are written as `Multikey`, in the order in which they are added.
#[derive(Debug, Clone, Default)]
pub struct DocumentBuilder {
    also_known_as: Vec<String>,
    methods: Vec<(String, PublicKey, Vec<Relationship>)>,
    services: Vec<Service>,
}

impl Document {
    /// A builder for a document of our own.
    pub fn builder() -> DocumentBuilder {
        DocumentBuilder::default()
    }
}

impl DocumentBuilder {
    /// Adds a key in these relationships. `fragment` is the fragment of the key's id, without `#`.
    pub fn method(mut self, fragment: &str, key: &PublicKey, relationships: &[Relationship]) -> Self {
        self.methods.push((fragment.to_owned(), key.clone(), relationships.to_vec()));
        self
    }

    /// Adds a service. Services with an empty id get the ids of did:peer:2: `#service`, `#service-1` and so on.
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Adds another name of the subject (`alsoKnownAs`).
    pub fn also_known_as(mut self, name: impl Into<String>) -> Self {
        self.also_known_as.push(name.into());
        self
    }

    /// Builds the document of `did`, with absolute ids.
    ///
    /// # Errors
    /// If `did` is not a DID, two methods have the same id, or the document is over the limits
    /// of [`Document::from_value`].
    pub fn build(&self, did: &str) -> Result<Document, DocumentError> {
        Document::from_value(self.value(Some(did)))
    }

    /// Builds the document without its DID and with relative ids: the input of
    /// [`peer::create_4`](crate::did::peer::create_4).
    pub fn input(&self) -> Value {
        self.value(None)
    }

    /// Builds the document of a did:webvh that is not known yet, because the DID contains a hash over this document.
    /// `did` has a placeholder instead of the hash. The JSON is not checked.
    pub fn draft(&self, did: &str) -> Value {
        self.value(Some(did))
    }

    fn value(&self, did: Option<&str>) -> Value {
        let prefix = did.unwrap_or_default();
        let mut document = Map::new();
        document.insert("@context".to_owned(), json!(CONTEXT));
        if let Some(did) = did {
            document.insert("id".to_owned(), did.into());
        }
        if !self.also_known_as.is_empty() {
            document.insert("alsoKnownAs".to_owned(), json!(self.also_known_as));
        }
        let methods = self.methods.iter().map(|(fragment, key, _)| {
            let mut method = json!({ "id": format!("{prefix}#{fragment}"), "type": "Multikey" });
            if let Some(did) = did {
                method["controller"] = did.into();
            }
            method["publicKeyMultibase"] = key.to_multikey().into();
            method
        });
        document.insert("verificationMethod".to_owned(), methods.collect());
        for relationship in Relationship::ALL {
            let methods = self.methods.iter().filter(|(_, _, relationships)| relationships.contains(&relationship));
            let ids: Vec<Value> = methods.map(|(fragment, ..)| format!("{prefix}#{fragment}").into()).collect();
            if !ids.is_empty() {
                document.insert(relationship.name().to_owned(), ids.into());
            }
        }
        if !self.services.is_empty() {
            let mut names = ServiceNames::default();
            let services = self.services.iter().map(|service| {
                let id = if service.id.is_empty() { names.next_name() } else { service.id.clone() };
                service.to_value(&absolute(prefix, &id))
            });
            document.insert("service".to_owned(), services.collect());
        }
        Value::Object(document)
    }
}

/// The contexts of a document whose keys are multikeys (Controlled Identifiers 1.0 section 2.2.2).
pub(in crate::did) const CONTEXT: [&str; 2] = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"];

/// Ids for services that have none: `#service`, `#service-1`, `#service-2` and so on (did:peer:2, "Resolving").
#[derive(Default)]
pub(in crate::did) struct ServiceNames(usize);

impl ServiceNames {
    /// The first id.
    pub(in crate::did) const FIRST: &str = "#service";

    /// Returns the next id.
    pub(in crate::did) fn next_name(&mut self) -> String {
        self.0 += 1;
        if self.0 == 1 { Self::FIRST.to_owned() } else { format!("#service-{}", self.0 - 1) }
    }
}
