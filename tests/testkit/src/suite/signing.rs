//! Signatures: software verifies what the token signs.

use claviger::{
    crypto::verify,
    keys::{Curve, PublicKey, SignatureAlgorithm},
    secrets::{Custodian, Purpose, TokenError},
};

use super::{Capabilities, temporary::Temporary};
use crate::PrivateKey;

/// Half of secp256k1's order, rounded down: the largest low s. SEC 1 allows both; most libraries accept only a low one.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5d, 0x57, 0x6e,
    0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// Inputs of 0 to 65,536 bytes, with lengths around a block of the hash and around one byte of length.
pub fn verifies(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.signing() {
        let key = Temporary::generate(token, curve);
        for length in [0, 1, 55, 56, 64, 127, 128, 255, 256, 4096, 65_536] {
            if !too_long(capabilities, curve, length) {
                let input: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
                check_signs(token, key.public(), &input);
            }
        }
    }
}

/// An input that is too long is refused. No part of it is signed.
pub fn refuses_an_input_that_is_too_long(token: &dyn Custodian, capabilities: &Capabilities) {
    let Some(longest) = capabilities.longest_eddsa else { return };
    if capabilities.lacks.contains(&Curve::Ed25519) {
        return;
    }
    let key = Temporary::generate(token, Curve::Ed25519);
    check_signs(token, key.public(), &vec![1; longest]);
    let refused = token.sign(key.public(), &vec![1; longest + 1], &Purpose::KeyTest);
    assert!(matches!(refused, Err(TokenError::Unsupported(_))), "{refused:?}");
}

/// Ed25519 is deterministic, so an imported key signs as software does.
pub fn gives_ed25519_signatures_that_are_those_of_rfc_8032(token: &dyn Custodian, capabilities: &Capabilities) {
    if capabilities.lacks.contains(&Curve::Ed25519) || !capabilities.imports {
        return;
    }
    let private = PrivateKey::generate(Curve::Ed25519);
    let key = Temporary::import(token, &private);
    for input in [&b""[..], b"1", &[7; 1000]] {
        assert_eq!(token.sign(key.public(), input, &Purpose::KeyTest).ok(), private.sign(input));
    }
}

/// A signature is `r || s`, both at full length. In one signature of 256 the r begins with a zero byte, and as often
/// the s. The check waits for both cases, since a token may shorten only one of the two.
pub fn gives_64_bytes_though_r_or_s_is_short(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.signing().filter(|curve| *curve != Curve::Ed25519) {
        let key = Temporary::generate(token, curve);
        let (mut short_r, mut short_s) = (false, false);
        for number in 0..5000u32 {
            let signature = check_signs(token, key.public(), &number.to_be_bytes());
            short_r |= signature[0] == 0;
            short_s |= signature[32] == 0;
            if short_r && short_s {
                break;
            }
        }
        // The odds that 5,000 signatures have none are about one in 100 million.
        assert!(short_r && short_s, "{curve}: no signature has a short r, or none a short s");
    }
}

/// Other implementations refuse a high s on secp256k1.
pub fn gives_a_low_s_on_secp256k1(token: &dyn Custodian, capabilities: &Capabilities) {
    if capabilities.lacks.contains(&Curve::Secp256k1) {
        return;
    }
    let key = Temporary::generate(token, Curve::Secp256k1);
    for number in 0..64u8 {
        let signature = check_signs(token, key.public(), &[number]);
        assert!(signature[32..] <= HALF_ORDER[..], "a high s");
    }
}

/// Signs, and checks that the signature has the right length and is over this input only.
pub(super) fn check_signs(token: &dyn Custodian, key: &PublicKey, input: &[u8]) -> Vec<u8> {
    let curve = key.curve();
    let signature = token
        .sign(key, input, &Purpose::KeyTest)
        .unwrap_or_else(|error| panic!("sign {} bytes on {curve}: {error}", input.len()));
    assert_eq!(signature.len(), SignatureAlgorithm::LENGTH, "{curve}");
    assert!(verify(key, input, &signature).is_ok(), "{curve}, {} bytes", input.len());
    let longer = [input, b"x"].concat();
    assert!(verify(key, &longer, &signature).is_err(), "{curve}: it is a signature over something else too");
    signature
}

fn too_long(capabilities: &Capabilities, curve: Curve, length: usize) -> bool {
    curve == Curve::Ed25519 && capabilities.longest_eddsa.is_some_and(|longest| length > longest)
}
