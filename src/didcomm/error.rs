//! What may go wrong between a plaintext and an envelope, and whose fault it is.

use std::fmt;

use super::MessageError;
use crate::{
    did::{Relationship, ResolveError},
    jose::{JoseError, quoted},
    keys::KeyError,
    secrets::SecretsError,
};

/// Why a message was not packed or not unpacked.
///
/// The variants are for the log and for tests. A peer is told one thing only: that its message was not understood.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The envelope is malformed, does not open, or the token failed ([`JoseError`] says which).
    #[error(transparent)]
    Envelope(#[from] JoseError),
    /// No recipient of the message is one of our keys.
    #[error("the message is for none of our keys: {} recipients, the first {}", .0.len(), quoted(.0.first().map_or("", String::as_str)))]
    NotForUs(Vec<String>),
    /// The layers are in an order that DIDComm forbids (v2.1 "Media Types", combinations).
    #[error("a {inner} envelope inside a {outer} one is forbidden")]
    Nesting {
        /// What was opened.
        outer: &'static str,
        /// What was found in it.
        inner: &'static str,
    },
    /// A DID does not resolve.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A key id is no DID URL.
    #[error("the key id {} is no DID URL", quoted(.0))]
    KeyId(String),
    /// A key does not stand where its use demands.
    #[error("the key {} does not stand in {} of its document", quoted(kid), relationship.name())]
    NotAuthorised {
        /// The key.
        kid: String,
        /// Where it must stand.
        relationship: Relationship,
    },
    /// A key of a document is broken or of an unknown type.
    #[error("the key {} is refused: {error}", quoted(kid))]
    Key {
        /// The key.
        kid: String,
        /// Why.
        error: KeyError,
    },
    /// What was opened is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// An authenticated message says not who it is from.
    #[error("the message was made by {}, and has no from", quoted(.0))]
    FromAbsent(String),
    /// `from` is not the DID of the key that encrypted or signed.
    #[error("the message says it is from {}, and was made by {}", quoted(from), quoted(kid))]
    From {
        /// The header.
        from: String,
        /// The key.
        kid: String,
    },
    /// `to` does not name the DID whose key opened the message.
    #[error("the message was opened by {kid}, and its to does not name that DID")]
    To {
        /// Our key.
        kid: String,
    },
    /// A signed and encrypted message must say whom it is for (v2.1 "Message Signing").
    #[error("the message is signed and encrypted, and has no to")]
    ToAbsent,
    /// `from_prior` is not what it must be.
    #[error("the from_prior is refused: {0}")]
    FromPrior(FromPriorError),
    /// A forward to ourselves holds another one.
    #[error("a forward to ourselves holds another forward")]
    ForwardLoop,
    /// A forward has no attachment, or `next` is absent.
    #[error("the forward is refused: {0}")]
    Forward(&'static str),

    /// Ours: a method of our document whose key no token holds.
    #[error("no token holds the key of {0}")]
    NoTokenHolds(String),
    /// A stranger's: the key asks a person for a PIN or a touch, and the message does not say that it is from one of those for
    /// whom that is done ([`UnpackOptions::prompt_for`](super::UnpackOptions::prompt_for)).
    #[error("{kid} asks a person, and is not asked for a message that does not say it is from one who is known")]
    Stranger {
        /// The key's DID URL.
        kid: String,
    },
    /// Ours: the DID or key is none of ours.
    #[error("{name} is none of our {relationship} keys, or its token is away")]
    NotOurs {
        /// The DID or DID URL.
        name: String,
        /// What it was wanted for.
        relationship: &'static str,
    },
    /// The recipient has no key that we can encrypt to.
    #[error("{0} has no keyAgreement key that can be encrypted to")]
    NoRecipientKey(String),
    /// The recipient and the sender have no curve in common.
    #[error("{to} agrees on keys over {theirs}, and {from} over {ours}: there is no common curve")]
    NoCommonCurve {
        /// The recipient.
        to: String,
        /// Its curves.
        theirs: String,
        /// The sender.
        from: String,
        /// Its curves.
        ours: String,
    },
    /// The caller's message does not fit its arguments.
    #[error("the message's {header} does not fit: it says {found}, and should name {expected}")]
    Header {
        /// The header.
        header: &'static str,
        /// What stands there.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The caller asked for a combination that DIDComm forbids.
    #[error("{0}")]
    Combination(&'static str),
    /// The recipient's document has no such service, or none that serves.
    #[error("the service {service:?} of {did} does not serve: {reason}")]
    Service {
        /// The DID.
        did: String,
        /// The service's id.
        service: String,
        /// Why.
        reason: &'static str,
    },
}

/// What is wrong with a `from_prior` (DIDComm v2.1 "DID Rotation").
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FromPriorError {
    /// A claim is absent or has the wrong type.
    Claims(String),
    /// `kid` is not a key of `iss`.
    Issuer,
    /// `sub` is not the message's `from`.
    Subject,
    /// It ends the relationship, and yet the message has a `from`.
    Ending,
}

impl fmt::Display for FromPriorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claims(reason) => write!(f, "its claims are wrong: {}", quoted(reason)),
            Self::Issuer => f.write_str("its kid is no key of its iss"),
            Self::Subject => f.write_str("its sub is not the message's from"),
            Self::Ending => f.write_str("it has no sub, which ends a relationship, and the message has a from"),
        }
    }
}

impl From<SecretsError> for Error {
    fn from(error: SecretsError) -> Self {
        Self::Envelope(JoseError::Secrets(error))
    }
}

impl Error {
    /// Whether trying again later may help: the token, or a DID's source, is away or busy. Everything else stays as it
    /// is.
    pub fn is_retryable(&self) -> bool {
        use crate::secrets::TokenError as Token;
        match self {
            Self::Envelope(JoseError::Secrets(error)) => match error {
                SecretsError::Busy { .. } | SecretsError::Deadline { .. } => true,
                SecretsError::Token { error, .. } => {
                    matches!(error, Token::Away(_) | Token::Pin(_) | Token::Device { .. })
                }
                _ => false,
            },
            Self::Resolve(error) => matches!(error, ResolveError::Unavailable { .. }),
            Self::NotOurs { .. } => true,
            _ => false,
        }
    }
}
