//! Properties of all messages: unpacking returns what was packed, a flipped bit is an error, and no input makes the
//! library panic.

use std::sync::{Arc, LazyLock};

use crate::support::{LUNCH, RecordingResolver, identities, packing};
use claviger::{
    crypto::ContentEncryption,
    did::{DidUrl, Document, Relationship, did_of, is_did},
    didcomm::{Error, Forward, FromPrior, Identities, Message, MessageType, UnpackOptions},
    jose::{Envelope, Jwt, Limits},
    keys::{Curve, PublicKey},
    secrets::Keyring,
};
use claviger_testkit::SoftToken;
use proptest::{collection, prelude::*, sample::Index};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

/// The number of keys that Bob has on each curve.
const RECIPIENTS: usize = 20;
const AGREE: [Curve; 4] = [Curve::X25519, Curve::P256, Curve::P384, Curve::P521];
const SIGN: [Curve; 3] = [Curve::Ed25519, Curve::P256, Curve::Secp256k1];
const ALICE: &str = "did:example:alice";
const BOB: &str = "did:example:bob";

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// Alice has a key of each kind, and Bob twenty keys on each curve.
struct World {
    runtime: Runtime,
    alice: Identities,
    document: Document,
    /// Bob's keys, by curve.
    bobs: Vec<Vec<PublicKey>>,
    keyring: Arc<Keyring>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Signed,
    Anoncrypt,
    Authcrypt,
    AnoncryptSigned,
    AuthcryptSigned,
    Hidden,
}

/// How Alice packs a message for Bob.
#[derive(Debug, Clone)]
struct Case {
    curve: usize,
    signer: usize,
    enc: ContentEncryption,
    kind: Kind,
    recipients: usize,
    /// The number of the key that decrypts.
    reader: usize,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let token = SoftToken::new("alice");
        let mut builder = Document::builder();
        for curve in AGREE {
            let fragment = format!("agree-{curve}");
            builder = builder.method(&fragment, &token.make(curve), &[Relationship::KeyAgreement]);
        }
        for (number, curve) in SIGN.into_iter().enumerate() {
            let fragment = format!("sign-{number}");
            builder = builder.method(&fragment, &token.make(curve), &[Relationship::Authentication]);
        }
        let document = builder.build(ALICE).unwrap();
        let alice = runtime.block_on(identities(&token, [document.clone()]));
        let token = SoftToken::new("bob");
        let bobs = AGREE.map(|curve| (0..RECIPIENTS).map(|_| token.make(curve)).collect()).into();
        let keyring = Arc::new(runtime.block_on(Keyring::start([token])).unwrap());
        Self { runtime, alice, document, bobs, keyring }
    }

    /// Bob's document with the first keys of a curve, or with only one of them.
    fn bob(&self, case: &Case, only: Option<usize>) -> Document {
        let keys = self.bobs[case.curve][..case.recipients].iter().enumerate();
        keys.filter(|(number, _)| only.is_none_or(|only| only == *number))
            .fold(Document::builder(), |builder, (number, key)| {
                builder.method(&format!("key-{number}"), key, &[Relationship::KeyAgreement])
            })
            .build(BOB)
            .unwrap()
    }

    /// Bob with one of the keys that the message is encrypted to.
    fn reader(&self, case: &Case) -> Identities {
        Identities::with_missing_keys(self.keyring.clone(), [self.bob(case, Some(case.reader))]).0
    }

    fn pack(&self, message: &Message, case: &Case) -> Result<String, Error> {
        let directory = RecordingResolver::with([self.bob(case, None)]);
        let signer = format!("{ALICE}#sign-{}", case.signer);
        let from = matches!(case.kind, Kind::Authcrypt | Kind::AuthcryptSigned | Kind::Hidden).then_some(ALICE);
        let sign_by = matches!(case.kind, Kind::AnoncryptSigned | Kind::AuthcryptSigned).then_some(&*signer);
        let packing = packing(message, BOB, from, sign_by).enc(case.enc).protect_sender(case.kind == Kind::Hidden);
        self.runtime.block_on(async {
            Ok(match case.kind {
                Kind::Plain => message.pack_plaintext()?,
                Kind::Signed => message.pack_signed(&signer, &self.alice).await?.0,
                _ => packing.pack(&directory, &self.alice).await?.0,
            })
        })
    }

    fn unpack(&self, packed: &str, reader: &Identities) -> Result<Message, Error> {
        let directory = RecordingResolver::with([self.document.clone()]);
        let options = UnpackOptions::default();
        Ok(self.runtime.block_on(Message::unpack(packed, &directory, reader, &options))?.0)
    }
}

fn cases() -> impl Strategy<Value = Case> {
    // P-384 and P-521 are slow, and differ from P-256 only in their lengths.
    let curve = prop_oneof![6 => Just(0), 6 => Just(1), 2 => Just(2), 1 => Just(3)];
    let kind = prop_oneof![
        1 => Just(Kind::Plain),
        2 => Just(Kind::Signed),
        4 => Just(Kind::Anoncrypt),
        4 => Just(Kind::Authcrypt),
        2 => Just(Kind::AnoncryptSigned),
        2 => Just(Kind::AuthcryptSigned),
        2 => Just(Kind::Hidden),
    ];
    let enc = prop::sample::select(&ContentEncryption::ALL[..]);
    let recipients = (1..=RECIPIENTS).prop_flat_map(|recipients| (Just(recipients), 0..recipients));
    (curve, 0..SIGN.len(), enc, kind, recipients).prop_map(|(curve, signer, enc, kind, (recipients, reader))| Case {
        curve,
        signer,
        enc,
        kind,
        recipients,
        reader,
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let body = collection::hash_map(".{0,8}", values(), 0..4).prop_map(|members| json!(members));
    let header = ("x-[a-z]{1,8}", values());
    ("[A-Za-z0-9._~-]{1,32}", body, proptest::option::of(0..u64::MAX / 2), collection::vec(header, 0..3)).prop_map(
        |(id, body, created_time, headers)| {
            let message = Message::build(id, LUNCH, body).from(ALICE).to(BOB);
            let message = created_time.into_iter().fold(message, |message, time| message.created_time(time));
            headers.into_iter().fold(message, |message, (name, value)| message.header(name, value)).finalize()
        },
    )
}

/// Any JSON without fractions. The last digit of a fraction may change.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,16}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::hash_map(".{0,8}", inner, 0..4).prop_map(|members| json!(members)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unpacking_returns_the_packed_message(message in messages(), case in cases()) {
        let packed = WORLD.pack(&message, &case).unwrap();
        prop_assert_eq!(WORLD.unpack(&packed, &WORLD.reader(&case)).unwrap(), message);
    }
}

/// Tests each combination of curve, content encryption and envelope once.
#[test]
fn every_combination_survives_packing() {
    let message = Message::build("1", LUNCH, json!({"at": "noon"})).from(ALICE).to(BOB).finalize();
    let kinds = [Kind::Anoncrypt, Kind::Authcrypt, Kind::AnoncryptSigned, Kind::AuthcryptSigned, Kind::Hidden];
    for curve in 0..AGREE.len() {
        for enc in ContentEncryption::ALL {
            for kind in kinds {
                let case = Case { curve, signer: 0, enc, kind, recipients: 2, reader: 1 };
                let packed = WORLD.pack(&message, &case).unwrap();
                assert_eq!(WORLD.unpack(&packed, &WORLD.reader(&case)).unwrap(), message, "{case:?}");
            }
        }
    }
}

/// Flips bits in every byte of anoncrypt, authcrypt and signed envelopes. They have one recipient, because a recipient
/// does not check the encrypted keys of others.
#[test]
fn a_flipped_bit_anywhere_is_an_error() {
    let message = Message::build("1", LUNCH, json!({})).from(ALICE).to(BOB).finalize();
    let case = |kind, curve, signer, enc| Case { curve, signer, enc, kind, recipients: 1, reader: 0 };
    use ContentEncryption::{A256CbcHs512, A256Gcm, Xc20P};
    for case in [
        case(Kind::Anoncrypt, 0, 0, Xc20P),
        case(Kind::Anoncrypt, 1, 0, A256Gcm),
        case(Kind::Authcrypt, 0, 0, A256CbcHs512),
        case(Kind::Signed, 0, 0, A256CbcHs512),
        case(Kind::Signed, 0, 1, A256CbcHs512),
        case(Kind::Signed, 0, 2, A256CbcHs512),
    ] {
        let packed = WORLD.pack(&message, &case).unwrap().into_bytes();
        let reader = WORLD.reader(&case);
        for at in 0..packed.len() {
            // Two flips with P-256 take as long as twenty with the other curves.
            for bit in if case.curve == 1 || case.signer == 1 { 0..2 } else { 0..7 } {
                let mut flipped = packed.clone();
                flipped[at] ^= 1 << bit;
                let flipped = String::from_utf8(flipped).expect("seven bits of ASCII");
                let opened = WORLD.unpack(&flipped, &reader);
                assert!(opened.is_err(), "{case:?}, bit {bit} of byte {at}: {flipped}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Flips random bits for the other curves. If the encrypted key of another recipient is hit, the message
    /// still opens.
    #[test]
    fn a_flipped_bit_never_changes_the_message(case in cases(), at in any::<Index>(), bit in 0..7) {
        prop_assume!(case.kind != Kind::Plain);
        let message = Message::build("1", LUNCH, json!({"at": "noon"})).from(ALICE).to(BOB).finalize();
        let mut packed = WORLD.pack(&message, &case).unwrap().into_bytes();
        let at = at.index(packed.len());
        packed[at] ^= 1u8 << bit;
        if let Ok(opened) = WORLD.unpack(&String::from_utf8(packed).unwrap(), &WORLD.reader(&case)) {
            prop_assert!(case.recipients > 1);
            prop_assert_eq!(opened, message);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_bytes(bytes in collection::vec(any::<u8>(), 0..512)) {
        read_everything(&bytes);
    }

    #[test]
    fn nothing_panics_on_json(value in hostile_values()) {
        read_everything(value.to_string().as_bytes());
    }

    #[test]
    fn nothing_panics_on_texts_that_look_like_dids(
        text in "did:(key|peer|web|example):(z|[0-9]|2\\.[A-Z]z?|4z)[a-zA-Z0-9.:]{0,64}([#?/%][ -~]{0,8}){0,2}",
    ) {
        read_everything(text.as_bytes());
        let directory = RecordingResolver::default();
        // A resolved document has the requested DID.
        if let Ok(document) = WORLD.runtime.block_on(claviger::did::Resolver::resolve(&directory, &text)) {
            prop_assert_eq!(document.id(), text);
        }
    }

    #[test]
    fn nothing_panics_on_an_envelope_with_another_part(
        seed in any::<Index>(), path in collection::vec(any::<Index>(), 1..6), part in hostile_values(),
    ) {
        let mut value = seed.get(&SEEDS).clone();
        replace(&mut value, &path, part);
        read_everything(value.to_string().as_bytes());
    }
}

/// Bob with one of the keys that the seeds are encrypted to.
static READER: LazyLock<Identities> = LazyLock::new(|| WORLD.reader(&seed(Kind::Authcrypt)));

fn seed(kind: Kind) -> Case {
    Case { curve: 0, signer: 0, enc: ContentEncryption::A256CbcHs512, kind, recipients: 2, reader: 0 }
}

/// One envelope of each kind, and a document.
static SEEDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let message = Message::build("1", LUNCH, json!({})).from(ALICE).to(BOB).finalize();
    let kinds = [Kind::Plain, Kind::Signed, Kind::Anoncrypt, Kind::Authcrypt, Kind::AnoncryptSigned];
    let mut seeds: Vec<Value> = kinds
        .into_iter()
        .map(|kind| serde_json::from_str(&WORLD.pack(&message, &seed(kind)).unwrap()).unwrap())
        .collect();
    seeds.push(WORLD.document.as_value().clone());
    seeds
});

/// Replaces the value at the path, as far as the path exists.
fn replace(value: &mut Value, path: &[Index], part: Value) {
    let Some((step, rest)) = path.split_first() else {
        *value = part;
        return;
    };
    match value {
        Value::Array(items) if !items.is_empty() => replace(step.get_mut(items), rest, part),
        Value::Object(members) if !members.is_empty() => {
            let name = step.get(&members.keys().cloned().collect::<Vec<_>>()).clone();
            replace(&mut members[&name], rest, part);
        }
        other => *other = part,
    }
}

/// JSON from the names and values that the parsers look for.
fn hostile_values() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 40] = [
        "id",
        "type",
        "typ",
        "body",
        "from",
        "to",
        "thid",
        "attachments",
        "data",
        "base64",
        "json",
        "links",
        "hash",
        "jws",
        "from_prior",
        "protected",
        "unprotected",
        "recipients",
        "header",
        "kid",
        "encrypted_key",
        "iv",
        "ciphertext",
        "tag",
        "payload",
        "signatures",
        "signature",
        "epk",
        "apu",
        "apv",
        "alg",
        "enc",
        "next",
        "crv",
        "verificationMethod",
        "keyAgreement",
        "authentication",
        "service",
        "serviceEndpoint",
        "publicKeyJwk",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[A-Za-z0-9_-]{0,44}".prop_map(Value::from),
        "(did:example:(alice|bob)(#key-0)?|#key-1|z6Mk[a-zA-Z0-9]{0,44}|P-256|EdDSA|JWT)".prop_map(Value::from),
        "\\PC{0,16}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 8, |inner| {
        let members = collection::vec((prop::sample::select(&NAMES[..]), inner.clone()), 0..8);
        prop_oneof![
            collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| {
                Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
            }),
        ]
    })
}

/// Calls every parser of received data.
fn read_everything(bytes: &[u8]) {
    let _ = Envelope::parse(bytes, &Limits::default());
    let _ = Document::from_json(bytes);
    if let Ok(value) = serde_json::from_slice(bytes) {
        let _ = Document::from_value(value);
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(message) = Message::from_json(&text) {
        let _ = Forward::from_message(&message);
        let again = Message::from_json(&message.to_json()).expect("what was read is written, and read again");
        assert_eq!(again.id, message.id);
    }
    let _ = (Jwt::parse(&text), MessageType::parse(&text), DidUrl::parse(&text), did_of(&text), is_did(&text));
    let _ = PublicKey::from_multikey(&text);
    let _ = WORLD.unpack(&text, &READER);
    let _ = WORLD.runtime.block_on(FromPrior::unpack(&text, &RecordingResolver::default()));
}
