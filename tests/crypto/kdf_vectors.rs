//! Test vectors of the specifications: Concat KDF, key wrap and content encryption in software, and private keys in
//! every token.
//!
//! The examples of RFC 7518, RFC 7520 and draft-madden-jose-ecdh-1pu-04 wrap with 128 bits or not at all, and DIDComm
//! has only A256KW. So Z and the content are used unchanged, OtherInfo is compared except for the algorithm name and
//! the key length, and the KDF of the draft is computed here a second time, independently of `src`.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    crypto::{Cek, ContentEncryption, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key, wrap_key},
    keys::{Jwk, PublicKey},
    secrets::{Custodian, ImportKey, Purpose},
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_with, read, wrap_for},
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

for_every_token! {
    draft_1pu_appendix_b => |token: &dyn Custodian| appendix_b_with(token),
    rfc_7518_appendix_c => |token: &dyn Custodian| es_through(token, &vector("rfc7518/appendix-c"), "bob", "alice_ephemeral"),
    rfc_7520_sections_5_4_and_5_5 => |token: &dyn Custodian| rfc_7520_with(token),
    rfc_8037_appendix_a6 => |token: &dyn Custodian| {
        // The RFC does not give Bob's private key, but the ephemeral one.
        es_through(token, &vector("rfc8037/appendix-a6"), "ephemeral", "bob");
    },
}

fn vector(name: &str) -> Value {
    let file = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"))).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a string");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn base64url(value: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(value.as_str().expect("a string")).unwrap()
}

fn public(jwk: &Value) -> PublicKey {
    PublicKey::from_jwk(&Jwk::deserialize(jwk).unwrap()).unwrap()
}

fn private(jwk: &Value) -> PrivateKey {
    let (key, _) = ImportKey::from_jwk(jwk).unwrap();
    PrivateKey::from_bytes(key.public.curve(), &key.private).unwrap()
}

fn import(token: &dyn Custodian, jwk: &Value) -> PublicKey {
    token.import(ImportKey::from_jwk(jwk).unwrap().0).unwrap().public
}

fn z(value: &Value) -> SharedSecret {
    SharedSecret::new(hex(value))
}

/// PartyUInfo, PartyVInfo and the tag of a vector.
fn parties(vector: &Value) -> Parties {
    let member = |name| vector["header"].get(name).map(base64url).unwrap_or_default();
    Parties { apu: member("apu"), apv: member("apv"), tag: vector.get("tag").map(hex).unwrap_or_default() }
}

/// OtherInfo after AlgorithmID and without the key length: the part that does not depend on the key wrap.
fn without_algorithm<'a>(other_info: &'a [u8], parties: &Parties) -> (&'a [u8], &'a [u8]) {
    let field = |from: usize| 4 + u32::from_be_bytes(other_info[from..from + 4].try_into().unwrap()) as usize;
    let start = field(0);
    let bits = start + 8 + parties.apu.len() + parties.apv.len();
    (&other_info[start..bits], &other_info[bits + 4..])
}

/// Checks that the token derives the Z of a vector: it unwraps a key that is wrapped under a KEK from that Z.
fn es_through(token: &dyn Custodian, vector: &Value, ours: &str, peer: &str) {
    let key = import(token, &vector["keys"][ours]);
    opens_with(token, &key, &public(&vector["keys"][peer]), &z(&vector["z"]), &parties(vector));
}

fn opens_with(token: &dyn Custodian, key: &PublicKey, epk: &PublicKey, z: &SharedSecret, parties: &Parties) {
    let cek = fresh_cek();
    let message = message_with(z, None, epk, None, &cek, parties);
    assert_eq!(token.unwrap_cek(key, &message, &Purpose::KeyTest).unwrap(), cek);
}

fn rfc_7520_with(token: &dyn Custodian) {
    for section in ["rfc7520/section-5-4", "rfc7520/section-5-5"] {
        let vector = vector(section);
        let key = import(token, &vector["key"]);
        opens_with(token, &key, &public(&vector["header"]["epk"]), &z(&vector["z"]), &parties(&vector));
    }
}

/// Alice sends to Bob and Charlie. The token acts once for each side, with Ze and Zs of the draft in place of the
/// other side.
fn appendix_b_with(token: &dyn Custodian) {
    let vector = vector("ecdh-1pu-04/appendix-b");
    let (keys, parties, cek) = (&vector["keys"], parties(&vector), Cek::new(hex(&vector["cek"])));
    let epk = public(&keys["ephemeral"]);
    let alice = import(token, &keys["alice"]);
    for recipient in vector["recipients"].as_array().unwrap() {
        let name = recipient["name"].as_str().unwrap();
        let (ze, zs) = (z(&recipient["ze"]), z(&recipient["zs"]));
        let key = import(token, &keys[name]);
        let message = message_with(&ze, Some(&zs), &epk, Some(&alice), &cek, &parties);
        assert_eq!(token.unwrap_cek(&key, &message, &Purpose::KeyTest).unwrap(), cek, "{name} reads");

        // AES key wrap has no nonce, so Alice's wrapped key equals the one under the KEK from the draft's Z.
        let mut wrap = wrap_for([], &PrivateKey::generate(epk.curve()), &cek, &parties);
        wrap.recipients.push((key, ze));
        assert_eq!(token.wrap_cek(&alice, &wrap, &Purpose::KeyTest).unwrap(), [message.encrypted_key], "for {name}");
    }
}

/// draft-madden-jose-ecdh-1pu-04 appendix B, each value.
#[test]
fn draft_1pu_appendix_b() {
    let vector = vector("ecdh-1pu-04/appendix-b");
    let (keys, parties, cek) = (&vector["keys"], parties(&vector), Cek::new(hex(&vector["cek"])));
    let (alice, ephemeral) = (private(&keys["alice"]), private(&keys["ephemeral"]));

    let info = KdfInfo { apu: &parties.apu, apv: &parties.apv, tag: Some(&parties.tag) };
    let (ours, drafts) = (info.other_info(), hex(&vector["other_info"]));
    assert_eq!(without_algorithm(&ours, &parties), without_algorithm(&drafts, &parties));
    assert!(ours.starts_with(b"\0\0\0\x0fECDH-1PU+A256KW"));
    assert!(drafts.starts_with(b"\0\0\0\x0fECDH-1PU+A128KW"), "of the same length, so all else is where it was");
    assert_eq!(ours.len(), drafts.len());

    for recipient in vector["recipients"].as_array().unwrap() {
        let key = public(&keys[recipient["name"].as_str().unwrap()]);
        let (ze, zs) = (ephemeral.agree(&key).unwrap(), alice.agree(&key).unwrap());
        assert_eq!(ze.as_bytes(), hex(&recipient["ze"]));
        assert_eq!(zs.as_bytes(), hex(&recipient["zs"]));
        // The KEK of the draft from our Ze, Zs, and OtherInfo with 128 bits.
        let mut hash = Sha256::new_with_prefix([0, 0, 0, 1]);
        hash.update(ze.as_bytes());
        hash.update(zs.as_bytes());
        hash.update(&drafts);
        assert_eq!(hash.finalize()[..16], hex(&recipient["kek"]));
        // Our KEK from the draft's Z, by the same steps.
        let mut hash = Sha256::new_with_prefix([0, 0, 0, 1]);
        hash.update(hex(&recipient["z"]));
        hash.update(&ours);
        assert_eq!(concat_kdf(&[&ze, &zs], &info).as_bytes()[..], hash.finalize()[..]);
    }

    let jwe = &vector["jwe"];
    let content = ContentEncryption::A256CbcHs512.open(
        &cek,
        jwe["protected"].as_str().unwrap().as_bytes(),
        &base64url(&jwe["iv"]),
        &base64url(&jwe["ciphertext"]),
        &base64url(&jwe["tag"]),
    );
    assert_eq!(content.unwrap(), vector["plaintext"].as_str().unwrap().as_bytes());
}

/// RFC 7518 appendix C: Z, and OtherInfo except for the algorithm.
#[test]
fn rfc_7518_appendix_c() {
    let vector = vector("rfc7518/appendix-c");
    let (bob, ephemeral) = (private(&vector["keys"]["bob"]), private(&vector["keys"]["alice_ephemeral"]));
    assert_eq!(bob.agree(ephemeral.public()).unwrap().as_bytes(), hex(&vector["z"]));
    let parties = parties(&vector);
    let ours = KdfInfo { apu: &parties.apu, apv: &parties.apv, tag: None }.other_info();
    let theirs = hex(&vector["other_info"]);
    assert_eq!(without_algorithm(&ours, &parties), without_algorithm(&theirs, &parties));
    assert!(ours.starts_with(b"\0\0\0\x0eECDH-ES+A256KW"));
    assert!(ours.ends_with(&256u32.to_be_bytes()));

    // The KDF with the OtherInfo of the RFC: the first 128 bits are the derived key.
    let mut hash = Sha256::new_with_prefix([0, 0, 0, 1]);
    hash.update(hex(&vector["z"]));
    hash.update(&theirs);
    assert_eq!(hash.finalize()[..16], hex(&vector["derived_key"]));
    let mut hash = Sha256::new_with_prefix([0, 0, 0, 1]);
    hash.update(hex(&vector["z"]));
    hash.update(&ours);
    let kek = concat_kdf(&[&z(&vector["z"])], &KdfInfo { apu: &parties.apu, apv: &parties.apv, tag: None });
    assert_eq!(kek.as_bytes()[..], hash.finalize()[..]);
}

/// RFC 7518 appendix B.3.
#[test]
fn rfc_7518_appendix_b3() {
    let vector = vector("rfc7518/appendix-b3");
    let (aad, iv, ciphertext) = (hex(&vector["aad"]), hex(&vector["iv"]), hex(&vector["ciphertext"]));
    let (key, tag) = (Cek::new(hex(&vector["key"])), hex(&vector["tag"]));
    let enc = ContentEncryption::A256CbcHs512;
    assert_eq!(enc.open(&key, &aad, &iv, &ciphertext, &tag).unwrap(), hex(&vector["plaintext"]));
    for at in 0..tag.len() {
        let mut wrong = tag.clone();
        wrong[at] ^= 1;
        assert!(enc.open(&key, &aad, &iv, &ciphertext, &wrong).is_err(), "byte {at} of the tag");
    }
}

/// RFC 3394 section 4: the vectors with a KEK of 256 bits.
#[test]
fn rfc_3394_section_4() {
    let vector = vector("rfc3394/section-4");
    let mut unwrapped = 0;
    for vector in vector["vectors"].as_array().unwrap() {
        let (kek, key, wrapped) = (hex(&vector["kek"]), hex(&vector["key"]), hex(&vector["wrapped"]));
        let Ok(kek) = kek.try_into().map(Kek::new) else { continue };
        assert_eq!(wrap_key(&kek, &Cek::new(key.clone())), wrapped, "section {}", vector["section"]);
        // A content key has 32 or 64 bytes.
        let ours = (key.len() == 32).then(|| Cek::new(key));
        unwrapped += usize::from(ours.is_some());
        assert_eq!(unwrap_key(&kek, &wrapped).ok(), ours, "section {}", vector["section"]);
    }
    assert_eq!(unwrapped, 1, "section 4.6");
}

/// RFC 7520 sections 5.4 and 5.5, RFC 8037 appendix A.6: Z.
#[test]
fn shared_secrets_of_other_specifications() {
    for section in ["rfc7520/section-5-4", "rfc7520/section-5-5"] {
        let vector = vector(section);
        let shared = private(&vector["key"]).agree(&public(&vector["header"]["epk"])).unwrap();
        assert_eq!(shared.as_bytes(), hex(&vector["z"]), "{section}");
    }
    let vector = vector("rfc8037/appendix-a6");
    let shared = private(&vector["keys"]["ephemeral"]).agree(&public(&vector["keys"]["bob"])).unwrap();
    assert_eq!(shared.as_bytes(), hex(&vector["z"]));
}

/// The reference implementation of these tests decrypts a message that it made from the draft's Ze and Zs, with A256KW
/// instead of A128KW.
#[test]
fn the_reference_implementation_decrypts_its_own_message() {
    let vector = vector("ecdh-1pu-04/appendix-b");
    let (keys, parties, cek) = (&vector["keys"], parties(&vector), Cek::new(hex(&vector["cek"])));
    let (alice, bob, epk) = (private(&keys["alice"]), private(&keys["bob"]), public(&keys["ephemeral"]));
    let (ze, zs) = (z(&vector["recipients"][0]["ze"]), z(&vector["recipients"][0]["zs"]));
    let message = message_with(&ze, Some(&zs), &epk, Some(alice.public()), &cek, &parties);
    let read_with = |sender| read(&bob, &epk, sender, &parties, &message.encrypted_key);
    assert_eq!(read_with(Some(alice.public())), Some(cek));
    assert_eq!(read_with(Some(bob.public())), None);
    assert_eq!(read_with(None), None);
}
