//! The proof of keys, with a token that lists a stranger's public half for one of its private keys.

use claviger::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, ImportKey, KeyUse, NewKey, Purpose, Token, TokenError, TokenInfo, UnwrapRequest,
        WrapRequest, prove_keys,
    },
};
use claviger_testkit::{PrivateKey, SoftToken};

/// A token that uses `ours` where it is asked for `listed`, and lists that key as served. No test of the token's own has
/// noticed it.
struct Deceived {
    token: SoftToken,
    ours: PublicKey,
    listed: HeldKey,
}

impl Deceived {
    fn new(curve: Curve, change: impl FnOnce(&mut HeldKey)) -> Self {
        let token = SoftToken::new("deceived");
        let ours = token.make(curve);
        let mut listed = token.inventory().unwrap().remove(0);
        change(&mut listed);
        Self { token, ours, listed }
    }

    fn prove(&self, usage: KeyUse) -> Result<Vec<HeldKey>, TokenError> {
        prove_keys(self, &[(self.listed.public.clone(), usage)])
    }
}

impl Token for Deceived {
    fn name(&self) -> &str {
        self.token.name()
    }

    fn info(&self) -> TokenInfo {
        self.token.info()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.inventory()
    }

    fn sign(&self, _: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        assert_eq!(*purpose, Purpose::KeyTest);
        self.token.sign(&self.ours, input, purpose)
    }

    fn unwrap_cek(&self, _: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        assert_eq!(*purpose, Purpose::KeyTest);
        self.token.unwrap_cek(&self.ours, request, purpose)
    }

    fn wrap_cek(&self, _: &PublicKey, _: &WrapRequest, _: &Purpose) -> Result<Vec<EncryptedKey>, TokenError> {
        Err(TokenError::Unsupported("a proof does not need it".into()))
    }
}

impl Custodian for Deceived {
    fn generate(&self, _: &NewKey) -> Result<HeldKey, TokenError> {
        Err(TokenError::Unsupported("its keys cannot be changed".into()))
    }

    fn import(&self, _: ImportKey) -> Result<HeldKey, TokenError> {
        Err(TokenError::Unsupported("its keys cannot be changed".into()))
    }

    fn delete(&self, _: &PublicKey) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("its keys cannot be changed".into()))
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        Ok(vec![self.listed.clone()])
    }
}

#[test]
fn a_key_is_proved_for_its_use() {
    for (curve, usage) in
        [(Curve::X25519, KeyUse::Agreement), (Curve::Ed25519, KeyUse::Signing), (Curve::P256, KeyUse::Both)]
    {
        let token = Deceived::new(curve, |_| {});
        assert_eq!(token.prove(usage), Ok(vec![token.listed.clone()]), "{curve}");
    }
}

/// The token is believed in nothing: not that a pair belongs together, nor that it can do its use.
#[test]
fn a_strangers_half_and_an_impossible_use_are_not_proved() {
    for (curve, usages) in [
        (Curve::X25519, &[KeyUse::Agreement, KeyUse::Signing][..]),
        (Curve::Ed25519, &[KeyUse::Signing, KeyUse::Agreement]),
        (Curve::P256, &[KeyUse::Agreement, KeyUse::Signing, KeyUse::Both]),
    ] {
        for usage in usages {
            let stranger = PrivateKey::generate(curve).public().clone();
            let error = Deceived::new(curve, |listed| listed.public = stranger.clone()).prove(*usage).unwrap_err();
            assert!(matches!(&error, TokenError::Unproved { key, .. } if *key == stranger.to_multikey()), "{error:?}");
        }
    }
}

#[test]
fn a_key_that_is_not_served_is_not_used() {
    let refused = |protected| {
        let token = Deceived::new(Curve::P256, |listed| {
            listed.protected = protected;
            listed.refused = Some("this reason".into());
        });
        let error = token.prove(KeyUse::Both).unwrap_err();
        let counts = token.token.counts();
        assert_eq!((counts.signatures, counts.unwraps), (0, 0));
        error
    };
    assert!(matches!(refused(true), TokenError::Unproved { reason, .. } if reason == "this reason"));
    assert!(matches!(refused(false), TokenError::Unprotected(_)));
    let token = Deceived::new(Curve::P256, |_| {});
    let other = PrivateKey::generate(Curve::P256).public().clone();
    assert_eq!(prove_keys(&token, &[(other, KeyUse::Both)]), Err(TokenError::KeyGone));
}
