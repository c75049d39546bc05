//! The functions of PKCS#11, numbered.

/// The functions that the module passes on, in alphabetical order.
const NAMES: [&str; 67] = [
    "C_CancelFunction",
    "C_CloseAllSessions",
    "C_CloseSession",
    "C_CopyObject",
    "C_CreateObject",
    "C_Decrypt",
    "C_DecryptDigestUpdate",
    "C_DecryptFinal",
    "C_DecryptInit",
    "C_DecryptUpdate",
    "C_DecryptVerifyUpdate",
    "C_DeriveKey",
    "C_DestroyObject",
    "C_Digest",
    "C_DigestEncryptUpdate",
    "C_DigestFinal",
    "C_DigestInit",
    "C_DigestKey",
    "C_DigestUpdate",
    "C_Encrypt",
    "C_EncryptFinal",
    "C_EncryptInit",
    "C_EncryptUpdate",
    "C_Finalize",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_FindObjectsInit",
    "C_GenerateKey",
    "C_GenerateKeyPair",
    "C_GenerateRandom",
    "C_GetAttributeValue",
    "C_GetFunctionStatus",
    "C_GetInfo",
    "C_GetMechanismInfo",
    "C_GetMechanismList",
    "C_GetObjectSize",
    "C_GetOperationState",
    "C_GetSessionInfo",
    "C_GetSlotInfo",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_InitPIN",
    "C_InitToken",
    "C_Initialize",
    "C_Login",
    "C_Logout",
    "C_OpenSession",
    "C_SeedRandom",
    "C_SetAttributeValue",
    "C_SetOperationState",
    "C_SetPIN",
    "C_Sign",
    "C_SignEncryptUpdate",
    "C_SignFinal",
    "C_SignInit",
    "C_SignRecover",
    "C_SignRecoverInit",
    "C_SignUpdate",
    "C_UnwrapKey",
    "C_Verify",
    "C_VerifyFinal",
    "C_VerifyInit",
    "C_VerifyRecover",
    "C_VerifyRecoverInit",
    "C_VerifyUpdate",
    "C_WaitForSlotEvent",
    "C_WrapKey",
];

/// A PKCS#11 function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function(usize);

impl Function {
    pub(crate) const COUNT: usize = NAMES.len();

    /// The function with a name that is known at compile time.
    pub(crate) const fn named(name: &str) -> Self {
        let mut at = 0;
        while at < NAMES.len() {
            if equal(NAMES[at].as_bytes(), name.as_bytes()) {
                return Self(at);
            }
            at += 1;
        }
        panic!("the name is not in the list")
    }

    pub(crate) fn find(name: &str) -> Option<Self> {
        NAMES.binary_search(&name).ok().map(Self)
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    pub(crate) fn name(self) -> &'static str {
        NAMES[self.0]
    }

    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// Compares two slices. A constant function cannot use `==` on slices yet.
const fn equal(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_is_found_by_name() {
        for (number, name) in NAMES.into_iter().enumerate() {
            assert_eq!(Function::find(name), Some(Function(number)), "{name}");
            assert_eq!(Function::named(name).name(), name);
        }
        assert_eq!(Function::find("C_Sig"), None);
    }
}
