//! Keys and errors in the form that frames have, and conversions from and to the types of [`secrets`](crate::secrets).

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    crypto::{Cek, SharedSecret},
    keys::{Curve, PublicKey},
    secrets::{
        custody::Custody,
        error::{SecretsError, TokenError},
        held_key::{HeldKey, KeyState, Origin},
        key_use::KeyUse,
        policy::KeyOperation,
        request::{Ecdh1puSender, UnwrapRequest, WrapRequest},
        slot::Slot,
    },
};

/// A public key that is not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct WireKey<'a> {
    curve: Curve,
    bytes: &'a [u8],
}

impl<'a> From<&'a PublicKey> for WireKey<'a> {
    fn from(key: &'a PublicKey) -> Self {
        Self { curve: key.curve(), bytes: key.as_bytes() }
    }
}

impl WireKey<'_> {
    /// Returns the key if its bytes are a valid point of its curve, and otherwise [`SecretsError::InvalidRequest`].
    pub(super) fn check(self) -> Result<PublicKey, SecretsError> {
        PublicKey::from_bytes(self.curve, self.bytes)
            .map_err(|_| SecretsError::InvalidRequest("a public key is not a point of its curve"))
    }
}

/// A [`HeldKey`] in a frame.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct WireHeldKey {
    curve: Curve,
    point: Vec<u8>,
    label: Option<String>,
    token: String,
    usage: KeyUse,
    custody: Option<Custody>,
    origin: Origin,
    protected: bool,
    always_sensitive: Option<bool>,
    never_extractable: Option<bool>,
    state: KeyState,
    asks_pin: bool,
    asks_touch: bool,
    slot: Option<Slot>,
    refused: Option<String>,
    anoncrypt_only: bool,
}

impl From<&HeldKey> for WireHeldKey {
    fn from(held: &HeldKey) -> Self {
        let HeldKey { public, label, token, usage, custody, origin, protected, state, asks_pin, asks_touch, .. } = held;
        Self {
            curve: public.curve(),
            point: public.as_bytes().to_vec(),
            label: label.clone(),
            token: token.to_string(),
            usage: *usage,
            custody: *custody,
            origin: *origin,
            protected: *protected,
            always_sensitive: held.always_sensitive,
            never_extractable: held.never_extractable,
            state: *state,
            asks_pin: *asks_pin,
            asks_touch: *asks_touch,
            slot: held.slot,
            refused: held.refused.as_deref().map(str::to_owned),
            anoncrypt_only: held.anoncrypt_only,
        }
    }
}

impl TryFrom<WireHeldKey> for HeldKey {
    type Error = io::Error;

    fn try_from(held: WireHeldKey) -> io::Result<Self> {
        let public = PublicKey::from_bytes(held.curve, &held.point).map_err(io::Error::other)?;
        Ok(Self {
            label: held.label,
            custody: held.custody,
            origin: held.origin,
            protected: held.protected,
            always_sensitive: held.always_sensitive,
            never_extractable: held.never_extractable,
            state: held.state,
            asks_pin: held.asks_pin,
            asks_touch: held.asks_touch,
            slot: held.slot,
            refused: held.refused.map(Into::into),
            anoncrypt_only: held.anoncrypt_only,
            ..Self::new(public, held.token, held.usage)
        })
    }
}

/// A [`SecretsError`] in a frame, without the key and the token, which the client knows.
#[derive(Serialize, Deserialize)]
pub(super) enum WireError {
    NotHeld,
    NotAllowed(String),
    InvalidRequest(String),
    Busy,
    DeadlineExceeded,
    Interrupted,
    RateLimited,
    AuditFailed(String),
    Stopped,
    Token(TokenError),
}

impl From<SecretsError> for WireError {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::NotHeld(_) => Self::NotHeld,
            SecretsError::NotAllowed { operation, .. } => Self::NotAllowed(operation.to_owned()),
            SecretsError::InvalidRequest(reason) => Self::InvalidRequest(reason.to_owned()),
            SecretsError::Busy { .. } => Self::Busy,
            SecretsError::DeadlineExceeded { .. } => Self::DeadlineExceeded,
            SecretsError::Interrupted { .. } => Self::Interrupted,
            SecretsError::RateLimited(_) => Self::RateLimited,
            SecretsError::AuditFailed(reason) => Self::AuditFailed(reason),
            SecretsError::Stopped => Self::Stopped,
            SecretsError::Token { error, .. } => Self::Token(error),
        }
    }
}

impl WireError {
    /// The error of a request for `key` to the keeper of `token`.
    pub(super) fn into_secrets_error(self, token: &Arc<str>, key: &PublicKey) -> SecretsError {
        let token = token.clone();
        match self {
            Self::NotHeld => SecretsError::NotHeld(key.clone()),
            Self::NotAllowed(operation) => match operation.parse::<KeyOperation>() {
                Ok(operation) => SecretsError::NotAllowed { key: key.clone(), operation: operation.name() },
                Err(_) => SecretsError::InvalidRequest("the keeper does not allow the operation"),
            },
            // The client makes the same checks before it asks, so this happens only if the keeper is of
            // another release.
            Self::InvalidRequest(reason) => {
                tracing::warn!(%token, reason, "request refused by the keeper");
                SecretsError::InvalidRequest("the keeper refused the request")
            }
            Self::Busy => SecretsError::Busy { token },
            Self::DeadlineExceeded => SecretsError::DeadlineExceeded { token },
            Self::Interrupted => SecretsError::Interrupted { token },
            Self::RateLimited => SecretsError::RateLimited(key.clone()),
            Self::AuditFailed(reason) => SecretsError::AuditFailed(reason),
            Self::Stopped => SecretsError::Stopped,
            Self::Token(error) => SecretsError::Token { token, error },
        }
    }
}

/// Builds an unwrap request from a frame, and checks its keys.
pub(super) fn unwrap_request(
    epk: WireKey<'_>,
    sender: Option<(WireKey<'_>, &[u8])>,
    apu: &[u8],
    apv: &[u8],
    encrypted_key: &[u8],
) -> Result<UnwrapRequest, SecretsError> {
    let sender = sender.map(|(key, tag)| Ok::<_, SecretsError>(Ecdh1puSender { key: key.check()?, tag: tag.to_vec() }));
    Ok(UnwrapRequest {
        epk: epk.check()?,
        sender: sender.transpose()?,
        apu: apu.to_vec(),
        apv: apv.to_vec(),
        encrypted_key: encrypted_key.to_vec(),
    })
}

/// Builds a wrap request from a frame, and checks its keys.
pub(super) fn wrap_request(
    cek: &[u8],
    apu: &[u8],
    apv: &[u8],
    tag: &[u8],
    recipients: Vec<(WireKey<'_>, &[u8])>,
) -> Result<WrapRequest, SecretsError> {
    let recipients = recipients.into_iter().map(|(key, ze)| Ok((key.check()?, SharedSecret::new(ze.to_vec()))));
    Ok(WrapRequest {
        cek: Cek::new(cek.to_vec()),
        apu: apu.to_vec(),
        apv: apv.to_vec(),
        tag: tag.to_vec(),
        recipients: recipients.collect::<Result<_, SecretsError>>()?,
    })
}
