//! What a device is said to do, and on what evidence.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What a device is said to do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evidence {
    pub(super) basis: EvidenceBasis,
    /// The version of the device or module that was measured or read about.
    pub(super) version: String,
    /// A verdict for each curve, by its name.
    pub(super) serves: BTreeMap<String, Verdict>,
}

/// The basis of statements about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceBasis {
    /// This project's tests ran the token.
    Measured,
    /// Documentation or source code says so. The device was not run.
    #[serde(rename = "read")]
    Documented,
}

/// What a token does with keys on a curve, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing that DIDComm uses.
    #[serde(rename = "not")]
    Unsupported,
    /// It signs.
    SignOnly,
    /// It opens ECDH-ES.
    Anoncrypt,
    /// It opens and makes ECDH-1PU, and opens ECDH-ES.
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
