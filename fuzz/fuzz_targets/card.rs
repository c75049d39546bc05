//! A card with arbitrary responses. Nothing panics, a returned signature is valid, and a refused PIN is not
//! presented again.
#![no_main]

use std::sync::{Arc, Mutex};

use claviger::{
    crypto::verify,
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, NewKey, Purpose, SlotOptions, Token,
        pin::{Pin, PinSource},
        piv::{Attestation, CardTransaction, OpenOptions, Readers, Transport, TransportError, YubiKey},
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

const SELECT: u8 = 0xa4;
const VERIFY: u8 = 0x20;
const VERSION: u8 = 0xfd;
const SERIAL: u8 = 0xf8;

/// A card. Clones share its state.
#[derive(Clone, Default)]
struct Card(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Whether the firmware is 5.7.1. Otherwise it is 5.4.3.
    is_new: bool,
    /// The responses that are left.
    rest: Vec<u8>,
    /// Whether a PIN was refused.
    refused: bool,
}

impl Card {
    /// Loads the responses from these bytes. The first response is next.
    fn answer_from(&self, bytes: &[u8]) {
        let state = &mut *self.0.lock().expect("one thread");
        state.is_new = bytes.first().is_some_and(|first| first & 1 == 1);
        state.rest = bytes.get(1..).unwrap_or_default().to_vec();
    }
}

impl CardTransaction for Card {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        let State { is_new, rest, refused } = &mut *self.0.lock().expect("one thread");
        let answer = match command[1] {
            SELECT => vec![0x90, 0x00],
            // An unsupported firmware would end the test too early.
            VERSION if *is_new => vec![5, 7, 1, 0x90, 0x00],
            VERSION => vec![5, 4, 3, 0x90, 0x00],
            SERIAL => vec![0, 0, 0x04, 0x57, 0x90, 0x00],
            _ => next(rest),
        };
        if command[1] == VERIFY && command.len() > 5 {
            assert!(!*refused, "a refused PIN is presented again");
            *refused = !answer.ends_with(&[0x90, 0x00]);
        }
        Ok(Zeroizing::new(answer))
    }
}

/// The next response. The input has its length in two bytes, then its bytes. Unless the highest bit of the length is
/// set, the status word of success is appended.
fn next(rest: &mut Vec<u8>) -> Vec<u8> {
    let Some((length, content)) = rest.split_first_chunk::<2>() else { return vec![0x6a, 0x82] };
    let length = u16::from_be_bytes(*length);
    let (length, is_right) = (usize::from(length & 0x7fff).min(content.len()), length & 0x8000 == 0);
    let mut answer = content[..length].to_vec();
    *rest = content[length..].to_vec();
    if is_right {
        answer.extend_from_slice(&[0x90, 0x00]);
    }
    answer
}

impl Transport for Card {
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn CardTransaction)) -> Result<(), TransportError> {
        work(self);
        Ok(())
    }

    fn check_inserted(&self) -> Result<(), TransportError> {
        Ok(())
    }
}

impl Readers for Card {
    fn connect(&self, _: Option<u32>) -> Result<Box<dyn Transport>, TransportError> {
        Ok(Box::new(self.clone()))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let card = Card::default();
    let answers = |bytes: &[u8]| card.answer_from(bytes);
    answers(bytes);
    let pin = PinSource::value(Pin::new("471108"));
    let Ok(token) = OpenOptions::new().pin(pin).open("yubikey:serial=1111", card.clone()) else { return };
    answers(bytes);
    let mut keys: Vec<PublicKey> = token.inventory().into_iter().flatten().map(|held| held.public).collect();
    answers(bytes);
    keys.extend(token.keys().into_iter().flatten().map(|held| held.public));
    for curve in [Curve::P256, Curve::X25519] {
        answers(bytes);
        let new = NewKey { curve, usage: KeyUse::of(curve), label: None };
        keys.extend(token.generate_in_slot(&new, SlotOptions::default()).map(|held| held.public));
    }
    answers(bytes);
    let private = PrivateKey::generate(Curve::P256);
    keys.extend(token.import(private.to_import(KeyUse::Both, None)).map(|held| held.public));
    for key in keys.iter().take(4) {
        answers(bytes);
        use_key(&token, key);
        answers(bytes);
        let _ = token.attest(key).map(|chain| Attestation::verify(&chain, &[]));
        answers(bytes);
        let _ = token.delete(key);
    }
    answers(bytes);
    let _ = token.set_up(&Pin::new("222222"), &Pin::new("33333333"));
    let _ = (token.form_factor(), token.pin_state(), token.lock());
});

fn use_key(token: &YubiKey, key: &PublicKey) {
    if let Ok(signature) = token.sign(key, b"input", &Purpose::KeyTest) {
        verify(key, b"input", &signature).expect("a returned signature is valid");
    }
    if key.curve().supports_key_agreement() {
        let sender = PrivateKey::generate(key.curve());
        let message = message_to(key, Some(&sender), &fresh_cek(), &Parties::example());
        let _ = token.unwrap_cek(key, &message, &Purpose::KeyTest);
    }
}
