//! What can go wrong with a private key, and whose fault it is.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::keys::PublicKey;

/// Why an operation with a private key failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// No token holds the key.
    #[error("no token holds the key {0}")]
    NotHeld(PublicKey),
    /// The configuration does not allow the operation.
    #[error("the key {key} is not allowed to {operation}; see `allow` in the configuration")]
    NotAllowed {
        /// The key.
        key: PublicKey,
        /// The operation, by its name in `allow`.
        operation: &'static str,
    },
    /// The caller's request is invalid.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    /// The token's queue is full. A later attempt may succeed.
    #[error("too many requests wait for the token {token:?}; try again")]
    Busy {
        /// The token.
        token: Arc<str>,
    },
    /// The deadline passed.
    #[error("the token {token:?} did not answer before the deadline; try again")]
    DeadlineExceeded {
        /// The token.
        token: Arc<str>,
    },
    /// The keeper ended, perhaps during the operation. A later attempt may succeed. The operation is not repeated
    /// automatically where that would ask a person for a PIN or a touch again.
    #[error("the keeper of the token {token:?} ended before it answered; try again")]
    Interrupted {
        /// The token.
        token: Arc<str>,
    },
    /// The key was used more often than `rate` in the configuration allows. A later attempt may succeed.
    #[error("the key {0} is used more often than the keeper's `rate` allows; try again")]
    RateLimited(PublicKey),
    /// The keeper could not write the operation to the audit log, so it withheld the result.
    #[error("the keeper cannot write its audit log: {0}")]
    AuditFailed(String),
    /// The keyring was stopped.
    #[error("the keyring is stopped")]
    Stopped,
    /// The token tried the operation and failed.
    #[error("{}", error.message_of(token))]
    Token {
        /// The token.
        token: Arc<str>,
        /// The token's error.
        #[source]
        error: TokenError,
    },
}

impl SecretsError {
    /// Whether the same request may succeed later. For a refused PIN, a person must act first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::DeadlineExceeded { .. } | Self::Interrupted { .. } | Self::RateLimited(_) => true,
            Self::AuditFailed(_) => true,
            Self::Token { error, .. } => !matches!(error.cause(), Cause::Peer | Cause::Permanent),
            Self::NotHeld(_) | Self::NotAllowed { .. } | Self::InvalidRequest(_) | Self::Stopped => false,
        }
    }
}

/// Whose fault a token's failure is. This decides what can remedy it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The peer sent something invalid. Never a sign that the token is broken.
    Peer,
    /// Nobody is known to be at fault. Never a sign that the token is broken. The next attempt, or another token, may
    /// succeed.
    Unknown,
    /// The device or its module failed. The next attempt may succeed.
    Transient,
    /// The session or the login was lost. It can be opened again.
    SessionLost,
    /// The token is absent, or the key is not in it.
    TokenGone,
    /// The PIN is absent, wrong or locked. A person must act.
    Pin,
    /// The configuration is wrong, or the token cannot do this.
    Permanent,
}

/// Why a token failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TokenError {
    /// The peer's fault: the wrapped key was not made for this key. Never a sign that the token is broken. A
    /// [`Keyring`](super::Keyring) returns this only if the token answered a question of the same kind rightly, with the
    /// same key and at about the same time; keys that ask a person are not asked such questions.
    #[error("the content key does not unwrap")]
    Unwrap,
    /// The token refused input that is valid as far as this process can tell: the peers' public keys are points of their
    /// curves. It does the same operation with other inputs. Whose fault this is, is not known.
    #[error("the token refused valid input ({0})")]
    Refused(String),
    /// The token does not hold the key, or no longer holds it.
    #[error("the key is not in the token")]
    KeyGone,
    /// The token cannot do this.
    #[error("the token cannot do this: {0}")]
    Unsupported(String),
    /// The token does not protect the key: the key is extractable or not sensitive.
    #[error("the key {0} is not protected by the token (it is extractable or not sensitive)")]
    Unprotected(String),
    /// The token's custody tier is below the configured minimum.
    #[error("{0}")]
    Custody(String),
    /// The PIN is absent, wrong or locked. It is not tried again until a person acts.
    #[error("{0}")]
    Pin(String),
    /// The token is absent.
    #[error("{0}")]
    Away(String),
    /// The configuration is wrong, or does not name exactly one token.
    #[error("{0}")]
    Config(String),
    /// The token gave a wrong result for a known input.
    #[error("the token failed a known-answer test: {0}")]
    KnownAnswer(String),
    /// The session or the login was lost, and was lost again after it was renewed once.
    #[error("{operation} failed: {reason}")]
    SessionLost {
        /// The operation, by its PKCS#11 or PIV name.
        operation: Cow<'static, str>,
        /// The error that the token returned.
        reason: String,
    },
    /// The device or its module failed.
    #[error("{operation} failed: {reason}")]
    Device {
        /// The operation, by its PKCS#11 or PIV name.
        operation: Cow<'static, str>,
        /// The error that the token returned.
        reason: String,
    },
    /// The key must not enter a DID document: the token does not serve it, or gave a wrong answer to a question about
    /// it.
    #[error("the key {key} is not proved: {reason}")]
    Unproved {
        /// The key's multikey.
        key: String,
        /// Why the key is not proved.
        reason: String,
    },
}

impl TokenError {
    /// The message, with the name of the token in it once. A message that quotes a label or a name has one already.
    pub fn message_of(&self, token: &str) -> String {
        let message = self.to_string();
        match message.strip_prefix("the token ") {
            Some(rest) if rest.starts_with('"') => message,
            Some(rest) => format!("the token {token:?} {rest}"),
            None if message.contains(&format!("the token {token:?}")) => message,
            None => format!("the token {token:?}: {message}"),
        }
    }

    /// Whose fault the failure is.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Unwrap => Cause::Peer,
            Self::Refused(_) => Cause::Unknown,
            Self::Device { .. } => Cause::Transient,
            Self::SessionLost { .. } => Cause::SessionLost,
            Self::KeyGone | Self::Away(_) => Cause::TokenGone,
            Self::Pin(_) => Cause::Pin,
            Self::Unsupported(_)
            | Self::Unprotected(_)
            | Self::Custody(_)
            | Self::Config(_)
            | Self::KnownAnswer(_)
            | Self::Unproved { .. } => Cause::Permanent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_token_once() {
        let message = |error: TokenError| SecretsError::Token { token: "soft".into(), error }.to_string();
        let locked = "the token \"soft\" was locked by `claviger token lock`";
        assert_eq!(message(TokenError::Pin(locked.to_owned())), locked);
        let away = "the keeper of the token \"soft\" is being restarted";
        assert_eq!(message(TokenError::Away(away.to_owned())), away);
        let cannot = message(TokenError::Unsupported("it has no X25519".to_owned()));
        assert_eq!(cannot, "the token \"soft\" cannot do this: it has no X25519");
        assert_eq!(message(TokenError::KeyGone), "the token \"soft\": the key is not in the token");
    }
}
