//! Changes objects of a home's SoftHSM token behind the back of the program under test.
//!
//! SoftHSM finds its tokens by an environment variable of its process, so each change runs in this test program, started
//! again.

use std::process::Command;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};

use claviger::keys::{Curve, PublicKey};
use claviger_testkit::PrivateKey;

use crate::home::{Home, PIN, softhsm_module};

/// The environment variable with the change to make.
const CHANGE: &str = "CLAVIGER_TEST_CHANGE";

/// What the private key of a pair made by [`make_pair`] may do.
#[derive(Clone, Copy)]
pub struct Template {
    pub derive: bool,
    pub sign: bool,
    pub extractable: bool,
}

/// Replaces the public half of a pair by a stranger's public key. Returns the stranger's key.
pub fn replace_by_stranger(home: &Home, ours: &PublicKey) -> PublicKey {
    let stranger = PrivateKey::generate(ours.curve()).public().clone();
    replace_public_half(home, ours, &stranger);
    stranger
}

/// Replaces the public half of a pair: without a PIN, the object is deleted, and another public key is written under its
/// id and label.
pub fn replace_public_half(home: &Home, old: &PublicKey, new: &PublicKey) {
    change(home, &format!("replace {} {}", old.to_multikey(), new.to_multikey()));
}

/// Makes a pair with the PIN, as no command of ours would.
pub fn make_pair(home: &Home, curve: Curve, label: &str, Template { derive, sign, extractable }: Template) {
    change(home, &format!("make {label} {curve} {derive} {sign} {extractable}"));
}

fn change(home: &Home, words: &str) -> String {
    let test = format!("{}::changes_objects_for_other_tests", module_path!().split_once("::").unwrap().1);
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&*test, "--exact", "--nocapture"])
        .env("SOFTHSM2_CONF", home.path().join("softhsm2.conf"))
        .env(CHANGE, words)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{words}:\n{out}\n{err}");
    out.into_owned()
}

/// Makes the change that the environment names. Alone, it has nothing to do.
#[test]
fn changes_objects_for_other_tests() {
    let Ok(change) = std::env::var(CHANGE) else { return };
    let module = Pkcs11::new(softhsm_module().unwrap()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = module.open_rw_session(slot).unwrap();
    match change.split(' ').collect::<Vec<_>>()[..] {
        ["replace", old, new] => {
            replace(&session, &PublicKey::from_multikey(old).unwrap(), &PublicKey::from_multikey(new).unwrap());
        }
        ["make", label, curve, derive, sign, extractable] => {
            session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
            let template = Template {
                derive: derive.parse().unwrap(),
                sign: sign.parse().unwrap(),
                extractable: extractable.parse().unwrap(),
            };
            make(&session, label, Curve::ALL.into_iter().find(|known| known.name() == curve).unwrap(), template);
        }
        _ => panic!("unknown change {change:?}"),
    }
}

fn replace(session: &Session, old: &PublicKey, new: &PublicKey) {
    let named = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::EcPoint(octet_string(old))];
    let object: ObjectHandle = session.find_objects(&named).unwrap()[0];
    let kept = [AttributeType::KeyType, AttributeType::Id, AttributeType::Label, AttributeType::EcParams];
    let mut template = session.get_attributes(object, &kept).unwrap();
    session.destroy_object(object).unwrap();
    template.extend([
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::EcPoint(octet_string(new)),
    ]);
    session.create_object(&template).unwrap();
}

/// A key's point as a DER OCTET STRING, as SoftHSM has it.
fn octet_string(key: &PublicKey) -> Vec<u8> {
    [&[0x04, u8::try_from(key.as_bytes().len()).unwrap()][..], key.as_bytes()].concat()
}

fn make(session: &Session, label: &str, curve: Curve, Template { derive, sign, extractable }: Template) {
    let mechanism = match curve {
        Curve::X25519 | Curve::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        _ => Mechanism::EccKeyPairGen,
    };
    let common = |class| {
        vec![
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Id(label.into()),
            Attribute::Label(label.into()),
        ]
    };
    let mut public = common(ObjectClass::PUBLIC_KEY);
    public.extend([Attribute::Private(false), Attribute::EcParams(oid(curve))]);
    let mut private = common(ObjectClass::PRIVATE_KEY);
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(!extractable),
        Attribute::Extractable(extractable),
        Attribute::Derive(derive),
        Attribute::Sign(sign),
    ]);
    session.generate_key_pair(&mechanism, &public, &private).unwrap();
}

/// The curve's object identifier, in DER.
fn oid(curve: Curve) -> Vec<u8> {
    match curve {
        Curve::P256 => vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Curve::Ed25519 => vec![0x06, 0x03, 0x2b, 0x65, 0x70],
        Curve::X25519 => vec![0x06, 0x03, 0x2b, 0x65, 0x6e],
        other => panic!("no test needs {other}"),
    }
}
