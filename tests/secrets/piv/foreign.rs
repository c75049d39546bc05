//! Cards as other programs leave them: management keys, locked codes, one key in two slots, compressed certificates. And
//! what other programs find on a card that Claviger has used.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, NewKey, Origin, PinPolicy, Purpose, SecretsError, Slot, SlotOptions, Token, TokenError,
        pin::{Pin, PinSource},
        piv::{Attestation, CardTransaction, OpenOptions, Readers, Transport, TransportError, YubiKey},
    },
};
use claviger_testkit::PrivateKey;
use claviger_virtual_yubikey::{Firmware, Touch, VirtualYubiKey};
use zeroize::Zeroizing;

use crate::connected_card::{ConnectedCard, PIN};

/// Yubico's administrative data, and the Key History object.
const ADMIN_DATA: [u8; 3] = [0x5f, 0xff, 0x00];
const KEY_HISTORY: [u8; 3] = [0x5f, 0xc1, 0x0c];
/// A management key of the user's own.
const OWN_KEY: [u8; 24] = [7; 24];

fn new_key(label: Option<&str>) -> NewKey {
    NewKey { curve: Curve::P256, usage: KeyUse::Both, label: label.map(Into::into) }
}

fn make_in(token: &YubiKey, slot: &str) -> PublicKey {
    let options = SlotOptions { slot: slot.parse().ok(), ..SlotOptions::default() };
    token.generate_in_slot(&new_key(Some("ours")), options).unwrap().public
}

fn slot(slot: &str) -> Option<Slot> {
    Some(slot.parse().unwrap())
}

/// The tag of the object with a retired slot's certificate.
fn certificate_of(slot: u8) -> [u8; 3] {
    [0x5f, 0xc1, slot - 0x82 + 0x0d]
}

/// Another program, which has proved the factory's management key (AES-192) to the card.
struct OtherProgram<'c>(&'c VirtualYubiKey);

impl<'c> OtherProgram<'c> {
    fn new(card: &'c VirtualYubiKey) -> Self {
        let other = Self(card);
        other.select();
        let challenge = other.send(0x87, 0x0a, 0x9b, &[0x7c, 0x02, 0x81, 0x00]);
        let mut block: [u8; 16] = challenge[4..20].try_into().unwrap();
        let factory: Vec<u8> = (1..=8).chain(1..=8).chain(1..=8).collect();
        aes::Aes192::new_from_slice(&factory).unwrap().encrypt_block((&mut block).into());
        other.send(0x87, 0x0a, 0x9b, &[&[0x7c, 0x12, 0x82, 0x10], &block[..]].concat());
        other
    }

    fn select(&self) {
        self.send(0xa4, 4, 0, &[0xa0, 0, 0, 3, 8]);
    }

    /// Sends a command in a chain, and returns the whole response.
    fn send(&self, ins: u8, p1: u8, p2: u8, data: &[u8]) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = data.chunks(255).collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let sent = self.0.transmit(&[&[0x10, ins, p1, p2, 255], part].concat()).unwrap();
            assert_eq!(sent, [0x90, 0x00]);
        }
        let mut response = self.0.transmit(&[&[0, ins, p1, p2, last.len() as u8], last].concat()).unwrap();
        let mut whole = Vec::new();
        loop {
            let status = response.split_off(response.len() - 2);
            whole.extend(response);
            match status[..] {
                [0x90, 0x00] => return whole,
                [0x61, _] => response = self.0.transmit(&[0, 0xc0, 0, 0, 0]).unwrap(),
                _ => panic!("{ins:02x}: {status:02x?}"),
            }
        }
    }

    fn put(&self, object: [u8; 3], value: &[u8]) {
        self.send(0xdb, 0x3f, 0xff, &[tlv(0x5c, &object), tlv(0x53, value)].concat());
    }

    /// An object's content; empty if there is none.
    fn get(&self, object: [u8; 3]) -> Vec<u8> {
        let read = [&[0, 0xcb, 0x3f, 0xff, 5][..], &tlv(0x5c, &object)].concat();
        if self.0.transmit(&read).unwrap() == [0x6a, 0x82] {
            return Vec::new();
        }
        let whole = self.send(0xcb, 0x3f, 0xff, &tlv(0x5c, &object));
        match whole[1] {
            0x82 => whole[4..].to_vec(),
            0x81 => whole[3..].to_vec(),
            _ => whole[2..].to_vec(),
        }
    }

    /// Sets a management key (AES-192). P2 is FF without a touch policy, FE for a touch each time.
    fn set_management_key(&self, key: &[u8; 24], p2: u8) {
        self.send(0xff, 0xff, p2, &[&[0x0a, 0x9b, 24], &key[..]].concat());
    }
}

impl Drop for OtherProgram<'_> {
    fn drop(&mut self) {
        self.0.reset();
    }
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let length = if length < 0x80 { vec![length as u8] } else { vec![0x82, (length >> 8) as u8, length as u8] };
    [&[tag], &length[..], value].concat()
}

mod management_key {
    use super::*;

    /// A person is prompted for the touch, and told what it is for. A missing touch is not called a wrong key.
    #[test]
    fn a_touch_policy_asks_for_the_touch() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        OtherProgram::new(&plugged.card).set_management_key(&OWN_KEY, 0xfe);
        let prompts = Arc::<Mutex<Vec<String>>>::default();
        let noted = prompts.clone();
        let options = OpenOptions::new().pin(PinSource::value(Pin::new(PIN))).touch(move |prompt| {
            noted.lock().unwrap().push(prompt.purpose.as_ref().map(ToString::to_string).unwrap_or_default());
        });
        let token = plugged.open_with(options);
        token.set_management_key(Zeroizing::new(OWN_KEY.to_vec())).unwrap();
        token.generate(&new_key(None)).unwrap();
        assert_eq!(*prompts.lock().unwrap(), ["to change its keys"]);
        assert_eq!(plugged.card.counts().touches, 1);

        plugged.card.faults().touch(Touch::Never);
        plugged.card.faults().touch_timeout(Duration::from_millis(50));
        token.set_management_key(Zeroizing::new(OWN_KEY.to_vec())).unwrap();
        let error = token.generate(&new_key(None)).unwrap_err();
        assert!(matches!(&error, TokenError::Device { reason, .. } if reason.contains("no touch came")), "{error}");
    }

    /// The error comes before the PIN is asked for.
    #[test]
    fn a_key_that_is_derived_from_the_pin_is_named() {
        for (data, words) in [
            ([tlv(0x82, &[9; 16])].concat(), "is derived from its PIN"),
            (tlv(0x81, &[0]), "does not store it behind its PIN: give it with --management-key"),
        ] {
            let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
            let other = OtherProgram::new(&plugged.card);
            other.put(ADMIN_DATA, &tlv(0x80, &data));
            other.set_management_key(&OWN_KEY, 0xff);
            drop(other);
            let token = plugged.open();
            let error = token.generate(&new_key(None)).unwrap_err();
            assert!(matches!(&error, TokenError::Config(message) if message.contains(words)), "{error}");
            let error = token.check_fresh().unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(plugged.card.counts().verifies, 0);
        }
    }
}

mod locked_codes {
    use super::*;

    /// Enters a wrong PIN (80) or PUK (81) until it is locked.
    fn lock(card: &VirtualYubiKey, reference: u8) {
        card.transmit(&[0, 0xa4, 4, 0, 5, 0xa0, 0, 0, 3, 8]).unwrap();
        for _ in 0..3 {
            card.transmit(&[&[0, 0x24, 0, reference, 16][..], b"00000000", b"00000000"].concat()).unwrap();
        }
        card.reset();
    }

    /// Nothing is changed on a card that cannot be set up to the end.
    #[test]
    fn a_set_up_looks_at_both_codes_first() {
        for (references, words) in [
            (&[0x81][..], "its PUK is locked: the card holds no keys, and `ykman piv reset`"),
            (&[0x80], "its PIN is locked: set a new PIN with the PUK: `ykman piv access unblock-pin`"),
            (&[0x80, 0x81], "its PIN and its PUK are locked"),
        ] {
            let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
            references.iter().for_each(|reference| lock(&plugged.card, *reference));
            let token = plugged.open();
            for error in [
                token.check_fresh().unwrap_err(),
                token.set_up(&Pin::new("471108"), &Pin::new("81504711")).unwrap_err(),
            ] {
                assert!(matches!(&error, TokenError::Config(message) if message.contains(words)), "{error}");
            }
            // The management key of the factory is still there.
            OtherProgram::new(&plugged.card);
        }
    }

    #[test]
    fn a_locked_pin_names_the_puk_and_the_command() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        make_in(&plugged.open(), "82");
        lock(&plugged.card, 0x80);
        let error = plugged.open().keys().unwrap_err();
        let words = "is locked; set a new PIN with the PUK: `ykman piv access unblock-pin`";
        assert!(matches!(&error, TokenError::Pin(message) if message.contains(words)), "{error}");
    }
}

mod slots {
    use super::*;

    /// One private key was imported into two slots. The named slot is emptied, and the other one serves on.
    #[test]
    fn only_the_named_slot_is_emptied() {
        for firmware in [Firmware::V5_7_1, Firmware::V5_4_3] {
            for (named, other) in [("83", "82"), ("82", "83")] {
                let plugged = ConnectedCard::new(firmware, 1111);
                let token = plugged.open();
                let key = PrivateKey::generate(Curve::P256).to_import(KeyUse::Both, Some("first"));
                let public = token.import(key).unwrap().public;
                // Another program imports the key once more.
                plugged.card.copy_key(0x82, 0x83);
                let slots = |token: &YubiKey| -> Vec<Option<Slot>> {
                    token.inventory().unwrap().into_iter().map(|held| held.slot).collect()
                };
                assert_eq!(slots(&token), [slot("82"), slot("83")]);
                assert_eq!(token.delete_in_slot(&public, slot("84")), Err(TokenError::KeyGone));
                token.delete_in_slot(&public, slot(named)).unwrap();
                assert_eq!(slots(&token), [slot(other)], "{firmware}");
                token.keys().unwrap();
                token.sign(&public, b"input", &Purpose::KeyTest).unwrap();
            }
        }
    }
}

mod objects {
    use super::*;

    /// OpenSC looks for certificates in the retired slots only up to the number in this object.
    #[test]
    fn the_key_history_counts_the_retired_slots() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let history = || {
            let other = OtherProgram(&plugged.card);
            other.select();
            other.get(KEY_HISTORY)
        };
        let counting = |keys: u8| [0xc1, 1, keys, 0xc2, 1, 0, 0xfe, 0].to_vec();
        let token = plugged.open();
        make_in(&token, "9d");
        assert_eq!(history(), [0_u8; 0]);
        make_in(&token, "82");
        assert_eq!(history(), counting(1));
        let last = make_in(&token, "95");
        assert_eq!(history(), counting(20));
        let imported = PrivateKey::generate(Curve::P256).to_import(KeyUse::Both, None);
        token.import(imported).unwrap();
        assert_eq!(history(), counting(20));
        token.delete(&last).unwrap();
        assert_eq!(history(), counting(2));

        // A card with older certificates elsewhere, which another program has counted.
        let foreign = [&[0xc1, 1, 2, 0xc2, 1, 3, 0xf3, 4][..], b"http", &[0xfe, 0]].concat();
        OtherProgram::new(&plugged.card).put(KEY_HISTORY, &foreign);
        make_in(&token, "90");
        assert_eq!(history(), foreign);
    }

    /// age-plugin-yubikey 0.5.1 hides the key of a certificate with a critical extension.
    #[test]
    fn no_extension_of_our_certificates_is_critical() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        make_in(&plugged.open(), "82");
        let other = OtherProgram(&plugged.card);
        other.select();
        let certificate = other.get(certificate_of(0x82));
        // The identifier of keyUsage, then its value without the flag between them (01 01 FF).
        let at = certificate.windows(5).position(|part| part == [0x06, 0x03, 0x55, 0x1d, 0x0f]).expect("keyUsage");
        assert_eq!(certificate[at + 5], 0x04, "{:02x?}", &certificate[at..]);
    }

    #[test]
    fn a_compressed_certificate_is_read() {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        let token = plugged.open();
        make_in(&token, "82");
        let other = OtherProgram::new(&plugged.card);
        let object = other.get(certificate_of(0x82));
        let certificate = match object[1] {
            0x82 => &object[4..4 + usize::from(u16::from_be_bytes([object[2], object[3]]))],
            _ => &object[3..3 + usize::from(object[2])],
        };
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(certificate).unwrap();
        let compressed = [tlv(0x70, &gzip.finish().unwrap()), vec![0x71, 1, 1, 0xfe, 0]].concat();
        other.put(certificate_of(0x82), &compressed);
        drop(other);
        assert_eq!(token.inventory().unwrap()[0].label.as_deref(), Some("ours"));
    }
}

/// Another program uses the card. The operation fails after one wait, asks for no PIN, and may be tried again. To lock the
/// card fails too, since its PIN stays verified; to lock a card that was removed does not.
#[test]
fn a_card_in_use_is_waited_for_once() {
    #[derive(Clone)]
    struct Shared {
        card: ConnectedCard,
        in_use: Arc<AtomicBool>,
        is_off: Arc<AtomicBool>,
        waits: Arc<AtomicUsize>,
    }
    impl Readers for Shared {
        fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError> {
            if self.is_off.load(SeqCst) {
                return Err(TransportError::Unusable("its PIV application is switched off".into()));
            }
            self.card.connect(serial)?;
            Ok(Box::new(self.clone()))
        }
    }
    impl Transport for Shared {
        fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn CardTransaction)) -> Result<(), TransportError> {
            if self.in_use.load(SeqCst) {
                self.waits.fetch_add(1, SeqCst);
                return Err(TransportError::InUse("another program is using the card".into()));
            }
            self.card.transaction(work)
        }

        fn check_inserted(&self) -> Result<(), TransportError> {
            self.card.check_inserted()
        }
    }
    let card = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let shared = Shared { card: card.clone(), in_use: Arc::default(), is_off: Arc::default(), waits: Arc::default() };
    let token =
        OpenOptions::new().pin(PinSource::value(Pin::new(PIN))).open("yubikey:serial=1111", shared.clone()).unwrap();
    let key = make_in(&token, "82");
    card.card.reset();
    let verifies = card.card.counts().verifies;
    shared.in_use.store(true, SeqCst);
    let error = token.sign(&key, b"input", &Purpose::KeyTest).unwrap_err();
    assert!(matches!(&error, TokenError::Away(reason) if reason.contains("another program")), "{error}");
    assert!(SecretsError::Token { token: "desk".into(), error }.is_retryable());
    assert_eq!((shared.waits.load(SeqCst), card.card.counts().verifies), (1, verifies));
    shared.in_use.store(false, SeqCst);
    token.sign(&key, b"input", &Purpose::KeyTest).unwrap();

    shared.in_use.store(true, SeqCst);
    for result in [token.forget_pin(), token.lock()] {
        assert!(matches!(&result, Err(TokenError::Away(reason)) if reason.contains("another program")), "{result:?}");
    }
    // A card that was served before may be usable again.
    shared.is_off.store(true, SeqCst);
    let error = token.inventory().unwrap_err();
    assert!(matches!(&error, TokenError::Away(reason) if reason.contains("switched off")), "{error}");
    shared.is_off.store(false, SeqCst);
    card.card.faults().unplug();
    token.forget_pin().unwrap();
    token.lock().unwrap();
}

/// A YubiKey Bio takes a fingerprint or the PIN. Claviger presents the PIN.
#[test]
fn keys_of_a_yubikey_bio_are_used_by_pin_and_attested() {
    for policy in [PinPolicy::MatchOnce, PinPolicy::MatchAlways] {
        let plugged = ConnectedCard::new(Firmware::V5_7_1, 1111);
        plugged.card.make_bio();
        let token = plugged.open();
        let options = SlotOptions { pin: Some(policy), ..SlotOptions::default() };
        let held = token.generate_in_slot(&new_key(None), options).unwrap();
        assert_eq!(held.origin, Origin::Generated);
        plugged.card.reset();
        for _ in 0..2 {
            token.sign(&held.public, b"input", &Purpose::KeyTest).unwrap();
        }
        let chain = token.attest(&held.public).unwrap();
        let attestation = Attestation::verify(&chain, &[plugged.card.attestation_root()]).unwrap();
        assert_eq!(attestation.pin, policy);
    }
}
