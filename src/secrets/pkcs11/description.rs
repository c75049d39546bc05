//! How a device describes itself, without anything that tells it from another of its kind: no label, no serial number and
//! no slot. For `claviger token doctor --report`.

use cryptoki::mechanism::MechanismType;
use cryptoki_sys::{
    CK_FLAGS, CK_MECHANISM_TYPE, CK_ULONG, CK_UNAVAILABLE_INFORMATION, CK_VERSION, CKF_DECRYPT, CKF_DERIVE, CKF_DIGEST,
    CKF_EC_COMPRESS, CKF_EC_F_P, CKF_EC_OID, CKF_EC_UNCOMPRESS, CKF_ENCRYPT, CKF_GENERATE, CKF_GENERATE_KEY_PAIR,
    CKF_HW, CKF_SIGN, CKF_UNWRAP, CKF_VERIFY, CKF_WRAP, CKM_SHA256_KEY_DERIVATION,
};
use serde::Serialize;

use super::{ckr::During, slot_token::text, token::Pkcs11Token};
use crate::secrets::TokenError;

/// How a device and its module describe themselves. Nothing in it tells one device from another of its kind, provided that
/// the module follows the specification; its texts are the module's own.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DeviceDescription {
    /// CK_INFO.
    pub module: ModuleDescription,
    /// CK_TOKEN_INFO.
    pub token: TokenDescription,
    /// The mechanisms that the module lists, by their numbers.
    pub mechanisms: Vec<MechanismDescription>,
}

/// What CK_INFO says (PKCS#11 v3.1 section 3.1).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ModuleDescription {
    /// manufacturerID.
    pub manufacturer: String,
    /// libraryDescription.
    pub description: String,
    /// libraryVersion, as major.minor.
    pub version: String,
    /// cryptokiVersion, as major.minor.
    pub cryptoki: String,
}

/// What CK_TOKEN_INFO says of every device of a kind (PKCS#11 v3.1 section 3.2).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TokenDescription {
    /// manufacturerID.
    pub manufacturer: String,
    /// model.
    pub model: String,
    /// hardwareVersion, as major.minor.
    pub hardware: String,
    /// firmwareVersion, as major.minor.
    pub firmware: String,
}

/// What CK_MECHANISM_INFO says of one mechanism (PKCS#11 v3.1 section 3.5).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MechanismDescription {
    /// The PKCS#11 name, or the number in hexadecimal if no name is known.
    pub name: String,
    /// ulMinKeySize, in the mechanism's unit; none if the module does not describe the mechanism.
    pub smallest: Option<u64>,
    /// ulMaxKeySize, in the mechanism's unit; none if the module does not describe the mechanism.
    pub largest: Option<u64>,
    /// The names of the known flags that are set, without `CKF_`.
    pub flags: Vec<&'static str>,
}

/// The flags of CK_MECHANISM_INFO that say what a mechanism is for, and which curves it has.
const FLAGS: [(CK_FLAGS, &str); 15] = [
    (CKF_HW, "HW"),
    (CKF_ENCRYPT, "ENCRYPT"),
    (CKF_DECRYPT, "DECRYPT"),
    (CKF_DIGEST, "DIGEST"),
    (CKF_SIGN, "SIGN"),
    (CKF_VERIFY, "VERIFY"),
    (CKF_GENERATE, "GENERATE"),
    (CKF_GENERATE_KEY_PAIR, "GENERATE_KEY_PAIR"),
    (CKF_WRAP, "WRAP"),
    (CKF_UNWRAP, "UNWRAP"),
    (CKF_DERIVE, "DERIVE"),
    (CKF_EC_F_P, "EC_F_P"),
    (CKF_EC_OID, "EC_OID"),
    (CKF_EC_UNCOMPRESS, "EC_UNCOMPRESS"),
    (CKF_EC_COMPRESS, "EC_COMPRESS"),
];

impl Pkcs11Token {
    /// How the device describes itself. One call to the module for each mechanism.
    ///
    /// # Errors
    /// [`TokenError`] if the module or the token does not answer.
    pub fn describe_device(&self) -> Result<DeviceDescription, TokenError> {
        let (raw, slot) = (&self.connection.module.raw, self.connection.slot());
        let module = raw.info().during("C_GetInfo")?;
        let token = raw.token_info(slot).during("C_GetTokenInfo")?;
        let mut types = raw.mechanism_types(slot).during("C_GetMechanismList")?;
        types.sort_unstable();
        let mechanisms = types.into_iter().map(|mechanism| {
            let info = raw.mechanism_info(slot, mechanism).ok();
            let flags = info.map_or(0, |info| info.flags);
            MechanismDescription {
                name: name(mechanism),
                smallest: info.and_then(|info| size(info.ulMinKeySize)),
                largest: info.and_then(|info| size(info.ulMaxKeySize)),
                flags: FLAGS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect(),
            }
        });
        Ok(DeviceDescription {
            module: ModuleDescription {
                manufacturer: text(&module.manufacturerID),
                description: text(&module.libraryDescription),
                version: version(module.libraryVersion),
                cryptoki: version(module.cryptokiVersion),
            },
            token: TokenDescription {
                manufacturer: text(&token.manufacturerID),
                model: text(&token.model),
                hardware: version(token.hardwareVersion),
                firmware: version(token.firmwareVersion),
            },
            mechanisms: mechanisms.collect(),
        })
    }
}

/// A key size; none if the module does not know it.
// CK_ULONG has 32 bits on some platforms.
#[allow(clippy::useless_conversion)]
fn size(size: CK_ULONG) -> Option<u64> {
    (size != CK_UNAVAILABLE_INFORMATION).then_some(size.into())
}

fn version(version: CK_VERSION) -> String {
    format!("{}.{}", version.major, version.minor)
}

/// The PKCS#11 name of a mechanism.
fn name(mechanism: CK_MECHANISM_TYPE) -> String {
    match MechanismType::try_from(mechanism) {
        Ok(known) if mechanism < cryptoki_sys::CKM_VENDOR_DEFINED => known.to_string(),
        // cryptoki has no name for it.
        _ if mechanism == CKM_SHA256_KEY_DERIVATION => "CKM_SHA256_KEY_DERIVATION".to_owned(),
        _ => format!("{mechanism:#010x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mechanisms() {
        for (number, expected) in [
            (cryptoki_sys::CKM_ECDH1_DERIVE, "CKM_ECDH1_DERIVE"),
            (CKM_SHA256_KEY_DERIVATION, "CKM_SHA256_KEY_DERIVATION"),
            (0x8000_0001, "0x80000001"),
            (0x7fff_fff0, "0x7ffffff0"),
        ] {
            assert_eq!(name(number), expected);
        }
    }
}
