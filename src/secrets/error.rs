//! What may go wrong with a private key, and whose fault it is.

use std::sync::Arc;

use crate::keys::PublicKey;

/// Why an operation with a private key was not done.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// No token holds the key.
    #[error("no token holds the key {0}")]
    NotHeld(PublicKey),
    /// The configuration does not allow it.
    #[error("the key {key} is not allowed to {operation}: see `allow` in the configuration")]
    NotAllowed {
        /// The key.
        key: PublicKey,
        /// The operation, as `allow` names it.
        operation: &'static str,
    },
    /// The caller asked for something that has no meaning.
    #[error("the request is wrong: {0}")]
    Request(&'static str),
    /// The tokens' queue is full: try again later.
    #[error("the token {token:?} has too many requests waiting; try again")]
    Busy {
        /// The token.
        token: Arc<str>,
    },
    /// The deadline passed.
    #[error("the token {token:?} did not answer before the deadline; try again")]
    Deadline {
        /// The token.
        token: Arc<str>,
    },
    /// The keyring was stopped.
    #[error("the keyring is stopped")]
    Stopped,
    /// The token did it and failed.
    #[error("the token {token:?}: {error}")]
    Token {
        /// The token.
        token: Arc<str>,
        /// What it said.
        #[source]
        error: TokenError,
    },
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The peer's: the wrapped key was not made for this key. Never a sign that the token is sick.
    #[error("the content key does not unwrap")]
    Unwrap,
    /// The peer's: the token refused the point, which was valid.
    #[error("the token refused the peer's key ({0})")]
    PeerKey(String),
    /// The key is not, or no longer, in the token.
    #[error("the key is not in the token")]
    KeyGone,
    /// The token cannot do this at all.
    #[error("the token cannot do this: {0}")]
    Unsupported(String),
    /// The key would leave the token: it is extractable or not sensitive.
    #[error("the key {0} is not protected by the token (it is extractable or not sensitive)")]
    Unprotected(String),
    /// The token's custody tier is below the configured minimum.
    #[error("{0}")]
    Custody(String),
    /// The PIN is absent, wrong, or locked. It is not tried again until a person acts.
    #[error("{0}")]
    Pin(String),
    /// The token is not there.
    #[error("{0}")]
    Away(String),
    /// The configuration does not name one token.
    #[error("{0}")]
    Config(String),
    /// The token gave a wrong answer to a known question.
    #[error("the token failed a known-answer test: {0}")]
    KnownAnswer(String),
    /// The device or its module failed.
    #[error("{operation} failed: {reason}")]
    Device {
        /// What was tried, by its PKCS#11 or PIV name.
        operation: &'static str,
        /// What came back.
        reason: String,
    },
}
