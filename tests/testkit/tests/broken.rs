//! Tokens with one fault each, and the check that must find it: a suite that finds no faults proves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use claviger::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, ImportKey, NewKey, Origin, Purpose, Token, TokenError, TokenInfo, UnwrapRequest,
        WrapRequest,
    },
};
use claviger_testkit::{
    PrivateKey, SoftToken,
    suite::{CHECKS, Capabilities, Check},
};

/// The fault of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    IgnoresTheSender,
    IgnoresApu,
    IgnoresTheTag,
    CallsABadMessageADeviceError,
    WrapsForTheFirstOnly,
    WrapsInAnotherOrder,
    SignsTheFirst255Bytes,
    ShortensSignatures,
    GivesAHighS,
    ForgetsLabels,
    LeavesWhatItRefused,
    TakesAForeignPublicHalf,
    CallsImportedKeysGenerated,
    CallsItsKeysUnprotected,
    DeletesAllKeys,
    DeletesNothing,
    ListsKeysTwice,
    CallsLackingACurveADeviceError,
}

struct Broken {
    token: SoftToken,
    fault: Fault,
}

impl Broken {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn report(&self, mut held: HeldKey) -> HeldKey {
        match self.fault {
            Fault::ForgetsLabels => held.label = None,
            Fault::CallsImportedKeysGenerated => held.origin = Origin::Generated,
            Fault::CallsItsKeysUnprotected => held.protected = false,
            _ => {}
        }
        held
    }
}

impl Token for Broken {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.inventory()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        let cut = if self.has(Fault::SignsTheFirst255Bytes) { &input[..input.len().min(255)] } else { input };
        let mut signature = self.token.sign(key, cut, purpose)?;
        if self.has(Fault::ShortensSignatures) && signature[0] == 0 {
            signature.remove(0);
        }
        if self.has(Fault::GivesAHighS) && key.curve() == Curve::Secp256k1 {
            let low = k256::ecdsa::Signature::from_slice(&signature).expect("a signature");
            let high = k256::ecdsa::Signature::from_scalars(*low.r(), -*low.s()).expect("a signature");
            signature = high.to_bytes().to_vec();
        }
        Ok(signature)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        // An ignored input is replaced by its right value, so that any other value unwraps too.
        if self.has(Fault::IgnoresTheSender) && request.sender.is_some() {
            return self.token.unwrap_cek(key, &UnwrapRequest { sender: None, ..request.clone() }, purpose);
        }
        let mut request = request.clone();
        match &mut request.sender {
            _ if self.has(Fault::IgnoresApu) => request.apu = b"did:example:alice#key-1".to_vec(),
            Some(sender) if self.has(Fault::IgnoresTheTag) => sender.tag = (0..32).collect(),
            _ => {}
        }
        self.token.unwrap_cek(key, &request, purpose).map_err(|error| match error {
            TokenError::Unwrap if self.has(Fault::CallsABadMessageADeviceError) => {
                TokenError::Device { operation: "C_UnwrapKey".into(), reason: "CKR_GENERAL_ERROR".into() }
            }
            other => other,
        })
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        let mut wrapped = self.token.wrap_cek(key, request, purpose)?;
        match self.fault {
            Fault::WrapsForTheFirstOnly => wrapped.truncate(1),
            Fault::WrapsInAnotherOrder => wrapped.reverse(),
            _ => {}
        }
        Ok(wrapped)
    }
}

impl Custodian for Broken {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        let made = self.token.generate(key).map(|held| self.report(held));
        match made {
            Err(TokenError::Unsupported(reason)) if self.has(Fault::CallsLackingACurveADeviceError) => {
                Err(TokenError::Device { operation: "C_GenerateKeyPair".into(), reason })
            }
            other => other,
        }
    }

    fn import(&self, mut key: ImportKey) -> Result<HeldKey, TokenError> {
        let real = PrivateKey::from_bytes(key.public.curve(), &key.private).map(|private| private.public().clone());
        match (self.fault, real) {
            (Fault::LeavesWhatItRefused, Some(real)) if real != key.public => {
                key.public = real;
                self.token.import(key)?;
                Err(TokenError::Config("the halves do not match".into()))
            }
            (Fault::TakesAForeignPublicHalf, Some(real)) => {
                key.public = real;
                self.token.import(key)
            }
            _ => self.token.import(key).map(|held| self.report(held)),
        }
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        match self.fault {
            Fault::DeletesNothing => Ok(()),
            Fault::DeletesAllKeys => {
                let all = self.token.inventory()?;
                all.iter().try_for_each(|held| self.token.delete(&held.public))
            }
            _ => self.token.delete(key),
        }
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        let mut keys: Vec<_> = self.token.inventory()?.into_iter().map(|held| self.report(held)).collect();
        if self.has(Fault::ListsKeysTwice) {
            keys.extend(keys.clone());
        }
        Ok(keys)
    }
}

/// Whether a token with the fault passes the check.
fn passes(check: &Check, fault: Fault) -> bool {
    // Without two curves, for speed: each fault occurs on all curves.
    let capabilities = Capabilities::all().without(Curve::P384).without(Curve::P521);
    let token = SoftToken::new("broken").lacking(Curve::P384).lacking(Curve::P521);
    let token = Broken { token, fault };
    catch_unwind(AssertUnwindSafe(|| (check.run)(&token, &capabilities))).is_ok()
}

#[test]
fn each_fault_is_found_by_the_check_for_it() {
    for (fault, check) in [
        (Fault::IgnoresTheSender, "agreement::unwraps_ecdh_1pu"),
        (Fault::IgnoresApu, "agreement::refuses_what_was_changed"),
        (Fault::IgnoresTheTag, "agreement::refuses_what_was_changed"),
        (Fault::CallsABadMessageADeviceError, "agreement::refuses_what_is_for_another"),
        (Fault::CallsABadMessageADeviceError, "agreement::refuses_a_wrapped_key_of_no_length"),
        (Fault::WrapsForTheFirstOnly, "agreement::wraps_for_one_to_twenty"),
        (Fault::WrapsInAnotherOrder, "agreement::wraps_for_the_same_recipient_twice"),
        (Fault::SignsTheFirst255Bytes, "signing::verifies"),
        (Fault::ShortensSignatures, "signing::gives_64_bytes_though_r_or_s_is_short"),
        (Fault::GivesAHighS, "signing::gives_a_low_s_on_secp256k1"),
        (Fault::ForgetsLabels, "keys::keep_their_labels"),
        (Fault::LeavesWhatItRefused, "keys::of_two_halves_that_do_not_match_leave_nothing"),
        (Fault::TakesAForeignPublicHalf, "keys::of_two_halves_that_do_not_match_leave_nothing"),
        (Fault::CallsImportedKeysGenerated, "keys::are_imported_on_every_curve"),
        (Fault::CallsItsKeysUnprotected, "keys::are_made_on_every_curve"),
        (Fault::DeletesAllKeys, "keys::deleted_are_gone_and_no_others"),
        (Fault::DeletesNothing, "keys::imported_twice_are_deleted_once"),
        (Fault::ListsKeysTwice, "keys::are_made_on_every_curve"),
        (Fault::CallsLackingACurveADeviceError, "keys::of_a_curve_that_is_lacking_are_refused"),
    ] {
        let check = CHECKS.iter().find(|known| known.name == check).expect("the name of a check");
        assert!(!passes(check, fault), "{} did not find a token that {fault:?}", check.name);
        assert!(passes(check, Fault::None), "{} fails without a fault", check.name);
    }
}
