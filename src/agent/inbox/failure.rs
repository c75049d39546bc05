//! Decides from the error whether a message that did not open is tried again.

use crate::{
    agent::clock::Millis,
    did::ResolveError,
    didcomm::Error,
    jose::JoseError,
    secrets::{SecretsError, TokenError},
};

/// Why a message did not open, classified by what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackFailure {
    /// No token can open the message now, or a policy or a forbidden prompt prevents it. The message waits until a
    /// token opens it, at most for `Retention::envelopes` (30 days).
    RetryLater,
    /// The sender's DID cannot be resolved now. The message waits until [`SENDER_RESOLUTION_TIMEOUT`] after its
    /// arrival.
    SenderUnresolved,
    /// The message is refused, because its last failure is final. If the message is encrypted to several of our keys,
    /// an earlier key may have failed only because its token is unavailable.
    Permanent,
}

/// How long after its arrival a message waits for its sender's document, in milliseconds. Time that it waited for a
/// token counts.
pub const SENDER_RESOLUTION_TIMEOUT: Millis = 24 * 60 * 60 * 1000;

/// Classifies an error of unpacking. The peer is at fault if a token refuses the message, and is not if a token fails.
pub fn classify(error: &Error) -> UnpackFailure {
    match error {
        Error::Envelope(JoseError::Secrets(error)) => classify_secrets_error(error),
        // A document names a key of ours that no token has shown yet.
        Error::NotForUs(_) | Error::KeyNotHeld(_) | Error::NoReadyKey { .. } => UnpackFailure::RetryLater,
        // The message waits until there is a connection with its sender, or an open invitation.
        Error::PromptNotAllowed { .. } => UnpackFailure::RetryLater,
        Error::Resolve(ResolveError::Unavailable { .. } | ResolveError::LongFormUnknown(_)) => {
            UnpackFailure::SenderUnresolved
        }
        _ => UnpackFailure::Permanent,
    }
}

fn classify_secrets_error(error: &SecretsError) -> UnpackFailure {
    match error {
        SecretsError::Token { error: TokenError::Unwrap | TokenError::PeerKey(_), .. } => UnpackFailure::Permanent,
        // All other errors are on our side and can be repaired: a PIN, a policy, a token's module.
        _ => UnpackFailure::RetryLater,
    }
}
