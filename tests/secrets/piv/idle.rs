//! A YubiKey that nobody uses: whether it is still inserted is found out without a command to the card.

use std::{
    thread,
    time::{Duration, Instant},
};

use claviger::keys::Curve;
use claviger::secrets::{Custodian, KeyState, KeyUse, Keyring, NewKey, Purpose, Secrets, Token, TokenError};
use claviger_virtual_yubikey::Firmware;

use crate::connected_card::ConnectedCard;

/// On firmware 5.3.1 the question whether the PIN is verified would undo it. A probe sends nothing, on any firmware.
#[test]
fn a_probe_sends_nothing_to_the_card() {
    for firmware in [Firmware::V5_3_1, Firmware::V5_7_1] {
        let card = ConnectedCard::new(firmware, 1111);
        let token = card.open();
        let key = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Signing, label: None }).unwrap().public;
        token.keys().unwrap();
        token.sign(&key, b"input", &Purpose::KeyTest).unwrap();
        let before = card.card.counts();
        for _ in 0..10 {
            token.probe().unwrap();
        }
        assert_eq!(card.card.counts(), before, "{firmware:?}");
        // The card still has its PIN verified, so none is presented.
        token.sign(&key, b"input", &Purpose::KeyTest).unwrap();
        assert_eq!(card.card.counts().verifies, before.verifies, "{firmware:?}");
        card.card.faults().unplug();
        assert!(matches!(token.probe(), Err(TokenError::Away(_))), "{firmware:?}");
    }
}

/// Another program holds the card in a transaction: the probe does not wait for it.
#[test]
fn a_probe_does_not_wait_for_other_programs() {
    let card = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let token = card.open();
    let held = card.hold();
    let start = Instant::now();
    token.probe().unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    drop(held);
}

/// Nothing uses the YubiKey. A keyring notices that it was unplugged, and that it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_unplugged_yubikey_is_noticed_without_an_operation() {
    let card = ConnectedCard::new(Firmware::V5_7_1, 1111);
    let token = card.open();
    let key = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Signing, label: None }).unwrap().public;
    let keyring = Keyring::builder().token(token).probe_idle_tokens_every(Duration::from_millis(50));
    let keyring = keyring.start().await.unwrap();
    let state = || keyring.keys().borrow().get(&key).unwrap().state;
    let becomes = |wanted: KeyState| {
        let until = Instant::now() + Duration::from_secs(30);
        while state() != wanted {
            assert!(Instant::now() < until, "the key is not {wanted:?}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    becomes(KeyState::Ready);
    card.card.faults().unplug();
    becomes(KeyState::Away);
    card.card.faults().plug_in();
    becomes(KeyState::Ready);
}
