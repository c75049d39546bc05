//! The other side of the interop tests: a DIDComm agent as `didcomm` 0.4.1 makes it, its private
//! keys in memory.
//!
//! [`Peer`] gives that crate what it asks of its users, a resolver of documents and a resolver of
//! secrets, and mirrors the rest of its API. Documents and keys go in as JSON, so nothing of the
//! crate's own types is needed to set a peer up.
//!
//! Its traits are `?Send`, so the futures here are too: use a current-thread runtime.

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

/// An agent of `didcomm` 0.4.1: the documents it can resolve, and its private keys.
pub struct Peer {
    documents: Documents,
    secrets: Secrets,
}

impl Peer {
    /// A peer that resolves these DID documents and no others, and holds these private keys.
    ///
    /// A document is one of today's, with methods embedded or referenced, ids absolute or
    /// relative; a secret is a private JWK whose `kid` is a DID URL.
    ///
    /// # Panics
    /// If a document or a key is not of that form. Tests want to hear of it at once.
    #[must_use]
    pub fn new(documents: Vec<Value>, secrets: Vec<Value>) -> Self {
        Self { documents: Documents::new(documents), secrets: Secrets::new(secrets) }
    }

    /// `Message::pack_encrypted`. Mind that its options ask for forward wrapping by default.
    ///
    /// # Errors
    /// Those of `didcomm`.
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
    /// Those of `didcomm`.
    pub async fn pack_signed(&self, message: &Message, sign_by: &str) -> Result<(String, PackSignedMetadata)> {
        message.pack_signed(sign_by, &self.documents, &self.secrets).await
    }

    /// `Message::pack_plaintext`.
    ///
    /// # Errors
    /// Those of `didcomm`.
    pub async fn pack_plaintext(&self, message: &Message) -> Result<String> {
        message.pack_plaintext(&self.documents).await
    }

    /// `Message::unpack`, with the options it takes by default.
    ///
    /// # Errors
    /// Those of `didcomm`.
    pub async fn unpack(&self, packed: &str) -> Result<(Message, UnpackMetadata)> {
        self.unpack_with(packed, &UnpackOptions::default()).await
    }

    /// `Message::unpack`.
    ///
    /// # Errors
    /// Those of `didcomm`.
    pub async fn unpack_with(&self, packed: &str, options: &UnpackOptions) -> Result<(Message, UnpackMetadata)> {
        Message::unpack(packed, &self.documents, &self.secrets, options).await
    }

    /// `protocols::routing::wrap_in_forward`: `routing_keys` in the order of the route.
    ///
    /// # Errors
    /// Those of `didcomm`.
    ///
    /// # Panics
    /// If `routing_keys` is empty: `didcomm` takes the first without looking.
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
    /// Those of `didcomm`.
    pub async fn pack_from_prior(&self, from_prior: &FromPrior, issuer_kid: Option<&str>) -> Result<(String, String)> {
        from_prior.pack(issuer_kid, &self.documents, &self.secrets).await
    }

    /// `FromPrior::unpack`: the claims, and the id of the key that signed them.
    ///
    /// # Errors
    /// Those of `didcomm`.
    pub async fn unpack_from_prior(&self, jwt: &str) -> Result<(FromPrior, String)> {
        FromPrior::unpack(jwt, &self.documents).await
    }
}
