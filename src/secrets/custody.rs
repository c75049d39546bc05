//! Custody tiers: which intermediate secrets of a key agreement leave the token.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which intermediate secrets of a key agreement leave the token, weakest tier first. Z is the shared secret of ECDH;
/// the KEK is derived from it. The private key never leaves the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// Z leaves the token. The process that uses the token derives the KEK, unwraps the content key, and wipes both.
    SharedSecretInProcess,
    /// Z stays in the token, which derives the KEK. The KEK leaves the token.
    KekInProcess,
    /// Z and the KEK stay in the token, which unwraps the content key.
    KekInToken,
}

impl Custody {
    /// All tiers, weakest first.
    pub const ALL: [Self; 3] = [Self::SharedSecretInProcess, Self::KekInProcess, Self::KekInToken];

    /// The tier's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::SharedSecretInProcess => "shared-secret-in-process",
            Self::KekInProcess => "kek-in-process",
            Self::KekInToken => "kek-in-token",
        }
    }
}

impl fmt::Display for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Custody {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|tier| tier.name() == name).ok_or_else(|| {
            format!("{name:?} is not a custody tier; use shared-secret-in-process, kek-in-process or kek-in-token")
        })
    }
}
