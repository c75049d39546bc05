//! Keys that other programs have made, changed or deleted, as objects of the real SoftHSM and the real Kryoptic:
//! public halves that are elsewhere or missing, names of curves, padded labels, uses that are not permitted, and changes
//! while the token is in use. `tests/cli/foreign_keys.rs` has keys that the tools themselves have made.

use std::time::{Duration, Instant};

use crate::support::{FreshToken, Module, faulty_token::with_fault_module, with_fresh_token};
use claviger::{
    crypto::{self, Cek, ContentEncryption, EphemeralKey},
    keys::{Curve, PublicKey},
    secrets::{
        Context, Custodian, Custody, HeldKey, KeyUse, Keyring, NewKey, Purpose, Secrets, SecretsError, SignRequest,
        Token, TokenError, UnpairedKey, WrapRequest,
        pkcs11::{OpenOptions, PinSource, Pkcs11Token, Profile, open},
    },
};
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, CertificateType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::tokens::{agrees, independent_session, signs};

const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P224: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x21";
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";
/// How long a condition may take to come.
const WAIT: Duration = Duration::from_secs(60);

/// A pair that another program makes.
struct Pair {
    public: ObjectHandle,
    private: ObjectHandle,
}

/// What another program asks for.
struct Template<'a> {
    mechanism: Mechanism<'a>,
    params: &'a [u8],
    id: &'a [u8],
    label: &'a [u8],
    derive: bool,
    sign: bool,
}

impl<'a> Template<'a> {
    /// A P-256 key that may do everything.
    fn p256(label: &'a str) -> Self {
        let label = label.as_bytes();
        Self { mechanism: Mechanism::EccKeyPairGen, params: P256, id: label, label, derive: true, sign: true }
    }

    fn make(&self, session: &Session) -> Pair {
        let common = [Attribute::Token(true), Attribute::Id(self.id.to_vec()), Attribute::Label(self.label.to_vec())];
        let mut public = common.to_vec();
        public.extend([
            Attribute::Private(false),
            Attribute::EcParams(self.params.to_vec()),
            Attribute::Verify(self.sign),
        ]);
        let mut private = common.to_vec();
        private.extend([
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Derive(self.derive),
            Attribute::Sign(self.sign),
        ]);
        let (public, private) = session.generate_key_pair(&self.mechanism, &public, &private).unwrap();
        Pair { public, private }
    }
}

/// The token and a session of another program, which the token has logged in.
fn opened(fresh: &FreshToken) -> (Pkcs11Token, Session) {
    let token = open(&fresh.uri, PinSource::uri()).unwrap();
    token.keys().unwrap();
    (token, independent_session(fresh))
}

/// CKA_EC_POINT of a public key object.
fn point(session: &Session, public: ObjectHandle) -> Vec<u8> {
    match session.get_attributes(public, &[AttributeType::EcPoint]).unwrap().pop() {
        Some(Attribute::EcPoint(point)) => point,
        other => panic!("{other:?}"),
    }
}

fn labels(keys: &[HeldKey]) -> Vec<&str> {
    keys.iter().map(|held| held.label.as_deref().unwrap_or_default()).collect()
}

/// The keys that are served, and the private keys without a public half.
fn served(token: &Pkcs11Token) -> (Vec<HeldKey>, Vec<UnpairedKey>) {
    let keys = token.inventory().unwrap().into_iter().filter(|held| held.refused.is_none()).collect();
    (keys, token.unpaired_keys())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ ..0x80 => vec![u8::try_from(short).unwrap()],
        long => vec![0x82, u8::try_from(long >> 8).unwrap(), (long & 0xff) as u8],
    };
    [&[tag], &length[..], content].concat()
}

/// A certificate with this SubjectPublicKeyInfo. Nobody signed it: a token does not ask who did.
fn certificate(subject: &[u8], public_key_info: &[u8]) -> Vec<u8> {
    let ecdsa = der(0x30, b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02");
    let validity = der(0x30, &[der(0x17, b"260101000000Z"), der(0x17, b"360101000000Z")].concat());
    let version = der(0xa0, &[2, 1, 2]);
    let tbs = [&version, &der(2, &[1])[..], &ecdsa, subject, &validity, subject, public_key_info].concat();
    der(0x30, &[der(0x30, &tbs), ecdsa, der(3, &[0, 0x30, 0])].concat())
}

/// A public half that is no object with the CKA_ID of the private key.
fn halves_from_elsewhere(fresh: FreshToken) {
    let (token, session) = opened(&fresh);
    let Pair { public, .. } = Template::p256("java").make(&session);
    let raw = point(&session, public)[2..].to_vec();
    session.destroy_object(public).unwrap();
    let expected = PublicKey::from_bytes(Curve::P256, &raw).unwrap();

    // Nothing: named, with what to do.
    let (keys, unpaired) = served(&token);
    // Some modules have CKA_PUBLIC_KEY_INFO in the private key.
    if keys.is_empty() {
        let [key] = &unpaired[..] else { panic!("{unpaired:?}") };
        assert_eq!((key.label.as_deref(), &*key.curve), (Some("java"), "P-256"));
        assert!(key.reason.contains("public key is not in the token") && key.reason.contains("CKA_ID"), "{key:?}");
    }

    // A public key object without a CKA_ID, as `pkcs11-tool --write-object` without --id writes it.
    let write_public = |id: &[u8], point: Vec<u8>| {
        session.create_object(&[
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(cryptoki::object::KeyType::EC),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Id(id.to_vec()),
            Attribute::EcParams(P256.to_vec()),
            Attribute::EcPoint(point),
        ])
    };
    let octets = |raw: &[u8]| der(4, raw);
    let stranger = write_public(b"", octets(EphemeralKey::generate(Curve::P256).unwrap().public().as_bytes())).unwrap();
    let own = write_public(b"", octets(&raw)).unwrap();
    let (keys, unpaired) = served(&token);
    assert_eq!((keys.iter().map(|held| &held.public).collect::<Vec<_>>(), &unpaired[..]), (vec![&expected], &[][..]));
    agrees(&token, &expected);
    signs(&token, &expected);
    session.destroy_object(own).unwrap();
    session.destroy_object(stranger).unwrap();

    // A certificate with the CKA_ID of the private key, as Java stores one.
    let subject = der(0x30, &der(0x31, &der(0x30, &[der(6, b"\x55\x04\x03"), der(0x0c, b"java")].concat())));
    let algorithm = der(0x30, &[b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01", P256].concat());
    let public_key_info = der(0x30, &[algorithm, der(3, &[&[0], &raw[..]].concat())].concat());
    session
        .create_object(&[
            Attribute::Class(ObjectClass::CERTIFICATE),
            Attribute::CertificateType(CertificateType::X_509),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Id(b"java".to_vec()),
            Attribute::Subject(subject.clone()),
            Attribute::Value(certificate(&subject, &public_key_info)),
        ])
        .unwrap();
    let (keys, unpaired) = served(&token);
    assert_eq!((labels(&keys), &unpaired[..]), (vec!["java"], &[][..]));
    assert_eq!(keys[0].public, expected);
    agrees(&token, &expected);
    token.delete(&expected).unwrap();
    assert_eq!(served(&token), (Vec::new(), Vec::new()));
}

#[test]
fn halves_from_elsewhere_in_softhsm() {
    with_fresh_token(Module::SoftHsm, halves_from_elsewhere);
}

#[test]
fn halves_from_elsewhere_in_kryoptic() {
    with_fresh_token(Module::Kryoptic, halves_from_elsewhere);
}

/// Names of curves, a curve that DIDComm does not have, a label with padding, and one that is no UTF-8.
#[test]
fn names_and_labels_of_other_programs() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let (token, session) = opened(&fresh);
        let edwards = Mechanism::EccEdwardsKeyPairGen;
        let named = Template { mechanism: edwards, params: ED25519_NAME, derive: false, ..Template::p256("named") };
        named.make(&session);
        Template { params: P224, ..Template::p256("short") }.make(&session);
        Template { label: b"padded  \0\0", ..Template::p256("padded") }.make(&session);
        Template { label: b"caf\xe9", ..Template::p256("latin") }.make(&session);
        let (mut keys, unpaired) = served(&token);
        keys.sort_by(|a, b| a.label.cmp(&b.label));
        assert_eq!(labels(&keys), ["caf\u{fffd}", "named", "padded"]);
        let [short] = &unpaired[..] else { panic!("{unpaired:?}") };
        assert_eq!((short.label.as_deref(), &*short.curve), (Some("short"), "1.3.132.0.33"));
        assert!(short.reason.contains("no such curve"), "{short:?}");
        let padded = open(&fresh.uri.replace("token=demo", "token=demo;object=padded"), PinSource::uri()).unwrap();
        assert_eq!(labels(&padded.keys().unwrap()), ["padded"]);
        let none = open(&fresh.uri.replace("token=demo", "token=demo;object=pad"), PinSource::uri()).unwrap();
        assert_eq!(none.keys().unwrap(), []);
    });
}

/// A key whose attributes do not permit what it is for is told so. Nothing of it is called a wrong answer.
fn not_permitted(fresh: FreshToken) {
    let (token, session) = opened(&fresh);
    Template { derive: false, sign: false, ..Template::p256("neither") }.make(&session);
    Template { derive: false, ..Template::p256("signs") }.make(&session);
    Template { sign: false, ..Template::p256("agrees") }.make(&session);
    let inventory = token.inventory().unwrap();
    let of = |label: &str| inventory.iter().find(|held| held.label.as_deref() == Some(label)).unwrap();
    assert_eq!((of("signs").usage, of("signs").refused.as_deref()), (KeyUse::Signing, None));
    assert_eq!((of("agrees").usage, of("agrees").refused.as_deref()), (KeyUse::Agreement, None));
    let reason = of("neither").refused.as_deref().unwrap();
    for word in ["not permitted", "CKR_KEY_FUNCTION_NOT_PERMITTED", "CKA_DERIVE and CKA_SIGN are false"] {
        assert!(reason.contains(word), "{reason}");
    }
    assert!(!reason.contains("right result") && !reason.contains("wrong"), "{reason}");
}

#[test]
fn not_permitted_in_softhsm() {
    with_fresh_token(Module::SoftHsm, not_permitted);
}

#[test]
fn not_permitted_in_kryoptic() {
    with_fresh_token(Module::Kryoptic, not_permitted);
}

/// Making a key that the token cannot use is refused as that: the token cannot do it.
#[test]
fn a_key_that_cannot_agree_is_not_made() {
    with_fault_module(Module::SoftHsm, |faulty| {
        let token = faulty.open();
        // CKR_FUNCTION_NOT_SUPPORTED, as tpm2-pkcs11 1.9.0 answers.
        faulty.shim.order(&["fail C_DeriveKey 0x54"]);
        for usage in [KeyUse::Both, KeyUse::Agreement] {
            let refused = token.generate(&NewKey { curve: Curve::P256, usage, label: None });
            let Err(TokenError::Unsupported(reason)) = &refused else { panic!("{refused:?}") };
            assert!(reason.contains("key agreement") && reason.contains("CKR_FUNCTION_NOT_SUPPORTED"), "{reason}");
        }
        faulty.shim.order(&["wrong C_DeriveKey"]);
        let refused = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Agreement, label: None });
        assert!(matches!(refused, Err(TokenError::KnownAnswer(_))), "{refused:?}");
        assert_eq!(token.inventory().unwrap(), []);
    });
}

/// A message to a known recipient needs only the kept Zs. It goes with its key.
fn a_kept_secret_goes_with_its_key(fresh: FreshToken) {
    let (token, session) = opened(&fresh);
    // A token that shows no key any more counts as removed.
    Template::p256("stays").make(&session);
    let Pair { private, .. } = Template::p256("deleted").make(&session);
    let served = token.keys().unwrap();
    let key = served.into_iter().find(|held| held.label.as_deref() == Some("deleted")).unwrap().public;
    let recipient = EphemeralKey::generate(Curve::P256).unwrap();
    let wrap = || {
        let ephemeral = EphemeralKey::generate(Curve::P256).unwrap();
        let recipients = vec![(recipient.public().clone(), ephemeral.agree(recipient.public()).unwrap())];
        let cek = Cek::generate(ContentEncryption::A256CbcHs512);
        let request = WrapRequest { cek, apu: b"u".to_vec(), apv: b"v".to_vec(), tag: vec![9; 32], recipients };
        token.wrap_cek(&key, &request, &Purpose::KeyTest)
    };
    wrap().unwrap();
    wrap().unwrap();
    session.destroy_object(private).unwrap();
    let end = Instant::now() + WAIT;
    let error = loop {
        match wrap() {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < end, "the deleted key still sends"),
        }
    };
    assert_eq!(error, TokenError::KeyGone);
    assert_eq!(labels(&token.keys().unwrap()), ["stays"]);
}

#[test]
fn a_kept_secret_goes_with_its_key_in_softhsm() {
    with_fresh_token(Module::SoftHsm, a_kept_secret_goes_with_its_key);
}

#[test]
fn a_kept_secret_goes_with_its_key_in_kryoptic() {
    with_fresh_token(Module::Kryoptic, a_kept_secret_goes_with_its_key);
}

/// A key that another program makes while a keyring runs is found because it is asked for.
#[test]
fn a_new_key_is_found_when_it_is_asked_for() {
    with_fresh_token(Module::SoftHsm, |fresh| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let keyring = Keyring::start([open(&fresh.uri, PinSource::uri()).unwrap()]).await.unwrap();
            let session = independent_session(&fresh);
            let Pair { public, .. } = Template::p256("new").make(&session);
            let key = PublicKey::from_bytes(Curve::P256, &point(&session, public)[2..]).unwrap();
            let mut keys = keyring.keys();
            assert!(keys.borrow_and_update().get(&key).is_none());
            let message = br#"{"id":"1","type":"https://example.org/test/1.0/note","body":{}}"#;
            let sign = async || keyring.sign(&key, &SignRequest::Message(message), &Context::default()).await;
            assert!(matches!(sign().await, Err(SecretsError::NotHeld(_))));
            let found = keys.wait_for(|keys| keys.get(&key).is_some());
            drop(tokio::time::timeout(WAIT, found).await.expect("the key is found").unwrap());
            let signature = sign().await.unwrap();
            let input = format!("{}.{}", signature.protected, signature.payload);
            crypto::verify(&key, input.as_bytes(), &signature.signature).unwrap();
        });
    });
}

/// A module that answers CKR_OK and makes an empty secret, as NSS 3.87 does for an X9.63 KDF without CKA_VALUE_LEN.
fn an_empty_secret(module: Module, tiers: &[Custody]) {
    with_fault_module(module, |faulty| {
        for &tier in tiers {
            faulty.shim.order(&[]);
            let open = || OpenOptions::new().tiers([tier]).open(&faulty.uri).unwrap();
            let usage = KeyUse::Agreement;
            let made = open().generate(&NewKey { curve: Curve::P256, usage, label: Some(tier.name().into()) }).unwrap();
            let token = open();
            faulty.shim.order(&["empty C_DeriveKey"]);
            assert_eq!(token.keys().unwrap(), [], "{tier}");
            let refused = token.inventory().unwrap();
            let reason = refused.iter().find(|held| held.public == made.public).unwrap().refused.as_deref().unwrap();
            println!("{module:?} {tier}: {reason}");
            let new = token.generate(&NewKey { curve: Curve::P384, usage, label: None });
            assert!(new.is_err(), "{tier}: {new:?}");
            faulty.shim.order(&[]);
            // A module that begins to do so while the key is in use: the key is tested again, and found wrong.
            let known = open();
            assert_eq!(known.keys().unwrap().len(), 1, "{tier}");
            faulty.shim.order(&["empty C_DeriveKey"]);
            let now = known.keys();
            assert!(matches!(now, Err(TokenError::Device { .. })), "{tier}: {now:?}");
            faulty.shim.order(&[]);
            assert_eq!(known.keys().unwrap().len(), 1, "{tier}");
            open().delete(&made.public).unwrap();
        }
    });
}

#[test]
fn an_empty_secret_of_softhsm() {
    an_empty_secret(Module::SoftHsm, &[Custody::KekInProcess, Custody::SharedSecretInProcess]);
}

/// Kryoptic makes no empty object, so the shim's is refused.
#[test]
fn an_empty_secret_of_kryoptic() {
    with_fault_module(Module::Kryoptic, |faulty| {
        faulty.shim.order(&["empty C_DeriveKey"]);
        let token = faulty.open();
        let new = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Agreement, label: None });
        assert!(matches!(&new, Err(TokenError::Unsupported(_) | TokenError::KnownAnswer(_))), "{new:?}");
        assert_eq!(token.inventory().unwrap(), []);
    });
}

/// The real NSS, asked for each secret without CKA_VALUE_LEN: what it serves is right.
#[test]
fn secrets_of_nss_without_a_length() {
    with_fresh_token(Module::Nss, |fresh| {
        let text = "device = \"NSS\"\n[omit]\nsecret = [\"CKA_VALUE_LEN\"]";
        for tier in Custody::ALL {
            let options = OpenOptions::new().profile(Profile::parse("mine", text).unwrap()).tiers([tier]);
            let token = options.open(&fresh.uri).unwrap();
            let made = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Agreement, label: None });
            println!("{tier}: {made:?}");
            if let Ok(held) = made {
                agrees(&token, &held.public);
            }
        }
    });
}
