//! The evidence in a profile: what the device can do, and how that is known.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What a device can do, and how that is known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    pub(super) basis: EvidenceBasis,
    /// The version of the device or module that was measured or is documented.
    pub(super) version: String,
    /// A verdict for each curve, by its name.
    pub(super) serves: BTreeMap<String, Verdict>,
}

/// The basis of statements about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceBasis {
    /// This project's tests ran on the device.
    Measured,
    /// Documentation or source code says so. The device was not run.
    #[serde(rename = "read")]
    Documented,
}

/// What a token can do with keys on a curve. Ordered from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The token can do nothing that DIDComm uses.
    #[serde(rename = "not")]
    Unsupported,
    /// The token signs.
    SignOnly,
    /// The token opens ECDH-ES.
    Anoncrypt,
    /// The token opens and makes ECDH-1PU, and opens ECDH-ES.
    Authcrypt,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Unsupported => "not",
            Verdict::SignOnly => "sign-only",
            Verdict::Anoncrypt => "anoncrypt",
            Verdict::Authcrypt => "authcrypt",
        })
    }
}
