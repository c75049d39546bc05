//! Why packing or unpacking failed, and whose fault it is.

use std::fmt;

use super::message_error::MessageError;
use crate::{
    did::{Relationship, ResolveError},
    jose::{JoseError, quoted},
    keys::KeyError,
    secrets::SecretsError,
};

/// Why a message was not packed or not unpacked.
///
/// The variants are for the log and for tests. Tell a peer no more than that its message was not understood.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The envelope is malformed or does not open, or the token failed. [`JoseError`] says which.
    #[error(transparent)]
    Envelope(#[from] JoseError),
    /// No recipient of the message is one of our keys. Holds the recipients' key ids.
    #[error("the message is for none of our keys: {} recipients, the first {}", .0.len(), quoted(.0.first().map_or("", String::as_str)))]
    NotForUs(Vec<String>),
    /// DIDComm forbids this order of envelopes (v2.1 "Media Types", combinations).
    #[error("DIDComm forbids the nesting {outer}({inner})")]
    ForbiddenNesting {
        /// The envelope that was opened.
        outer: &'static str,
        /// The envelope that was inside.
        inner: &'static str,
    },
    /// A DID does not resolve.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A key id is not a DID URL.
    #[error("the key id {} is not a DID URL", quoted(.0))]
    InvalidKeyId(String),
    /// The DID document does not list a key under the relationship that its use needs.
    #[error("the key {} is not in {} of its document", quoted(kid), relationship.name())]
    NotAuthorised {
        /// The key's DID URL.
        kid: String,
        /// The relationship that the key must be in.
        relationship: Relationship,
    },
    /// A key in a DID document is malformed, or of an unsupported type.
    #[error("the key {} is refused: {error}", quoted(kid))]
    UnusableKey {
        /// The key's DID URL.
        kid: String,
        /// Why it cannot be used.
        error: KeyError,
    },
    /// The opened content is not a valid message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Nothing proves who sent the message, and
    /// [`UnpackOptions::require_authenticated`](super::UnpackOptions::require_authenticated) is set.
    #[error("the sender is not authenticated: the message is neither authcrypted nor signed")]
    NotAuthenticated,
    /// The message is authcrypted or signed, and has no `from`. Holds the id of the key that made it.
    #[error("the message was encrypted or signed by {}, and has no from", quoted(.0))]
    FromAbsent(String),
    /// `from` is not the DID of the key that encrypted or signed the message.
    #[error("the message says it is from {}, but was encrypted or signed by {}", quoted(from), quoted(kid))]
    FromMismatch {
        /// The header `from`.
        from: String,
        /// The DID URL of the key.
        kid: String,
    },
    /// `to` does not name the DID whose key opened the message.
    #[error("the message was opened by {kid}, and its to does not name that DID")]
    ToMismatch {
        /// The DID URL of our key.
        kid: String,
    },
    /// A message that is signed and encrypted must have a `to` (v2.1 "Message Signing").
    #[error("the message is signed and encrypted, and has no to")]
    ToAbsent,
    /// `from_prior` is invalid.
    #[error("the from_prior is refused: {0}")]
    FromPrior(FromPriorError),
    /// A forward to us contains another forward.
    #[error("a forward to us contains another forward")]
    ForwardLoop,
    /// A forward has no attachment or no `next`, or cannot be made.
    #[error("the forward is refused: {0}")]
    Forward(&'static str),

    /// Our DID document has a method whose key no token holds. Holds the method's DID URL.
    #[error("no token holds the key of {0}")]
    KeyNotHeld(String),
    /// The key asks a person for a PIN or a touch, and the message does not claim a sender for whom that is
    /// allowed ([`UnpackOptions::prompt_for`](super::UnpackOptions::prompt_for)).
    #[error("the key {kid} asks a person for a PIN or a touch, which is not allowed for the sender of this message")]
    PromptNotAllowed {
        /// The DID URL of our key.
        kid: String,
    },
    /// The DID or key is none of ours.
    #[error("{name} is not one of our {relationship} keys")]
    NotOurs {
        /// The DID or DID URL.
        name: String,
        /// The relationship that the key was needed for.
        relationship: &'static str,
    },
    /// The DID or key is ours, and no token that has a fitting key is available.
    #[error("the token of the {relationship} keys of {name} is unavailable")]
    NoReadyKey {
        /// The DID or DID URL.
        name: String,
        /// The relationship that the key was needed for.
        relationship: &'static str,
    },
    /// The recipient has no key that can be encrypted to.
    #[error("{0} has no keyAgreement key that can be encrypted to")]
    NoRecipientKey(String),
    /// The recipient and the sender have no curve in common.
    #[error(
        "{to} has keyAgreement keys over {recipient_curves}, and {from} over {sender_curves}: there is no common curve"
    )]
    NoCommonCurve {
        /// The recipient.
        to: String,
        /// The recipient's curves.
        recipient_curves: String,
        /// The sender.
        from: String,
        /// The sender's curves.
        sender_curves: String,
    },
    /// A header of the caller's message contradicts the arguments of the call.
    #[error("the message's header {header} names {found}, but should name {expected}")]
    HeaderMismatch {
        /// The name of the header.
        header: &'static str,
        /// Its value.
        found: String,
        /// The expected value.
        expected: String,
    },
    /// The caller asked for a combination that DIDComm forbids.
    #[error("{0}")]
    ForbiddenCombination(&'static str),
    /// The recipient's document has no such service, or the service cannot be used.
    #[error("the service {service:?} of {did} cannot be used: {reason}")]
    UnusableService {
        /// The recipient's DID.
        did: String,
        /// The service's id.
        service: String,
        /// Why the service cannot be used.
        reason: &'static str,
    },
}

/// What is wrong with a `from_prior` (DIDComm v2.1 "DID Rotation").
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FromPriorError {
    /// A claim is absent or has the wrong type. Holds its name, and what it must be.
    Claims(String),
    /// `kid` is not a key of `iss`.
    Issuer,
    /// `sub` is not the message's `from`.
    Subject,
    /// The JWT ends the relationship, but the message has a `from`.
    Ending,
    /// `exp` has passed, by more than clocks may differ (RFC 7519 section 4.1.4).
    Expired,
    /// `nbf` has not come, and is further away than clocks may differ (RFC 7519 section 4.1.5).
    NotYetValid,
    /// `aud` does not name the DID that the message came to (RFC 7519 section 4.1.3).
    Audience,
}

impl fmt::Display for FromPriorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claims(reason) => write!(f, "its claim {reason}"),
            Self::Issuer => f.write_str("its kid is not a key of its iss"),
            Self::Subject => f.write_str("its sub is not the message's from"),
            Self::Ending => f.write_str("it has no sub, which ends a relationship, and the message has a from"),
            Self::Expired => f.write_str("its exp has passed: it is not valid any more"),
            Self::NotYetValid => f.write_str("its nbf has not come: it is not valid yet"),
            Self::Audience => f.write_str("its aud names somebody else than the DID that got it"),
        }
    }
}

impl From<FromPriorError> for Error {
    fn from(error: FromPriorError) -> Self {
        Self::FromPrior(error)
    }
}

impl From<SecretsError> for Error {
    fn from(error: SecretsError) -> Self {
        Self::Envelope(JoseError::Secrets(error))
    }
}

impl Error {
    /// Whether a later attempt may succeed: the operation with the private key may ([`SecretsError::is_retryable`]), no
    /// key is ready, or the source of a DID document is unavailable.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Envelope(JoseError::Secrets(error)) => error.is_retryable(),
            Self::Resolve(error) => error.may_pass(),
            Self::NoReadyKey { .. } => true,
            _ => false,
        }
    }
}
