//! What may be wrong with an envelope. All but the last two are the peer's fault.

use crate::{
    crypto::{CheckFailed, ContentEncryption},
    keys::{Curve, KeyError},
    secrets::SecretsError,
};

/// Why an envelope was refused, or not made.
///
/// The variants are for the log; a peer is told one thing only, that its message was not understood.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JoseError {
    /// It is larger than [`Limits::bytes`](super::Limits).
    #[error("the message has {size} bytes, and the limit is {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// It has more recipients than [`Limits::recipients`](super::Limits).
    #[error("the message has {count} recipients, and the limit is {limit}")]
    TooManyRecipients {
        /// How many it has.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// It is not JSON, or has a member twice.
    #[error("the {name} is not well-formed JSON: {reason}")]
    Json {
        /// What was parsed.
        name: &'static str,
        /// Where it goes wrong.
        reason: String,
    },
    /// It is neither encrypted nor signed nor plain.
    #[error("the message is neither encrypted nor signed nor plain")]
    Unrecognised,
    /// A member is absent.
    #[error("the member {0:?} is absent")]
    Missing(&'static str),
    /// A member has the wrong type.
    #[error("the member {0:?} has the wrong type or value")]
    Member(&'static str),
    /// A value is not base64url without padding.
    #[error("{0:?} is not base64url without padding")]
    Base64(&'static str),
    /// A value has the wrong length for its algorithm.
    #[error("{0:?} has the wrong length")]
    Length(&'static str),
    /// A header parameter that we do not understand and must not ignore, or that must not stand here.
    #[error("the header parameter {} is refused", quoted(.0))]
    Refused(String),
    /// A header parameter stands in two headers (RFC 7516 section 7.2.1).
    #[error("the header parameter {} stands twice", quoted(.0))]
    Twice(String),
    /// The algorithm is none of ours.
    #[error("the algorithm {} is not allowed", quoted(.0))]
    Algorithm(String),
    /// The content encryption is none of ours.
    #[error("the content encryption {} is not allowed", quoted(.0))]
    Encryption(String),
    /// ECDH-1PU with key wrapping needs A256CBC-HS512 (draft-madden-jose-ecdh-1pu-04 section 2.1).
    #[error("authcrypt with {0} is not allowed: it needs A256CBC-HS512")]
    AuthcryptEncryption(ContentEncryption),
    /// `epk` is no valid public key.
    #[error("the epk is refused: {0}")]
    EphemeralKey(KeyError),
    /// `skid` and `apu` do not name the same key.
    #[error("the apu is not the skid")]
    Apu,
    /// `apv` is not the hash of the recipients' key ids.
    #[error("the apv does not fit the recipients")]
    Apv,
    /// One key id stands for two recipients.
    #[error("the recipient {} stands twice", quoted(.0))]
    RecipientTwice(String),
    /// There is no recipient, or no signature, or more than one signature.
    #[error("the message has {0} signatures; one is meaningful")]
    Signatures(usize),
    /// A key is on another curve than the message's ephemeral key.
    #[error("the key {} is on {curve}, and the message on {expected}", quoted(kid))]
    Curve {
        /// The key's id.
        kid: String,
        /// The curve it is on.
        curve: Curve,
        /// The message's curve.
        expected: Curve,
    },
    /// The signature's algorithm is not the key's.
    #[error("the algorithm {alg} is not the one of a {curve} key")]
    KeyAlgorithm {
        /// The header's algorithm.
        alg: &'static str,
        /// The key's curve.
        curve: Curve,
    },
    /// The key or the tag is wrong; which is not told.
    #[error("the message does not open: {0}")]
    Decrypt(#[from] CheckFailed),
    /// The signature is not the key's.
    #[error("the signature is wrong")]
    Signature,
    /// The caller named no recipient.
    #[error("an encrypted message needs a recipient")]
    NoRecipient,
    /// The token, or the way to it.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

/// What a stranger wrote, for a log: at most 100 characters of it, and escaped.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}
