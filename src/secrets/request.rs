//! Requests to unwrap and to wrap a content key.

use super::error::SecretsError;
use crate::{
    crypto::{Cek, EncryptedKey, SharedSecret},
    keys::PublicKey,
};

/// The largest number of recipients of one request. Each costs the token one derivation.
const MAX_RECIPIENTS: usize = 100;

/// A content key to unwrap, and the inputs of its KEK.
#[derive(Debug, Clone)]
pub struct UnwrapRequest {
    /// The message's ephemeral key, on the curve of the recipient's key.
    pub epk: PublicKey,
    /// What ECDH-1PU adds; `None` for ECDH-ES.
    pub sender: Option<Ecdh1puSender>,
    /// PartyUInfo, decoded.
    pub apu: Vec<u8>,
    /// PartyVInfo, decoded.
    pub apv: Vec<u8>,
    /// The wrapped content key: 40 or 72 bytes.
    pub encrypted_key: EncryptedKey,
}

/// What ECDH-1PU adds to the inputs of ECDH-ES.
#[derive(Debug, Clone)]
pub struct Ecdh1puSender {
    /// The sender's static public key.
    pub key: PublicKey,
    /// The content's authentication tag, an input of the KDF (draft-madden-jose-ecdh-1pu-04 section 2.3).
    pub tag: Vec<u8>,
}

/// A content key to wrap for the recipients of an authcrypt message.
#[derive(Debug, Clone)]
pub struct WrapRequest {
    /// The content key.
    pub cek: Cek,
    /// PartyUInfo, decoded.
    pub apu: Vec<u8>,
    /// PartyVInfo, decoded.
    pub apv: Vec<u8>,
    /// The content's authentication tag, an input of the KDF (draft-madden-jose-ecdh-1pu-04 section 2.3).
    pub tag: Vec<u8>,
    /// At most 100 recipients, on the curve of the sender's key. Each comes with its Ze: the shared secret of the
    /// message's ephemeral key and the recipient's key.
    pub recipients: Vec<(PublicKey, SharedSecret)>,
}

impl UnwrapRequest {
    /// Checks the curves and lengths of a request for the recipient's `key`, before a token sees it. Fails
    /// with [`SecretsError::InvalidRequest`].
    pub(in crate::secrets) fn check(&self, key: &PublicKey) -> Result<(), SecretsError> {
        let peers = [Some(&self.epk), self.sender.as_ref().map(|sender| &sender.key)];
        check_curves(key, peers.into_iter().flatten())?;
        match self.encrypted_key.len() {
            40 | 72 => Ok(()),
            _ => Err(SecretsError::InvalidRequest("a wrapped content key has 40 or 72 bytes")),
        }
    }
}

impl WrapRequest {
    /// Checks the curves and lengths of a request for the sender's `key`, and the number of recipients, before a token
    /// sees it. Fails with [`SecretsError::InvalidRequest`].
    pub(in crate::secrets) fn check(&self, key: &PublicKey) -> Result<(), SecretsError> {
        if self.recipients.len() > MAX_RECIPIENTS {
            return Err(SecretsError::InvalidRequest("a message has at most 100 recipients"));
        }
        check_curves(key, self.recipients.iter().map(|(recipient, _)| recipient))?;
        let length = key.curve().coordinate_length();
        match self.recipients.iter().all(|(_, ze)| ze.as_bytes().len() == length) {
            true => Ok(()),
            false => Err(SecretsError::InvalidRequest("a Ze must be as long as a coordinate of the curve")),
        }
    }
}

/// Checks that the key is for key agreement, and that the peers' keys are on its curve.
fn check_curves<'a>(key: &PublicKey, peers: impl IntoIterator<Item = &'a PublicKey>) -> Result<(), SecretsError> {
    if !key.curve().supports_key_agreement() {
        return Err(SecretsError::InvalidRequest("the key's curve is not for key agreement"));
    }
    if peers.into_iter().any(|peer| peer.curve() != key.curve()) {
        return Err(SecretsError::InvalidRequest("the peer's key is on another curve"));
    }
    Ok(())
}
