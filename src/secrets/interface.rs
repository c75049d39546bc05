//! The trait [`Secrets`]: every operation with a long-term private key.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    context::Context,
    error::SecretsError,
    held_key::HeldKeys,
    request::{UnwrapRequest, WrapRequest},
    signing::{SignRequest, Signature},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};

/// Every operation with a long-term private key.
///
/// No method takes or returns a private key, nor a Z or a KEK that was computed with one.
///
/// An operation has three outcomes: it succeeds; it fails with [`SecretsError::NotHeld`], so another implementation may
/// hold the key; or it fails with any other error, which means that the key is held and the operation failed.
///
/// Dropping a returned future cancels the request: a request that no token has begun is not performed.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The keys that are held, with their present states. The receiver is notified of changes.
    fn keys(&self) -> watch::Receiver<HeldKeys>;

    /// Says that `key` is asked for. If no token has shown it, the tokens are searched for their keys again, since another
    /// program may have made the key meanwhile. Returns at once; a key that is found appears in [`Secrets::keys`]. The
    /// tokens are searched once in ten seconds at most, however often they are asked.
    fn look_for(&self, _key: &PublicKey) {}

    /// Signs `request` with `key`. The implementation builds the signing input from the request, so no caller can
    /// have other bytes signed. Fails with [`SecretsError::InvalidRequest`] if the content is not what the
    /// request says it is.
    async fn sign(
        &self,
        key: &PublicKey,
        request: &SignRequest<'_>,
        context: &Context,
    ) -> Result<Signature, SecretsError>;

    /// Unwraps the content key of a received JWE with the recipient's `key`: ECDH, KDF and key unwrap in one call.
    async fn unwrap_cek(
        &self,
        key: &PublicKey,
        request: &UnwrapRequest,
        context: &Context,
    ) -> Result<Cek, SecretsError>;

    /// Wraps the content key of an authcrypt JWE with the sender's `key`, for every recipient in one call. Returns one
    /// wrapped key for each recipient, in the order of the request.
    async fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        context: &Context,
    ) -> Result<Vec<EncryptedKey>, SecretsError>;
}

#[async_trait]
impl<S: Secrets + ?Sized> Secrets for Arc<S> {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        (**self).keys()
    }

    fn look_for(&self, key: &PublicKey) {
        (**self).look_for(key);
    }

    async fn sign(
        &self,
        key: &PublicKey,
        request: &SignRequest<'_>,
        context: &Context,
    ) -> Result<Signature, SecretsError> {
        (**self).sign(key, request, context).await
    }

    async fn unwrap_cek(
        &self,
        key: &PublicKey,
        request: &UnwrapRequest,
        context: &Context,
    ) -> Result<Cek, SecretsError> {
        (**self).unwrap_cek(key, request, context).await
    }

    async fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        context: &Context,
    ) -> Result<Vec<EncryptedKey>, SecretsError> {
        (**self).wrap_cek(key, request, context).await
    }
}
