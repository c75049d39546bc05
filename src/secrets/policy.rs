//! What a key may be used for, as the configuration says (`allow`, `minimum_custody`).

use std::{collections::HashMap, fmt, str::FromStr};

use super::{Custody, ToSign};
use crate::keys::PublicKey;

/// One thing that a key may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Allow {
    /// Opening messages.
    Unwrap,
    /// Authenticating an encrypted message.
    Wrap,
    /// Signing a message.
    SignMessage,
    /// Signing a DID rotation.
    SignFromPrior,
    /// Signing an entry of a did:webvh's log.
    SignWebvhEntry,
}

impl Allow {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unwrap, Self::Wrap, Self::SignMessage, Self::SignFromPrior, Self::SignWebvhEntry];

    /// Its name in the configuration.
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

impl From<&ToSign<'_>> for Allow {
    fn from(what: &ToSign<'_>) -> Self {
        match what {
            ToSign::Message(_) => Self::SignMessage,
            ToSign::FromPrior { .. } => Self::SignFromPrior,
            ToSign::WebvhEntry(_) => Self::SignWebvhEntry,
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|allow| allow.name() == name).ok_or_else(|| {
            format!("{name:?} is nothing a key can be allowed: unwrap, wrap, sign:message, sign:from-prior or sign:webvh-entry")
        })
    }
}

/// The rules of one token, or of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What is allowed; everything if none.
    pub allow: Option<Vec<Allow>>,
    /// The custody below which a key is refused at start.
    pub minimum_custody: Option<Custody>,
}

/// The rules of a keyring: a key's own come before its token's, member by member.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    pub(super) tokens: HashMap<String, Policy>,
    pub(super) keys: HashMap<PublicKey, Policy>,
}

impl Policies {
    pub(super) fn of(&self, token: &str, key: &PublicKey) -> Policy {
        let token = self.tokens.get(token).cloned().unwrap_or_default();
        let key = self.keys.get(key).cloned().unwrap_or_default();
        Policy { allow: key.allow.or(token.allow), minimum_custody: key.minimum_custody.or(token.minimum_custody) }
    }
}
