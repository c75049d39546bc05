//! What the agent reports about its tokens: to the application, in the metrics and in health checks.

use super::clock::Millis;
use crate::secrets::KeyState;

/// The state of a configured token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenReport {
    /// The token's name in the configuration.
    pub name: String,
    /// Whether the token can be used.
    pub state: KeyState,
    /// Since when the token is in this state, in milliseconds since 1970.
    pub since: Millis,
    /// Why the token cannot be used; none if it is ready.
    pub problem: Option<TokenProblem>,
}

/// Why a token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenProblem {
    /// A code for programs, one of those of the command line (`docs/cli.md`).
    pub code: &'static str,
    /// The reason, for a person.
    pub reason: String,
    /// What a person does about it, if that is known.
    pub action: Option<String>,
}

/// Returns the current state of each token, in configured order.
pub type ReadTokenStates = Box<dyn Fn() -> Vec<TokenReport> + Send + Sync>;

/// What received messages wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningWaits {
    /// The agent has no DID that it serves.
    ForDid,
    /// No ready token has a key agreement key of our DIDs.
    ForToken,
    /// No ready token has unwrapped the key of the store since the start.
    ForStore,
}

impl OpeningWaits {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForDid => "did",
            Self::ForToken => "token",
            Self::ForStore => "store",
        }
    }
}

/// The name of a state in the API and in the metrics.
pub(super) fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Ready => "ready",
        KeyState::Away => "away",
        KeyState::Locked => "locked",
    }
}
