//! Custody tiers: how far a shared secret comes out of a token.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How far a shared secret that was made with one of our keys comes out of the token, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// The process that has the token reads Z, uses it and wipes it.
    SharedSecretInProcess,
    /// The token hashes Z; the KEK comes out.
    KekInProcess,
    /// Z and the KEK stay in the token, which unwraps the content key.
    KekInToken,
}

impl Custody {
    /// All tiers, worst first.
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
