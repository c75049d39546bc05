//! [`Provenance`]: what the verified layers of a message prove about its sender.

use serde::Serialize;

use super::attachment_problem::AttachmentNote;
use crate::{crypto::ContentEncryption, did::did_of, keys::SignatureAlgorithm, secrets::Custody};

/// How a message was protected. Everything here was verified.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Provenance {
    /// The message was encrypted to us.
    pub encrypted: bool,
    /// Authcrypt or a signature proves `from`.
    pub authenticated: bool,
    /// An anoncrypt layer hid the sender from mediators.
    pub anonymous_sender: bool,
    /// A signature proves `from` to third parties too.
    pub non_repudiation: bool,
    /// The envelopes, outermost first.
    pub layers: Vec<Layer>,
    /// The sender's DID rotation, with a verified signature. It proves the rotation only in a message that
    /// the new DID authcrypted: the JWT need not name an audience, so anyone may have copied it from another message.
    /// See [`Warning::UnauthenticatedFromPrior`].
    pub from_prior: Option<PriorDid>,
    /// Properties of the message that are allowed, and that the receiver may want to know.
    pub warnings: Vec<Warning>,
    /// What is wrong with attachments of the message, at most 100 notes. In JSON the member is absent if nothing is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachment_notes: Vec<AttachmentNote>,
}

impl Provenance {
    /// The sender's DID, if authcrypt or a signature proves it.
    ///
    /// This is the DID of the key that encrypted or signed. For a did:peer:4 it may be another form of the DID than the
    /// message's `from`.
    pub fn sender(&self) -> Option<&str> {
        let kid = self.sender_layers().find_map(|layer| match layer {
            Layer::Authcrypt { skid, .. } => Some(skid),
            Layer::Signed { kid, .. } => Some(kid),
            Layer::Anoncrypt { .. } | Layer::Forward { .. } => None,
        });
        kid.and_then(|kid| did_of(kid))
    }

    /// The DID URL of the key that signed the message, if it is signed. The signature proves the message to third
    /// parties too.
    pub fn signer(&self) -> Option<&str> {
        self.sender_layers().find_map(|layer| match layer {
            Layer::Signed { kid, .. } => Some(kid.as_str()),
            _ => None,
        })
    }

    /// The layers that the sender made, innermost first. Those of a mediator that forwarded the message to us are not
    /// among them.
    fn sender_layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().rev().take_while(|layer| !matches!(layer, Layer::Forward { .. }))
    }
}

/// One envelope of a message.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "envelope", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layer {
    /// Encrypted and authenticated by ECDH-1PU.
    Authcrypt {
        /// The JOSE name of the key agreement.
        alg: &'static str,
        /// The content encryption.
        enc: ContentEncryption,
        /// The DID URL of the sender's key.
        skid: String,
        /// The DID URL of our key that opened the envelope.
        kid: String,
        /// The DID URLs of all recipients' keys.
        recipients: Vec<String>,
        /// The custody tier: what left the token when our key opened the envelope. `None` if the token does
        /// not report it.
        custody: Option<Custody>,
    },
    /// Encrypted by ECDH-ES.
    Anoncrypt {
        /// The JOSE name of the key agreement.
        alg: &'static str,
        /// The content encryption.
        enc: ContentEncryption,
        /// The DID URL of our key that opened the envelope.
        kid: String,
        /// The DID URLs of all recipients' keys.
        recipients: Vec<String>,
        /// The custody tier: what left the token when our key opened the envelope. `None` if the token does
        /// not report it.
        custody: Option<Custody>,
    },
    /// Signed.
    Signed {
        /// The signature algorithm.
        alg: SignatureAlgorithm,
        /// The DID URL of the key that signed.
        kid: String,
    },
    /// A forward that was addressed to us. The mediator made the layers before this one, and the sender made the
    /// layers after it.
    Forward {
        /// The `next` of the forward: one of our DIDs or key ids.
        next: String,
    },
}

/// A verified `from_prior`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PriorDid {
    /// The old DID.
    pub iss: String,
    /// The new DID. `None` ends the relationship.
    pub sub: Option<String>,
    /// When the DID was changed, in seconds since 1970.
    pub iat: Option<i64>,
    /// The DID URL of the old DID's key that signed.
    pub kid: String,
}

/// A property of a message that is allowed, but that the receiver may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// `to` is absent. By v2.1, a recipient may then assume that there is no other recipient.
    ToAbsent,
    /// The message is not encrypted, and `to` names none of our DIDs.
    NotAddressedToUs,
    /// authcrypt(sign()), which the specification advises against.
    DiscouragedNesting,
    /// anoncrypt(authcrypt(sign())), which the specification forbids although it has a test vector of it.
    ForbiddenNesting,
    /// `expires_time` has passed.
    Expired,
    /// `from_prior` must be ignored. Either it names a successor, and the successor has not authcrypted the message; or
    /// it ends the relationship, and the message is not encrypted.
    UnauthenticatedFromPrior,
}
