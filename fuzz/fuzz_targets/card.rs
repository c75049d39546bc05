//! A YubiKey that answers whatever it likes. Nothing panics, what it signs is a signature, and a PIN that it did not take is
//! not given to it again.
#![no_main]

use std::sync::{Arc, Mutex};

use claviger::{
    crypto::verify,
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, NewKey, Place, Token,
        pin::{Pin, PinSource},
        piv::{Attestation, Exchange, OpenOptions, Readers, Transport, TransportError, YubiKey},
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

/// What is left to answer, and whether a PIN was not taken.
#[derive(Clone, Default)]
struct Card(Arc<Mutex<(Vec<u8>, bool)>>);

impl Exchange for Card {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        let (rest, refused) = &mut *self.0.lock().expect("one thread");
        let answer = match command[1] {
            SELECT => vec![0x90, 0x00],
            // Else it would not be taken for one that serves.
            VERSION if rest.len() % 2 == 0 => vec![5, 7, 1, 0x90, 0x00],
            VERSION => vec![5, 4, 3, 0x90, 0x00],
            SERIAL => vec![0, 0, 0x04, 0x57, 0x90, 0x00],
            _ => next(rest),
        };
        if command[1] == VERIFY && command.len() > 5 {
            assert!(!*refused, "a PIN that was not taken is given again");
            *refused = !answer.ends_with(&[0x90, 0x00]);
        }
        Ok(Zeroizing::new(answer))
    }
}

/// Each answer is behind its length; most are said to be right, so that more of them are looked at.
fn next(rest: &mut Vec<u8>) -> Vec<u8> {
    let Some((length, content)) = rest.split_first() else { return vec![0x6a, 0x82] };
    let (length, is_right) = (usize::from(length & 0x7f).min(content.len()), length & 0x80 == 0);
    let mut answer = content[..length].to_vec();
    *rest = content[length..].to_vec();
    if is_right {
        answer.extend_from_slice(&[0x90, 0x00]);
    }
    answer
}

impl Transport for Card {
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn Exchange)) -> Result<(), TransportError> {
        work(self);
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
    let answers = |bytes: &[u8]| card.0.lock().expect("one thread").0 = bytes.to_vec();
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
        keys.extend(token.generate_in(&new, Place::default()).map(|held| held.public));
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
    let _ = (token.form(), token.pin_state(), token.lock());
});

fn use_key(token: &YubiKey, key: &PublicKey) {
    if let Ok(signature) = token.sign(key, b"input") {
        verify(key, b"input", &signature).expect("a signature that was given out is one");
    }
    if key.curve().agrees() {
        let sender = PrivateKey::generate(key.curve());
        let message = message_to(key, Some(&sender), &fresh_cek(), &Parties::example());
        let _ = token.unwrap_cek(key, &message);
    }
}
