//! A token in a slot, as CK_TOKEN_INFO describes it.

use cryptoki::slot::Slot;

use super::uri::Uri;
use crate::secrets::{TokenInfo, pin::PinState};

/// A token in a slot, as it describes itself without a login.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotToken {
    /// The slot's number. The module may renumber its slots.
    pub slot_id: u64,
    /// The token's description of itself.
    pub info: TokenInfo,
    /// Whether the token is initialised (CKF_TOKEN_INITIALIZED). Only an initialised token has a label and
    /// may hold keys.
    pub initialized: bool,
    /// Whether the user PIN is set (CKF_USER_PIN_INITIALIZED).
    pub pin_set: bool,
    /// Whether the keys are visible only after a login (CKF_LOGIN_REQUIRED).
    pub login_required: bool,
    /// Whether the token asks for the PIN itself, on its own pad (CKF_PROTECTED_AUTHENTICATION_PATH).
    pub has_pin_pad: bool,
    /// What the token reports about the tries left for the user PIN.
    pub pin: PinState,
}

impl SlotToken {
    pub(super) fn new(slot: Slot, info: &cryptoki::slot::TokenInfo) -> Self {
        let pin = match () {
            () if info.user_pin_locked() => PinState::Locked,
            () if info.user_pin_final_try() => PinState::FinalTry,
            () if info.user_pin_count_low() => PinState::CountLow,
            () => PinState::Ready,
        };
        Self {
            slot_id: slot.id(),
            info: TokenInfo {
                longest_eddsa: None,
                label: trim_padding(info.label()),
                serial: trim_padding(info.serial_number()),
                manufacturer: trim_padding(info.manufacturer_id()),
                model: trim_padding(info.model()),
                firmware: info.firmware_version().to_string(),
            },
            initialized: info.token_initialized(),
            pin_set: info.user_pin_initialized(),
            login_required: info.login_required(),
            has_pin_pad: info.protected_authentication_path(),
            pin,
        }
    }

    /// Whether the token has everything that the URI asks for.
    pub(super) fn matches(&self, uri: &Uri) -> bool {
        let same = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        same(&uri.token, &self.info.label)
            && same(&uri.serial, &self.info.serial)
            && same(&uri.manufacturer, &self.info.manufacturer)
            && same(&uri.model, &self.info.model)
            && uri.slot_id.is_none_or(|wanted| wanted == self.slot_id)
    }
}

impl std::fmt::Display for SlotToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TokenInfo { label, serial, manufacturer, model, .. } = &self.info;
        write!(f, "{label:?} (serial {serial}, {manufacturer} {model}, slot {})", self.slot_id)
    }
}

/// Removes the padding of a PKCS#11 text: blanks by the specification, zeros by some modules.
pub(super) fn trim_padding(text: &str) -> String {
    text.trim_end_matches(['\0', ' ']).to_owned()
}
