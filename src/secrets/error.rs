//! What may go wrong with a private key, and whose fault it is.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

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
    /// The keeper ended while it may have been at work: try again. It is not done twice behind the caller's back where a
    /// person is asked for a PIN or a touch.
    #[error("the keeper of the token {token:?} ended before it answered; try again")]
    Interrupted {
        /// The token.
        token: Arc<str>,
    },
    /// More is asked of the key than `rate` in the configuration allows: try again later.
    #[error("the key {0} is used more often than the keeper's `rate` allows; try again")]
    RateLimited(PublicKey),
    /// The keeper could not write the operation down, so its result is withheld.
    #[error("the keeper cannot write its audit: {0}")]
    Audit(String),
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

impl SecretsError {
    /// Whether the same request may succeed later, without anyone doing anything but waiting.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Deadline { .. } | Self::Interrupted { .. } | Self::RateLimited(_) => true,
            Self::Audit(_) => true,
            Self::Token { error, .. } => {
                matches!(error.cause(), Cause::Transient | Cause::SessionLost | Cause::TokenGone | Cause::Pin)
            }
            Self::NotHeld(_) | Self::NotAllowed { .. } | Self::Request(_) | Self::Stopped => false,
        }
    }
}

/// Whose fault a failure of a token is, and so what cures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The peer's, who sent what cannot be right. Never a sign that the token is sick.
    Peer,
    /// The device's or its module's, and perhaps gone the next time.
    Transient,
    /// The session's or the login's: opened again, it works.
    SessionLost,
    /// The token, or the key in it, is not there.
    TokenGone,
    /// The PIN's: nothing helps until a person acts.
    Pin,
    /// The configuration's, or the token cannot do this at all.
    Permanent,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
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
    /// The session or the login was lost, and so it was when it was opened again.
    #[error("{operation} failed: {reason}")]
    SessionLost {
        /// What was tried, by its PKCS#11 or PIV name.
        operation: Cow<'static, str>,
        /// What came back.
        reason: String,
    },
    /// The device or its module failed.
    #[error("{operation} failed: {reason}")]
    Device {
        /// What was tried, by its PKCS#11 or PIV name.
        operation: Cow<'static, str>,
        /// What came back.
        reason: String,
    },
}

impl TokenError {
    /// Whose fault it is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Unwrap | Self::PeerKey(_) => Cause::Peer,
            Self::Device { .. } => Cause::Transient,
            Self::SessionLost { .. } => Cause::SessionLost,
            Self::KeyGone | Self::Away(_) => Cause::TokenGone,
            Self::Pin(_) => Cause::Pin,
            Self::Unsupported(_) | Self::Unprotected(_) | Self::Custody(_) | Self::Config(_) | Self::KnownAnswer(_) => {
                Cause::Permanent
            }
        }
    }
}
