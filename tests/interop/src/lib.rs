//! The peer of the interop tests: a DIDComm agent that uses `didcomm` 0.4.1, with private keys in memory.
//!
//! [`Peer`] has the resolvers of documents and secrets that `didcomm` needs, and mirrors the rest of its API. Documents
//! and keys are given as JSON, so no type of `didcomm` is needed to make a peer.
//!
//! The traits of `didcomm` are `?Send`, so use a current-thread runtime.

use std::collections::HashMap;

use didcomm::algorithms::AnonCryptAlg;
use didcomm::error::Result;
use didcomm::protocols::routing;
use didcomm::{
    FromPrior, Message, PackEncryptedMetadata, PackEncryptedOptions, PackSignedMetadata, UnpackMetadata, UnpackOptions,
};
use serde_json::Value;

use resolvers::{Documents, Secrets};

pub use didcomm;

pub mod daemon;
pub mod http;
pub mod tokens;

mod documents;
mod resolvers;

/// A DID document as a `DIDDoc` of `didcomm`.
///
/// # Panics
/// If the document has a method without a key that `didcomm` knows, or no `id`.
#[must_use]
pub fn did_doc(document: &Value) -> didcomm::did::DIDDoc {
    documents::translate(document)
}

/// An agent that uses `didcomm` 0.4.1: the documents that it can resolve, and its private keys.
pub struct Peer {
    documents: Documents,
    secrets: Secrets,
}

impl Peer {
    /// A peer that resolves these DID documents and no others, and holds these private keys.
    ///
    /// Verification methods in documents may be embedded or referenced, and ids absolute or relative. A secret is a
    /// private JWK whose `kid` is a DID URL.
    ///
    /// # Panics
    /// If a document or a key is malformed.
    #[must_use]
    pub fn new(documents: Vec<Value>, secrets: Vec<Value>) -> Self {
        Self { documents: Documents::new(documents), secrets: Secrets::new(secrets) }
    }

    /// `Message::pack_encrypted`. By default its options wrap forwards.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn pack_encrypted(
        &self,
        message: &Message,
        to: &str,
        from: Option<&str>,
        sign_by: Option<&str>,
        options: &PackEncryptedOptions,
    ) -> Result<(String, PackEncryptedMetadata)> {
        message.pack_encrypted(to, from, sign_by, &self.documents, &self.secrets, options).await
    }

    /// `Message::pack_signed`.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn pack_signed(&self, message: &Message, sign_by: &str) -> Result<(String, PackSignedMetadata)> {
        message.pack_signed(sign_by, &self.documents, &self.secrets).await
    }

    /// `Message::pack_plaintext`.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn pack_plaintext(&self, message: &Message) -> Result<String> {
        message.pack_plaintext(&self.documents).await
    }

    /// `Message::unpack`, with default options.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn unpack(&self, packed: &str) -> Result<(Message, UnpackMetadata)> {
        self.unpack_with(packed, &UnpackOptions::default()).await
    }

    /// `Message::unpack`.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn unpack_with(&self, packed: &str, options: &UnpackOptions) -> Result<(Message, UnpackMetadata)> {
        Message::unpack(packed, &self.documents, &self.secrets, options).await
    }

    /// `protocols::routing::wrap_in_forward`: `routing_keys` in the order of the route.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    ///
    /// # Panics
    /// If `routing_keys` is empty: `didcomm` uses the first without a check.
    pub async fn wrap_in_forward(
        &self,
        packed: &str,
        headers: Option<&HashMap<String, Value>>,
        to: &str,
        routing_keys: &[String],
        enc_alg_anon: &AnonCryptAlg,
    ) -> Result<String> {
        routing::wrap_in_forward(packed, headers, to, &routing_keys.to_vec(), enc_alg_anon, &self.documents).await
    }

    /// `FromPrior::pack`: the JWT, and the id of the key that signed it.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn pack_from_prior(&self, from_prior: &FromPrior, issuer_kid: Option<&str>) -> Result<(String, String)> {
        from_prior.pack(issuer_kid, &self.documents, &self.secrets).await
    }

    /// `FromPrior::unpack`: the claims, and the id of the key that signed them.
    ///
    /// # Errors
    /// The errors of `didcomm`.
    pub async fn unpack_from_prior(&self, jwt: &str) -> Result<(FromPrior, String)> {
        FromPrior::unpack(jwt, &self.documents).await
    }
}
