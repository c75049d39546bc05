//! Asking a person for a PIN.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::value::Pin;
use crate::secrets::Purpose;

/// A function that asks a person for a PIN. The library has no terminal; the program passes this function in.
pub type Prompt = Arc<dyn Fn(&PinPrompt) -> std::io::Result<Pin> + Send + Sync>;

/// The content of a PIN prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinPrompt {
    /// The token's label.
    pub label: String,
    /// The token's serial number.
    pub serial: String,
    /// What the token reports about the tries left.
    pub state: PinState,
    /// The number of tries left, if the token reports it.
    pub tries_left: Option<u8>,
    /// The operation that needs the PIN, if it is known.
    pub purpose: Option<Purpose>,
}

/// What a token reports about the tries left for its user PIN, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinState {
    /// No wrong PIN was entered since the last correct one.
    Ready,
    /// A wrong PIN was entered since the last correct one (CKF_USER_PIN_COUNT_LOW). SoftHSM 2.6.1 sets the flag after
    /// one wrong PIN.
    CountLow,
    /// The next wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY).
    FinalTry,
    /// The PIN is locked (CKF_USER_PIN_LOCKED).
    Locked,
}
