//! Private keys: signing, key agreement, import, move and delete, metadata.

use claviger_virtual_yubikey::Firmware;
use ed25519_dalek::Verifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest, Sha256, Sha384};

use crate::host::{ED25519, Host, NEVER, P256, P384, TOUCH_ALWAYS, X25519, from_hex, tlv};

fn import(host: &Host, slot: u8, algorithm: u8, tag: u8, private: &[u8]) -> Result<Vec<u8>, u16> {
    host.command(0xFE, algorithm, slot, &[tlv(&[tag], private), vec![0xAA, 1, NEVER]].concat())
}

#[test]
fn signatures_verify_with_the_generated_key() {
    let host = Host::manager(Firmware::V5_7_1);
    let public = host.generate(0x82, P256, NEVER, 0).unwrap();
    let signature = host.sign(0x82, P256, &Sha256::digest(b"message")).unwrap();
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap();
    let signature = p256::ecdsa::Signature::from_der(&signature).unwrap();
    assert!(key.verify_prehash(&Sha256::digest(b"message"), &signature).is_ok());
    assert!(key.verify_prehash(&Sha256::digest(b"another"), &signature).is_err());

    let public = host.generate(0x83, P384, NEVER, 0).unwrap();
    let signature = host.sign(0x83, P384, &Sha384::digest(b"message")).unwrap();
    let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap();
    let signature = p384::ecdsa::Signature::from_der(&signature).unwrap();
    assert!(key.verify_prehash(&Sha384::digest(b"message"), &signature).is_ok());

    let public = host.generate(0x84, ED25519, NEVER, 0).unwrap();
    let signature = host.sign(0x84, ED25519, b"message").unwrap();
    let key = ed25519_dalek::VerifyingKey::try_from(&public[..]).unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
    assert!(key.verify(b"message", &signature).is_ok());
    assert_eq!(host.0.counts().operations, 3);
}

#[test]
fn a_hash_may_be_short_but_not_long_or_empty() {
    let host = Host::manager(Firmware::V5_7_1);
    let public = host.generate(0x82, P256, NEVER, 0).unwrap();
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&public).unwrap();
    let signature = host.sign(0x82, P256, &[7; 20]).unwrap();
    let padded = [[0; 12].as_slice(), &[7; 20]].concat();
    assert!(key.verify_prehash(&padded, &p256::ecdsa::Signature::from_der(&signature).unwrap()).is_ok());
    assert_eq!(host.sign(0x82, P256, &[7; 33]), Err(0x6A80));
    assert_eq!(host.sign(0x82, P256, &[]), Err(0x6A80));
}

#[test]
fn ed25519_signs_input_that_fits_into_one_command() {
    let host = Host::manager(Firmware::V5_7_1);
    let public = host.generate(0x82, ED25519, NEVER, 0).unwrap();
    let key = ed25519_dalek::VerifyingKey::try_from(&public[..]).unwrap();
    // 7C 82 hh ll, 82 00, 81 82 hh ll: ten bytes in addition to the message.
    for length in [0, 1, 255, 256, 3000, 3062] {
        let message = vec![3; length];
        let signature = host.sign(0x82, ED25519, &message).unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&signature).unwrap();
        assert!(key.verify(&message, &signature).is_ok(), "{length}");
    }
    assert_eq!(host.sign(0x82, ED25519, &[3; 3063]), Err(0x6700));
}

#[test]
fn both_sides_agree() {
    let host = Host::manager(Firmware::V5_7_1);
    let public = host.generate(0x82, P256, NEVER, 0).unwrap();
    let peer = p256::SecretKey::from_slice(&[5; 32]).unwrap();
    let ours = p256::PublicKey::from_sec1_bytes(&public).unwrap();
    let expected = p256::ecdh::diffie_hellman(peer.to_nonzero_scalar(), ours.as_affine());
    let point = peer.public_key().to_sec1_point(false);
    assert_eq!(host.agree(0x82, P256, point.as_bytes()).unwrap(), expected.raw_secret_bytes()[..]);
    assert_eq!(host.agree(0x82, P256, peer.public_key().to_sec1_point(true).as_bytes()), Err(0x6A80), "compressed");

    let public = host.generate(0x83, P384, NEVER, 0).unwrap();
    let peer = p384::SecretKey::from_slice(&[5; 48]).unwrap();
    let ours = p384::PublicKey::from_sec1_bytes(&public).unwrap();
    let expected = p384::ecdh::diffie_hellman(peer.to_nonzero_scalar(), ours.as_affine());
    let point = peer.public_key().to_sec1_point(false);
    assert_eq!(host.agree(0x83, P384, point.as_bytes()).unwrap(), expected.raw_secret_bytes()[..]);

    let public: [u8; 32] = host.generate(0x84, X25519, NEVER, 0).unwrap().try_into().unwrap();
    let peer = x25519_dalek::StaticSecret::from([5; 32]);
    let expected = peer.diffie_hellman(&public.into());
    let point = x25519_dalek::PublicKey::from(&peer);
    assert_eq!(host.agree(0x84, X25519, point.as_bytes()).unwrap(), expected.as_bytes());
}

#[test]
fn points_off_the_curve_are_refused_except_by_x25519() {
    let host = Host::manager(Firmware::V5_7_1);
    let mut point = host.generate(0x82, P256, NEVER, 0).unwrap();
    assert!(host.agree(0x82, P256, &point).is_ok());
    point[64] ^= 1;
    assert_eq!(host.agree(0x82, P256, &point), Err(0x6A80));
    host.generate(0x83, X25519, NEVER, 0).unwrap();
    assert_eq!(host.agree(0x83, X25519, &[0; 32]), Ok(vec![0; 32]), "a point of small order");
    assert_eq!(host.agree(0x83, X25519, &[9; 31]), Err(0x6A80));
}

#[test]
fn imported_keys_match_the_vectors() {
    let host = Host::manager(Firmware::V5_7_1);
    // RFC 7748 section 6.1.
    let alice = from_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = from_hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let shared = from_hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    import(&host, 0x82, X25519, 0x08, &alice).unwrap();
    assert_eq!(host.agree(0x82, X25519, &bob), Ok(shared));
    // RFC 8032 section 7.1, test 1.
    let seed = from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    import(&host, 0x83, ED25519, 0x07, &seed).unwrap();
    let public = from_hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert!(host.metadata(0x83).unwrap().ends_with(&public));
}

#[test]
fn invalid_keys_are_not_imported() {
    let host = Host::manager(Firmware::V5_7_1);
    for (algorithm, tag, private, why) in [
        (P256, 0x06, vec![0; 32], "zero"),
        (P256, 0x06, vec![0xFF; 32], "above the order"),
        (P256, 0x06, vec![1; 31], "short"),
        (P256, 0x07, vec![1; 32], "the tag of Ed25519"),
        (P384, 0x06, vec![1; 32], "of P-256's length"),
        (ED25519, 0x08, vec![1; 32], "the tag of X25519"),
        (X25519, 0x08, vec![1; 33], "long"),
        (0x07, 0x01, vec![1; 128], "RSA"),
    ] {
        assert_eq!(import(&host, 0x82, algorithm, tag, &private), Err(0x6A80), "{why}");
    }
    assert_eq!(import(&host, 0x81, P256, 0x06, &[1; 32]), Err(0x6B00));
    assert_eq!(import(&host, 0x96, P256, 0x06, &[1; 32]), Err(0x6B00));
    assert_eq!(host.metadata(0x82), Err(0x6A88));
}

#[test]
fn before_5_7_there_is_no_25519_and_no_move_key() {
    let host = Host::manager(Firmware::V5_4_3);
    assert_eq!(host.generate(0x82, ED25519, NEVER, 0), Err(0x6A80));
    assert_eq!(host.generate(0x82, X25519, NEVER, 0), Err(0x6A80));
    assert_eq!(import(&host, 0x82, ED25519, 0x07, &[1; 32]), Err(0x6A80));
    host.generate(0x82, P256, NEVER, 0).unwrap();
    assert_eq!(host.command(0xF6, 0x83, 0x82, &[]), Err(0x6D00));
    assert!(host.sign(0x82, P256, &[1; 32]).is_ok());
    let host = Host::manager(Firmware { major: 5, minor: 2, patch: 7 });
    assert_eq!(host.metadata(0x80), Err(0x6D00));
}

#[test]
fn metadata_describes_the_key() {
    let host = Host::manager(Firmware::V5_4_3);
    let public = host.generate(0x95, P256, NEVER, TOUCH_ALWAYS).unwrap();
    let expected = [&[1, 1, P256, 2, 2, NEVER, TOUCH_ALWAYS, 3, 1, 1][..], &tlv(&[4], &tlv(&[0x86], &public))].concat();
    assert_eq!(host.metadata(0x95), Ok(expected));
    import(&host, 0x95, P384, 0x06, &[1; 48]).unwrap();
    assert_eq!(host.metadata(0x95).unwrap()[..10], [1, 1, P384, 2, 2, NEVER, NEVER, 3, 1, 2]);
    assert_eq!(host.metadata(0x94), Err(0x6A88));
}

#[test]
fn a_key_is_moved_and_deleted() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x9A, P256, NEVER, 0).unwrap();
    host.generate(0x9D, P256, NEVER, 0).unwrap();
    let key = host.metadata(0x9A);
    assert_eq!(host.command(0xF6, 0x9D, 0x9A, &[]), Err(0x6A80), "a key is there");
    assert_eq!(host.metadata(0x9A), key);
    assert_eq!(host.command(0xF6, 0x82, 0x9A, &[]), Ok(vec![]));
    assert_eq!((host.metadata(0x82), host.metadata(0x9A)), (key, Err(0x6A88)));
    assert_eq!(host.command(0xF6, 0xFF, 0x82, &[]), Ok(vec![]));
    assert_eq!(host.metadata(0x82), Err(0x6A88));
    assert_eq!(host.command(0xF6, 0xFF, 0x82, &[]), Err(0x6A88));
}

#[test]
fn a_key_does_only_the_operations_of_its_algorithm() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x82, P256, NEVER, 0).unwrap();
    host.generate(0x83, X25519, NEVER, 0).unwrap();
    host.generate(0x84, ED25519, NEVER, 0).unwrap();
    assert_eq!(host.sign(0x82, P384, &[1; 48]), Err(0x6A80));
    assert_eq!(host.sign(0x83, X25519, &[1; 32]), Err(0x6A80));
    assert_eq!(host.agree(0x84, ED25519, &[9; 32]), Err(0x6A80));
    assert_eq!(host.sign(0x85, P256, &[1; 32]), Err(0x6A80), "empty");
    assert_eq!(host.0.counts().operations, 0);
}
