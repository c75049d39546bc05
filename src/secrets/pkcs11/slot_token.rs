//! A token in a slot, as CK_TOKEN_INFO describes it.

use cryptoki::slot::Slot;
use cryptoki_sys::{
    CK_FLAGS, CK_TOKEN_INFO, CKF_LOGIN_REQUIRED, CKF_PROTECTED_AUTHENTICATION_PATH, CKF_TOKEN_INITIALIZED,
    CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_INITIALIZED, CKF_USER_PIN_LOCKED,
};

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
    /// Describes the token by what it reports. Text that is malformed is shown with replacement characters, and a member
    /// that is not needed (the token's clock) is not looked at: a token is not left out because of them.
    pub(super) fn new(slot: Slot, info: &CK_TOKEN_INFO) -> Self {
        let has = |flag: CK_FLAGS| info.flags & flag != 0;
        let pin = match () {
            () if has(CKF_USER_PIN_LOCKED) => PinState::Locked,
            () if has(CKF_USER_PIN_FINAL_TRY) => PinState::FinalTry,
            () if has(CKF_USER_PIN_COUNT_LOW) => PinState::CountLow,
            () => PinState::Ready,
        };
        Self {
            slot_id: slot.id(),
            info: TokenInfo {
                longest_eddsa: None,
                label: text(&info.label),
                serial: text(&info.serialNumber),
                manufacturer: text(&info.manufacturerID),
                model: text(&info.model),
                firmware: format!("{}.{}", info.firmwareVersion.major, info.firmwareVersion.minor),
            },
            initialized: has(CKF_TOKEN_INITIALIZED),
            pin_set: has(CKF_USER_PIN_INITIALIZED),
            login_required: has(CKF_LOGIN_REQUIRED),
            has_pin_pad: has(CKF_PROTECTED_AUTHENTICATION_PATH),
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

/// A text of fixed length. What follows a zero is not part of it: some modules end their texts so.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    trim_padding(&String::from_utf8_lossy(&bytes[..end]))
}

/// Removes the padding of a PKCS#11 text: blanks by the specification, zeros by some modules.
pub(super) fn trim_padding(text: &str) -> String {
    text.trim_end_matches(['\0', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What openCryptoki 3.8.1 reports: a utcTime that is no time, and a label that ends with a zero.
    #[test]
    fn malformed_members_leave_no_token_out() {
        let mut info = CK_TOKEN_INFO { flags: CKF_TOKEN_INITIALIZED | CKF_LOGIN_REQUIRED, ..CK_TOKEN_INFO::default() };
        info.label[..10].copy_from_slice(b"demo\0\xffrest");
        info.serialNumber = *b"123             ";
        info.manufacturerID[..3].copy_from_slice(b"I\xffB");
        info.utcTime = *b"201\0\xff\xff  not a ti";
        let token = SlotToken::new(Slot::try_from(3u64).unwrap(), &info);
        assert_eq!((&*token.info.label, &*token.info.serial), ("demo", "123"));
        assert_eq!(token.info.manufacturer, "I\u{fffd}B");
        assert!(token.initialized && token.login_required && !token.pin_set);
    }
}
