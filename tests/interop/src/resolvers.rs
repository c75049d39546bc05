//! The two resolvers that `didcomm` needs, in memory.

use std::collections::HashMap;

use async_trait::async_trait;
use didcomm::did::{DIDDoc, DIDResolver};
use didcomm::error::Result;
use didcomm::secrets::{Secret, SecretMaterial, SecretType, SecretsResolver};
use serde_json::Value;

use crate::documents;

pub(crate) struct Documents(HashMap<String, DIDDoc>);

impl Documents {
    pub(crate) fn new(documents: Vec<Value>) -> Self {
        Self(documents.iter().map(documents::translate).map(|document| (document.id.clone(), document)).collect())
    }
}

#[async_trait(?Send)]
impl DIDResolver for Documents {
    async fn resolve(&self, did: &str) -> Result<Option<DIDDoc>> {
        Ok(self.0.get(did).cloned())
    }
}

/// Secrets by id. A list, as in the example of `didcomm`, would slow it down in benchmarks with a hundred keys.
pub(crate) struct Secrets(HashMap<String, Secret>);

impl Secrets {
    pub(crate) fn new(jwks: Vec<Value>) -> Self {
        Self(
            jwks.into_iter()
                .map(|jwk| {
                    let id = key_id(&jwk);
                    let secret = Secret {
                        id: id.clone(),
                        type_: SecretType::JsonWebKey2020,
                        secret_material: SecretMaterial::JWK { private_key_jwk: documents::bare_jwk(&jwk) },
                    };
                    (id, secret)
                })
                .collect(),
        )
    }
}

#[async_trait(?Send)]
impl SecretsResolver for Secrets {
    async fn get_secret(&self, id: &str) -> Result<Option<Secret>> {
        Ok(self.0.get(id).cloned())
    }

    async fn find_secrets<'a>(&self, ids: &'a [&'a str]) -> Result<Vec<&'a str>> {
        Ok(ids.iter().copied().filter(|id| self.0.contains_key(*id)).collect())
    }
}

/// The `kid`. Bob's keys in the specification have the member `"kid "`, so names are trimmed.
fn key_id(jwk: &Value) -> String {
    jwk.as_object()
        .and_then(|members| members.iter().find(|(name, _)| name.trim() == "kid"))
        .and_then(|(_, kid)| kid.as_str())
        .expect("a secret is a JWK with a kid")
        .to_owned()
}
