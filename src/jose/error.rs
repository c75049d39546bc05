//! What is wrong with an envelope. For a received envelope, every error except [`JoseError::Secrets`] is
//! the peer's fault.

use crate::{
    crypto::{CheckFailed, ContentEncryption},
    keys::{Curve, KeyError},
    secrets::SecretsError,
};

/// Why an envelope was refused, or not made.
///
/// The variants are for the log. Tell a peer no more than that its message was not understood.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JoseError {
    /// The message is larger than [`Limits::bytes`](super::Limits).
    #[error("the message has {size} bytes, and the limit is {limit}")]
    TooLarge {
        /// The size of the message in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The message has more recipients than [`Limits::recipients`](super::Limits).
    #[error("the message has {count} recipients, and the limit is {limit}")]
    TooManyRecipients {
        /// The number of recipients.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A text is not a JSON object, or has a duplicate member.
    #[error("the {name} is not well-formed JSON: {reason}")]
    Json {
        /// What was parsed.
        name: &'static str,
        /// The parser's error.
        reason: String,
    },
    /// The message is neither encrypted, nor signed, nor a plaintext.
    #[error("the message is neither encrypted, nor signed, nor a plaintext")]
    Unrecognised,
    /// A member is absent.
    #[error("the member {0:?} is absent")]
    Missing(&'static str),
    /// A member has the wrong type.
    #[error("the member {0:?} has the wrong type or value")]
    InvalidMember(&'static str),
    /// A value is not base64url without padding.
    #[error("{0:?} is not base64url without padding")]
    InvalidBase64(&'static str),
    /// A value has the wrong length for its algorithm.
    #[error("{0:?} has the wrong length")]
    InvalidLength(&'static str),
    /// A header parameter is unsupported and must not be ignored, or must not be in this header.
    #[error("the header parameter {} is refused", quoted(.0))]
    RefusedParameter(String),
    /// Header parameters are in another header than DIDComm wants them in (v2.1 "DIDComm Encrypted Messages" and "DIDComm
    /// Signed Messages").
    #[error("{}", misplaced(names, found, wanted))]
    Misplaced {
        /// The names of the parameters.
        names: Vec<&'static str>,
        /// The header that has them.
        found: &'static str,
        /// The header that should have them.
        wanted: &'static str,
    },
    /// The message is in another serialization of JOSE than DIDComm wants. Holds its name in the RFCs.
    #[error(
        "the message is in the {0}; DIDComm wants the General JSON Serialization, with `recipients` or `signatures`"
    )]
    Serialization(&'static str),
    /// A header parameter is in two headers (RFC 7516 section 7.2.1).
    #[error("the header parameter {} is given twice", quoted(.0))]
    DuplicateParameter(String),
    /// The algorithm is not supported.
    #[error("the algorithm {} is not allowed", quoted(.0))]
    UnsupportedAlgorithm(String),
    /// The content encryption is not supported.
    #[error("the content encryption {} is not allowed", quoted(.0))]
    UnsupportedEncryption(String),
    /// ECDH-1PU with key wrapping needs A256CBC-HS512 (draft-madden-jose-ecdh-1pu-04 section 2.1).
    #[error("authcrypt with {0} is not allowed: it needs A256CBC-HS512")]
    AuthcryptEncryption(ContentEncryption),
    /// `epk` is not a valid public key.
    #[error("the epk is refused: {0}")]
    InvalidEphemeralKey(KeyError),
    /// `skid` and `apu` do not name the same key.
    #[error("apu and skid name different keys")]
    ApuMismatch,
    /// `apv` is not the hash of the recipients' key ids.
    #[error("the apv does not fit the recipients")]
    ApvMismatch,
    /// Two recipients have the same key id.
    #[error("two recipients have the key id {}", quoted(.0))]
    DuplicateRecipient(String),
    /// The message does not have exactly one signature.
    #[error("the message has {0} signatures, and must have one")]
    SignatureCount(usize),
    /// A key is on another curve than the ephemeral key of the message.
    #[error("the key {} is on {curve}, but the ephemeral key of the message is on {expected}", quoted(kid))]
    CurveMismatch {
        /// The key's id.
        kid: String,
        /// The curve of the key.
        curve: Curve,
        /// The curve of the message's ephemeral key.
        expected: Curve,
    },
    /// The signature algorithm does not belong to the curve of the key.
    #[error("the algorithm {alg} does not fit a {curve} key")]
    AlgorithmMismatch {
        /// The header's algorithm.
        alg: &'static str,
        /// The key's curve.
        curve: Curve,
    },
    /// The key or the tag is wrong. The error does not say which.
    #[error("the message does not open: {0}")]
    Decrypt(#[from] CheckFailed),
    /// The signature is wrong.
    #[error("the signature is wrong")]
    InvalidSignature,
    /// The caller named no recipient.
    #[error("an encrypted message needs a recipient")]
    NoRecipient,
    /// The token failed, or could not be reached.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

fn misplaced(names: &[&str], found: &str, wanted: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let (noun, verb, pronoun) =
        if names.len() == 1 { ("parameter", "is", "it") } else { ("parameters", "are", "them") };
    format!("the header {noun} {} {verb} in {found}; DIDComm wants {pronoun} in {wanted}", quoted.join(", "))
}

/// Text from a peer, for a log or an error: escaped, and cut after 100 characters.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(100) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}
