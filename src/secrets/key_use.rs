//! What a key may do: key agreement, signing, or both.

use serde::{Deserialize, Serialize};

use crate::keys::Curve;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUse {
    /// Key agreement only.
    Agreement,
    /// Signing only.
    Signing,
    /// Both. A P-256 key can do both, and a P-256 did:key must.
    Both,
}

impl KeyUse {
    /// Everything that a key on `curve` can do.
    pub fn of(curve: Curve) -> Self {
        match (curve.supports_key_agreement(), curve.signature_algorithm().is_some()) {
            (true, true) => Self::Both,
            (true, false) => Self::Agreement,
            (false, _) => Self::Signing,
        }
    }

    /// Whether the key may be used for key agreement.
    pub fn allows_key_agreement(self) -> bool {
        matches!(self, Self::Agreement | Self::Both)
    }

    /// Whether the key may sign.
    pub fn allows_signing(self) -> bool {
        matches!(self, Self::Signing | Self::Both)
    }

    /// Whether a key on `curve` can do all of this.
    pub fn fits(self, curve: Curve) -> bool {
        (!self.allows_key_agreement() || curve.supports_key_agreement())
            && (!self.allows_signing() || curve.signature_algorithm().is_some())
    }
}
