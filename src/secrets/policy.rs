//! What a key may be used for: `allow` and `minimum_custody` of the configuration.

use std::{collections::HashMap, fmt, str::FromStr};

use super::{custody::Custody, signing::SignRequest};
use crate::keys::PublicKey;

/// An operation that `allow` can permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyOperation {
    /// Unwrapping the content key of a received message.
    Unwrap,
    /// Wrapping the content key of an authenticated message.
    Wrap,
    /// Signing a message.
    SignMessage,
    /// Signing a DID rotation (`from_prior`).
    SignFromPrior,
    /// Signing an entry of a did:webvh log.
    SignWebvhEntry,
}

impl KeyOperation {
    /// All operations.
    pub const ALL: [Self; 5] = [Self::Unwrap, Self::Wrap, Self::SignMessage, Self::SignFromPrior, Self::SignWebvhEntry];

    /// The operation's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unwrap => "unwrap",
            Self::Wrap => "wrap",
            Self::SignMessage => "sign:message",
            Self::SignFromPrior => "sign:from-prior",
            Self::SignWebvhEntry => "sign:webvh-entry",
        }
    }
}

impl From<&SignRequest<'_>> for KeyOperation {
    fn from(request: &SignRequest<'_>) -> Self {
        match request {
            SignRequest::Message(_) => Self::SignMessage,
            SignRequest::FromPrior { .. } => Self::SignFromPrior,
            SignRequest::WebvhEntry(_) => Self::SignWebvhEntry,
        }
    }
}

impl fmt::Display for KeyOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyOperation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|operation| operation.name() == name).ok_or_else(|| {
            format!("{name:?} is not an operation; use unwrap, wrap, sign:message, sign:from-prior or sign:webvh-entry")
        })
    }
}

/// The rules for the keys of one token, or for one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The allowed operations. `None` allows all; an empty list allows none.
    pub allow: Option<Vec<KeyOperation>>,
    /// The lowest acceptable custody tier. A key below this tier is an error at start.
    pub minimum_custody: Option<Custody>,
}

/// The rules of a keyring. Each member of a key's own policy overrides that of its token's policy.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    pub(super) tokens: HashMap<String, Policy>,
    pub(super) keys: HashMap<PublicKey, Policy>,
}

impl Policies {
    /// The policy of a key in a token.
    pub(super) fn of(&self, token: &str, key: &PublicKey) -> Policy {
        let token = self.tokens.get(token).cloned().unwrap_or_default();
        let key = self.keys.get(key).cloned().unwrap_or_default();
        Policy { allow: key.allow.or(token.allow), minimum_custody: key.minimum_custody.or(token.minimum_custody) }
    }
}
