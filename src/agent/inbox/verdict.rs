//! Whether a message that was not opened may be opened later.

use crate::{
    agent::store::Millis,
    did::ResolveError,
    didcomm::Error,
    jose::JoseError,
    secrets::{SecretsError, TokenError},
};

/// What is done with a message that did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A token is away, or does not do it now: it waits for as long as it is kept.
    AwaitsToken,
    /// Its sender cannot be looked up now: it waits for a day.
    AwaitsSender,
    /// It never will: it is let go.
    Never,
}

/// How long a message waits for its sender's document.
pub const PATIENCE_WITH_SENDERS: Millis = 24 * 60 * 60 * 1000;

/// The verdict. A message that the token refuses is the peer's fault, and one that the token fails at is not.
pub fn of(error: &Error) -> Verdict {
    match error {
        Error::Envelope(JoseError::Secrets(error)) => of_secrets(error),
        // A key of ours that is named by a document and that no token has shown yet.
        Error::NotForUs(_) | Error::NoTokenHolds(_) | Error::NotOurs { .. } => Verdict::AwaitsToken,
        // It is opened when its sender is known, or when an invitation is open.
        Error::Stranger { .. } => Verdict::AwaitsToken,
        Error::Resolve(ResolveError::Unavailable { .. } | ResolveError::LongFormUnknown(_)) => Verdict::AwaitsSender,
        _ => Verdict::Never,
    }
}

fn of_secrets(error: &SecretsError) -> Verdict {
    match error {
        SecretsError::Token { error: TokenError::Unwrap | TokenError::PeerKey(_), .. } => Verdict::Never,
        // Everything else is on our side, and someone may mend it: a PIN, a policy, a token's module.
        _ => Verdict::AwaitsToken,
    }
}
