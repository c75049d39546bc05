//! What is known about where a message came from.

use serde::Serialize;

use crate::{crypto::ContentEncryption, keys::SignatureAlgorithm, secrets::Custody};

/// How a message was protected, layer by layer; each is here only once it was verified.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Provenance {
    /// It was encrypted to us.
    pub encrypted: bool,
    /// `from` is proved: by authcrypt, or by a signature.
    pub authenticated: bool,
    /// An anoncrypt layer hid its sender from those who carried it.
    pub anonymous_sender: bool,
    /// A signature proves `from` to others as well.
    pub non_repudiation: bool,
    /// The envelopes, outermost first.
    pub layers: Vec<Layer>,
    /// The sender's change of DID, its signature verified. Only under authcrypt by the new DID does it count: it names
    /// no audience, so anyone may have copied it.
    pub from_prior: Option<PriorDid>,
    /// What is allowed and yet worth a look.
    pub warnings: Vec<Warning>,
}

/// One envelope.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "envelope", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layer {
    /// Encrypted and authenticated by ECDH-1PU.
    Authcrypt {
        /// The key agreement.
        alg: &'static str,
        /// The content encryption.
        enc: ContentEncryption,
        /// The sender's key.
        skid: String,
        /// Our key, which opened it.
        kid: String,
        /// All recipients' keys.
        recipients: Vec<String>,
        /// How far the shared secret came out of the token.
        custody: Option<Custody>,
    },
    /// Encrypted by ECDH-ES.
    Anoncrypt {
        /// The key agreement.
        alg: &'static str,
        /// The content encryption.
        enc: ContentEncryption,
        /// Our key, which opened it.
        kid: String,
        /// All recipients' keys.
        recipients: Vec<String>,
        /// How far the shared secret came out of the token.
        custody: Option<Custody>,
    },
    /// Signed.
    Signed {
        /// The signature's algorithm.
        alg: SignatureAlgorithm,
        /// The signer's key.
        kid: String,
    },
    /// Forwarded to us by a mediator that wraps again; the layers before are the mediator's, those behind the sender's.
    Forward {
        /// To whom.
        next: String,
    },
}

/// A verified `from_prior`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PriorDid {
    /// The old DID.
    pub iss: String,
    /// The new DID; none ends the relationship.
    pub sub: Option<String>,
    /// When the DID was changed: seconds since 1970, UTC.
    pub iat: Option<i64>,
    /// The old DID's key that signed.
    pub kid: String,
}

/// Something allowed that a receiver may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// `to` is absent (v2.1: the recipient assumes that it is the sole audience).
    ToAbsent,
    /// It is not encrypted, and `to` names none of our DIDs.
    NotAddressedToUs,
    /// authcrypt(sign()), which the specification advises against.
    DiscouragedNesting,
    /// anoncrypt(authcrypt(sign())), which the specification forbids and has a vector of.
    ForbiddenNesting,
    /// `expires_time` has passed.
    Expired,
    /// `from_prior` came without authcrypt by its `sub`, or, if it ends a relationship, not encrypted at all: it must not
    /// change anything.
    UnauthenticatedFromPrior,
}
