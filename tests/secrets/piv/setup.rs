//! Setting up a YubiKey, management keys, and attestation, with a virtual card in this process.

use crate::connected_card::ConnectedCard;
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, NewKey, PinPolicy, SlotOptions, Token, TokenError, TouchPolicy,
        pin::{Pin, PinSource},
        piv::{Attestation, AttestationError, OpenOptions, YubiKey},
    },
};
use claviger_testkit::PrivateKey;
use claviger_virtual_yubikey::Firmware;
use zeroize::Zeroizing;

const FIRMWARES: [Firmware; 2] = [Firmware::V5_4_3, Firmware::V5_7_1];
const PIN: &str = "471108";
const PUK: &str = "81504711";
const OTHER_PUK: &str = "90210815";

fn new_key() -> NewKey {
    NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }
}

fn make(token: &YubiKey) -> PublicKey {
    token.generate(&new_key()).unwrap().public
}

fn open(plugged: &ConnectedCard, pin: &str) -> YubiKey {
    plugged.open_with(OpenOptions::new().pin(PinSource::value(Pin::new(pin))))
}

fn set_up(plugged: &ConnectedCard) -> YubiKey {
    let token = open(plugged, PIN);
    token.check_fresh().unwrap();
    assert!(token.set_up(&Pin::new(PIN), &Pin::new(PUK)).unwrap(), "the PUK is set");
    token
}

/// Sends a command to the card directly, as another program would.
fn command(plugged: &ConnectedCard, ins: u8, p1: u8, p2: u8, data: &[u8]) -> Vec<u8> {
    let mut apdu = vec![0, ins, p1, p2, data.len() as u8];
    apdu.extend_from_slice(data);
    plugged.card.transmit(&apdu).unwrap()
}

fn select(plugged: &ConnectedCard) {
    assert!(command(plugged, 0xa4, 4, 0, &[0xa0, 0, 0, 3, 8]).ends_with(&[0x90, 0x00]));
}

fn padded(code: &str) -> Vec<u8> {
    code.bytes().chain(std::iter::repeat(0xff)).take(8).collect()
}

/// Whether GET METADATA reports the factory value.
fn is_factory(plugged: &ConnectedCard, reference: u8) -> bool {
    select(plugged);
    let response = plugged.card.transmit(&[0, 0xf7, 0, reference]).unwrap();
    let at = response.windows(2).position(|tag| tag == [5, 1]).expect("the element for the factory value");
    response[at + 2] == 1
}

#[test]
fn a_card_from_the_factory_is_set_up() {
    for firmware in FIRMWARES {
        let plugged = ConnectedCard::new(firmware, 1111);
        let token = set_up(&plugged);
        assert_eq!([0x80, 0x81, 0x9b].map(|reference| is_factory(&plugged, reference)), [false; 3], "{firmware:?}");
        // The card has the new PIN, and the PUK can set another.
        select(&plugged);
        assert_eq!(command(&plugged, 0x20, 0, 0x80, &padded("123456"))[0], 0x63);
        assert_eq!(command(&plugged, 0x20, 0, 0x80, &padded(PIN)), [0x90, 0x00]);
        let unblocked = command(&plugged, 0x2c, 0, 0x80, &[padded(PUK), padded(PIN)].concat());
        assert_eq!(unblocked, [0x90, 0x00]);
        // The management key can be read only with the PIN.
        plugged.card.reset();
        make(&token);
        drop(token);
        let stranger = open(&plugged, "000000");
        plugged.card.reset();
        assert!(matches!(stranger.generate(&new_key()), Err(TokenError::Pin(_))));
    }
}

#[test]
fn a_card_that_is_in_use_is_not_set_up() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let token = set_up(&plugged);
    let again = token.set_up(&Pin::new("111111"), &Pin::new("22222222")).unwrap_err();
    assert!(again.to_string().contains("a PIN of its own already"), "{again}");

    let plugged = ConnectedCard::new(Firmware::V5_4_3, 2222);
    let token = plugged.open();
    make(&token);
    let holds = token.check_fresh().unwrap_err();
    assert!(holds.to_string().contains("slot 82 is not empty"), "{holds}");
    assert!(token.set_up(&Pin::new(PIN), &Pin::new(PUK)).is_err());
    assert!(is_factory(&plugged, 0x80) && is_factory(&plugged, 0x81) && is_factory(&plugged, 0x9b));
}

#[test]
fn an_invalid_pin_is_refused_before_anything_is_sent() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let token = plugged.open();
    let before = plugged.card.counts().apdus;
    for (pin, puk) in [("12345", PUK), ("123456789", PUK), (PIN, "1234"), ("123456", PUK), (PIN, "12345678")] {
        let error = token.set_up(&Pin::new(pin), &Pin::new(puk)).unwrap_err();
        assert!(
            matches!(&error, TokenError::Pin(message) if !message.contains(pin) && !message.contains(puk)),
            "{error}"
        );
    }
    assert_eq!(plugged.card.counts().apdus, before);
}

/// A set-up that was interrupted at any command can be repeated, and the management key is never lost.
#[test]
fn an_interrupted_set_up_can_be_repeated() {
    for firmware in FIRMWARES {
        let whole = ConnectedCard::new(firmware, 1111);
        let before = whole.card.counts().apdus;
        set_up(&whole);
        let commands = whole.card.counts().apdus - before;
        let mut interrupted = 0;
        for after in 1..commands {
            let plugged = ConnectedCard::new(firmware, 1111);
            let token = open(&plugged, PIN);
            plugged.card.faults().unplug_after(after);
            if token.set_up(&Pin::new(PIN), &Pin::new(PUK)).is_ok() {
                continue;
            }
            interrupted += 1;
            plugged.card.faults().plug_in();
            // Set up again with another PUK. The result says whether that is the card's PUK now.
            let is_set = match token.set_up(&Pin::new(PIN), &Pin::new(OTHER_PUK)) {
                Ok(is_set) => is_set,
                // The last command may have been carried out although its response was lost.
                Err(error) => {
                    assert!(error.to_string().contains("a PIN of its own already"), "{after}: {error}");
                    false
                }
            };
            let puk = if is_set { OTHER_PUK } else { PUK };
            select(&plugged);
            let unblocked = command(&plugged, 0x2c, 0, 0x80, &[padded(puk), padded(PIN)].concat());
            assert_eq!(unblocked, [0x90, 0x00], "{after}: {puk} is the PUK");
            plugged.card.reset();
            make(&token);
            assert_eq!([0x80, 0x81, 0x9b].map(|reference| is_factory(&plugged, reference)), [false; 3], "{after}");
        }
        assert!(interrupted > 10, "{interrupted} of {commands}");
    }
}

#[test]
fn a_foreign_management_key_is_given_for_each_change() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let token = plugged.open();
    let own = [7; 24];
    // Below, another program sets the key `own` and does not store it on the card.
    let factory: Vec<u8> = (1..=8).chain(1..=8).chain(1..=8).collect();
    token.set_management_key(Zeroizing::new(factory)).unwrap();
    let key = make(&token);
    set_management_key(&plugged, &own);

    let error = token.generate(&new_key()).unwrap_err();
    assert!(error.to_string().contains("--management-key"), "{error}");
    token.set_management_key(Zeroizing::new([8; 24].to_vec())).unwrap();
    let error = token.generate(&new_key()).unwrap_err();
    assert!(error.to_string().contains("the card has another management key"), "{error}");
    token.set_management_key(Zeroizing::new(own.to_vec())).unwrap();
    make(&token);
    assert!(token.delete(&key).is_err(), "the key was for one change only");
    // A failed change counts too.
    for unsupported in [Curve::Secp256k1, Curve::P521] {
        token.set_management_key(Zeroizing::new(own.to_vec())).unwrap();
        let new = NewKey { curve: unsupported, usage: KeyUse::of(unsupported), label: None };
        assert!(token.generate(&new).is_err());
        assert!(token.delete(&key).is_err(), "the key is not kept for the next change");
    }
    token.set_management_key(Zeroizing::new(own.to_vec())).unwrap();
    token.delete(&key).unwrap();
    assert!(token.set_management_key(Zeroizing::new(vec![1; 23])).is_err());
}

/// Sets the management key after single authentication with the factory key (AES-192).
fn set_management_key(plugged: &ConnectedCard, key: &[u8; 24]) {
    use aes::cipher::{BlockCipherEncrypt, KeyInit};
    select(plugged);
    let response = command(plugged, 0x87, 0x0a, 0x9b, &[0x7c, 0x02, 0x81, 0x00]);
    let mut block: [u8; 16] = response[4..20].try_into().unwrap();
    let factory: Vec<u8> = (1..=8).chain(1..=8).chain(1..=8).collect();
    aes::Aes192::new_from_slice(&factory).unwrap().encrypt_block((&mut block).into());
    let answer = [&[0x7c, 0x12, 0x82, 0x10], &block[..]].concat();
    assert_eq!(command(plugged, 0x87, 0x0a, 0x9b, &answer), [0x90, 0x00]);
    assert_eq!(command(plugged, 0xff, 0xff, 0xff, &[&[0x0a, 0x9b, 24], &key[..]].concat()), [0x90, 0x00]);
    plugged.card.reset();
}

/// The check comes before anything is overwritten.
#[test]
fn a_label_that_a_card_cannot_store_is_refused() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let token = plugged.open();
    let slot = Some("82".parse().unwrap());
    let first = token.generate_in_slot(&new_key(), SlotOptions { slot, ..SlotOptions::default() }).unwrap().public;
    for label in ["Claviger: deleted", "Claviger", &"x".repeat(1025)] {
        let new = NewKey { label: Some(label.into()), ..new_key() };
        assert!(
            token.generate_in_slot(&new, SlotOptions { slot, force: true, ..SlotOptions::default() }).is_err(),
            "{label}"
        );
    }
    assert_eq!(token.inventory().unwrap()[0].public, first);
}

/// A token whose URI names a slot makes its keys in that slot only.
#[test]
fn a_slot_of_the_uri_is_the_only_one() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let options = || OpenOptions::new().pin(PinSource::value(Pin::new(crate::connected_card::PIN)));
    let token = options().open("yubikey:serial=1111;slot=9d", plugged.clone()).unwrap();
    let key = make(&token);
    assert_eq!(token.inventory().unwrap()[0].slot, "9d".parse().ok());
    assert!(token.generate(&new_key()).unwrap_err().to_string().contains("slot 9d is not empty"));
    let options = SlotOptions { slot: "82".parse().ok(), force: true, ..SlotOptions::default() };
    assert!(token.generate_in_slot(&new_key(), options).is_err());
    assert_eq!(plugged.open().inventory().unwrap().len(), 1);
    token.delete(&key).unwrap();
}

mod attestation {
    use super::*;

    #[test]
    fn an_attestation_describes_the_key_and_names_the_root() {
        for firmware in FIRMWARES {
            let plugged = ConnectedCard::new(firmware, 1111);
            let token = plugged.open();
            let slot = "9d".parse().unwrap();
            let options = SlotOptions {
                slot: Some(slot),
                pin: Some(PinPolicy::Always),
                touch: Some(TouchPolicy::Cached),
                ..SlotOptions::default()
            };
            let key = token.generate_in_slot(&new_key(), options).unwrap().public;
            let chain = token.attest(&key).unwrap();
            let attestation = Attestation::verify(&chain, &[plugged.card.attestation_root()]).unwrap();
            assert_eq!((attestation.public, attestation.slot, attestation.serial), (key, slot, Some(1111)));
            assert_eq!((attestation.pin, attestation.touch), (PinPolicy::Always, TouchPolicy::Cached));
            assert_eq!(attestation.firmware.to_string(), token.info().firmware);
            assert_eq!(attestation.form_factor.unwrap().to_string(), "USB-A");
            assert_eq!((attestation.chain, attestation.root.as_str()), (chain, "Virtual YubiKey PIV Root CA"));
        }
    }

    #[test]
    fn every_kind_of_key_is_attested() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        for curve in [Curve::P256, Curve::P384, Curve::Ed25519, Curve::X25519] {
            let key = token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: None }).unwrap().public;
            let attestation =
                Attestation::verify(&token.attest(&key).unwrap(), &[plugged.card.attestation_root()]).unwrap();
            assert_eq!(attestation.public, key);
        }
    }

    #[test]
    fn a_virtual_card_does_not_lead_to_yubicos_root() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let chain = token.attest(&make(&token)).unwrap();
        let other = ConnectedCard::new(Firmware::V5_7_1, 2222);
        for roots in [vec![], vec![other.card.attestation_root()]] {
            let error = Attestation::verify(&chain, &roots).unwrap_err();
            assert!(matches!(error, AttestationError::Untrusted(_)), "{error}");
        }
        let root = [plugged.card.attestation_root()];
        // Another card's chain; without the card's own certificate; changed in any byte; truncated.
        let others = other.open();
        let foreign = others.attest(&make(&others)).unwrap();
        assert!(Attestation::verify(&[chain[0].clone(), foreign[1].clone()], &root).is_err());
        assert!(Attestation::verify(&chain[..1], &root).is_err());
        assert!(Attestation::verify(&[], &root).is_err());
        for at in 0..chain[0].len() {
            let mut changed = chain.clone();
            changed[0][at] ^= 1;
            assert!(Attestation::verify(&changed, &root).is_err(), "byte {at}");
            assert!(Attestation::verify(&[chain[0][..at].to_vec(), chain[1].clone()], &root).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn an_imported_key_has_no_attestation() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        let import = PrivateKey::generate(Curve::P256).to_import(KeyUse::Both, None);
        let imported = token.import(import).unwrap().public;
        assert!(matches!(token.attest(&imported), Err(TokenError::Unsupported(_))));
    }
}
