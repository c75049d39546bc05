//! `YubiKey::examine`: throw-away keys on a card that holds a person's keys.

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, NewKey, PinPolicy, Purpose, Slot, SlotOptions, Token, TokenError,
        pin::{Pin, PinSource},
        piv::{
            AlgorithmExamination, CardExamination, ExaminationError, KnownAnswer, OpenOptions, Refusal, SlotAfter,
            YubiKey,
        },
    },
};
use claviger_virtual_yubikey::{Firmware, VirtualYubiKey};
use zeroize::Zeroizing;

use crate::connected_card::ConnectedCard;

fn slot(name: &str) -> Slot {
    name.parse().unwrap()
}

/// Makes a key of the person's own.
fn make_in(token: &YubiKey, slot: &str) -> PublicKey {
    let key = NewKey { curve: Curve::P256, usage: KeyUse::Both, label: Some("mine".into()) };
    let options = SlotOptions { slot: slot.parse().ok(), ..SlotOptions::default() };
    token.generate_in_slot(&key, options).unwrap().public
}

/// What other programs see in a slot: the answers to GET METADATA and GET DATA.
fn content(card: &VirtualYubiKey, slot: Slot) -> [Vec<u8>; 2] {
    let transmit = |apdu: &[u8]| card.transmit(apdu).unwrap();
    let number = slot.number();
    let object = match number {
        0x9a => 0x05,
        0x9c => 0x0a,
        0x9d => 0x0b,
        0x9e => 0x01,
        retired => retired - 0x82 + 0x0d,
    };
    transmit(&[0, 0xa4, 4, 0, 5, 0xa0, 0, 0, 3, 8]);
    [transmit(&[0, 0xf7, 0, number, 0]), transmit(&[0, 0xcb, 0x3f, 0xff, 5, 0x5c, 3, 0x5f, 0xc1, object, 0])]
}

fn all_slots(card: &VirtualYubiKey) -> Vec<(Slot, [Vec<u8>; 2])> {
    Slot::all().map(|slot| (slot, content(card, slot))).collect()
}

fn examine(token: &YubiKey, slot: Option<Slot>) -> Result<CardExamination, ExaminationError> {
    token.examine(slot, |_| ())
}

fn refusal(token: &YubiKey, slot: Option<Slot>) -> String {
    match examine(token, slot) {
        Err(ExaminationError { error: TokenError::Config(reason), slot: SlotAfter::Untouched, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn curves(examined: &CardExamination) -> Vec<Curve> {
    examined.algorithms.iter().map(|it| it.curve).collect()
}

/// All that a virtual card does is right, and does not come from Yubico.
fn assert_right(examined: &CardExamination, card: &VirtualYubiKey) {
    for it in &examined.algorithms {
        let AlgorithmExamination { curve, made, agreement, signature, attested, .. } = it;
        assert!(made.is_ok() && *attested, "{it:?}");
        assert_eq!(agreement.is_some(), *curve != Curve::Ed25519);
        assert_eq!(signature.is_some(), matches!(curve, Curve::P256 | Curve::Ed25519));
        let answers = [agreement, signature].into_iter().flatten();
        assert!(answers.into_iter().all(|answer| matches!(answer, KnownAnswer::Right(_))), "{it:?}");
    }
    let pins: Vec<_> = examined.pin_policies.iter().map(|it| (it.policy, it.made, it.needs_pin)).collect();
    assert_eq!(pins, [(PinPolicy::Never, true, false), (PinPolicy::Once, true, true), (PinPolicy::Always, true, true)]);
    assert!(examined.touch_policies.len() == 3 && examined.touch_policies.iter().all(|(_, made)| *made));
    assert_eq!(examined.form_factor.unwrap().to_string(), "USB-A");
    assert_eq!((examined.made_by_yubico, examined.largest_object), (Some(false), Some(3052)));
    assert_eq!((card.counts().touches, card.counts().wrong_pins, card.pin_tries_left()), (0, 0, 3));
}

#[test]
fn a_card_that_deletes_keys_is_as_before() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 5555);
    let (card, token) = (&plugged.card, plugged.open());
    // The last slot holds a key, and the one before it a certificate only.
    let mine = make_in(&token, "95");
    let other = make_in(&token, "94");
    card.copy_key(0x95, 0x93);
    token.delete_in_slot(&other, None).unwrap();
    let before = all_slots(card);
    let verifies = card.counts().verifies;

    let examined = examine(&token, None).unwrap();
    assert_eq!(examined.slot, slot("94"));
    assert_right(&examined, card);
    let mut expected = vec![Curve::P256, Curve::P384, Curve::X25519, Curve::Ed25519];
    let mut found = curves(&examined);
    for curves in [&mut expected, &mut found] {
        curves.sort_by_key(|curve| curve.name());
    }
    assert_eq!((found, examined.longest_eddsa), (expected, Some(3000)));
    // With the factory's management key, no PIN is presented.
    assert_eq!((all_slots(card), card.counts().verifies), (before, verifies));
    token.sign(&mine, b"a message", &Purpose::KeyTest).unwrap();

    for occupied in ["95", "93"] {
        let reason = refusal(&token, Some(slot(occupied)));
        assert!(reason.starts_with(&format!("slot {occupied} is not empty")) && reason.contains("--slot"), "{reason}");
    }
    assert_eq!(examine(&token, Some(slot("9d"))).unwrap().slot, slot("9d"));
    assert_eq!(content(card, slot("9d")), content(card, slot("9e")));
    let named = OpenOptions::new().open("yubikey:serial=5555;slot=9e", plugged.clone()).unwrap();
    assert!(refusal(&named, Some(slot("9d"))).contains("the URI names slot 9e only"));
    assert_eq!(examine(&named, None).unwrap().slot, slot("9e"));
}

#[test]
fn a_card_that_deletes_no_keys_keeps_one_only_in_a_slot_that_was_named() {
    let plugged = ConnectedCard::new(Firmware::V5_4_3, 5555);
    let (card, token) = (&plugged.card, plugged.open());
    let mine = make_in(&token, "82");
    let before = all_slots(card);
    let reason = refusal(&token, None);
    assert!(reason.contains("firmware 5.4.3 cannot delete a key") && reason.contains("--slot"), "{reason}");
    let named = OpenOptions::new().open("yubikey:serial=5555;slot=9e", plugged.clone()).unwrap();
    assert!(refusal(&named, None).contains("--slot"));
    assert_eq!(all_slots(card), before);

    let examined = examine(&token, Some(slot("90"))).unwrap();
    assert_right(&examined, card);
    assert_eq!((curves(&examined), examined.longest_eddsa), (vec![Curve::P256, Curve::P384], None));
    let is_other = |(slot, _): &(Slot, _)| slot.to_string() != "90";
    let others = |slots: Vec<(Slot, [Vec<u8>; 2])>| slots.into_iter().filter(is_other).collect::<Vec<_>>();
    assert_eq!(others(all_slots(card)), others(before));
    // The key that is left counts as none, and its slot is used for the next examination, and for a key.
    let held: Vec<_> = token.inventory().unwrap().into_iter().map(|held| held.public).collect();
    assert_eq!(held, std::slice::from_ref(&mine));
    assert_eq!(examine(&token, None).unwrap().slot, slot("90"));
    make_in(&token, "90");
    assert!(refusal(&token, None).contains("--slot"));
    token.sign(&mine, b"a message", &Purpose::KeyTest).unwrap();
}

#[test]
fn the_management_key_and_the_pin_are_used_once() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 5555);
    let own = OpenOptions::new().pin(PinSource::value(Pin::new("471108")));
    let token = plugged.open_with(own);
    token.set_up(&Pin::new("471108"), &Pin::new("81504711")).unwrap();
    // The card stores the management key behind its PIN.
    let verifies = plugged.card.counts().verifies;
    assert_right(&examine(&token, None).unwrap(), &plugged.card);
    assert_eq!(plugged.card.counts().verifies, verifies + 1);

    let before = all_slots(&plugged.card);
    token.set_management_key(Zeroizing::new(vec![9; 24])).unwrap();
    assert!(refusal(&token, None).contains("another management key"));
    assert_eq!(all_slots(&plugged.card), before);
}

#[test]
fn a_refusal_is_a_result() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 5555);
    let (faults, token) = (plugged.card.faults(), plugged.open());
    let of = |examined: &CardExamination, curve: Curve| {
        examined.algorithms.iter().find(|it| it.curve == curve).unwrap().clone()
    };
    let before = all_slots(&plugged.card);
    // The first curve makes no key, and the second one attests none.
    let mut is_first = true;
    let examined = token.examine(None, |what| {
        if Curve::ALL.iter().any(|curve| curve.name() == what) && std::mem::take(&mut is_first) {
            faults.answer_next(0x47, 0x6a80);
            faults.answer_next(0xf9, 0x6d00);
        }
    });
    let examined = examined.unwrap();
    let [first, second] = [0, 1].map(|at| curves(&examined)[at]);
    let refused = Err(Refusal { command: "GENERATE ASYMMETRIC KEY PAIR", status: 0x6a80 });
    assert_eq!((of(&examined, first).made, of(&examined, first).agreement), (refused, None));
    assert!(of(&examined, second).made.is_ok() && !of(&examined, second).attested);
    assert_eq!((examined.made_by_yubico, examined.largest_object), (Some(false), Some(3052)));
    assert_eq!(all_slots(&plugged.card), before);
}

#[test]
fn a_card_that_refuses_every_key_is_as_before() {
    for firmware in [Firmware::V5_4_3, Firmware::V5_7_1] {
        let plugged = ConnectedCard::new(firmware, 5555);
        let (faults, token) = (plugged.card.faults(), plugged.open());
        let before = all_slots(&plugged.card);
        // Each PIN and touch policy, each curve, and the key of the largest object.
        for _ in 0..11 {
            faults.answer_next(0x47, 0x6985);
        }
        let examined = examine(&token, Some(slot("95"))).unwrap();
        assert!(examined.algorithms.iter().all(|it| it.made.is_err()));
        assert!(
            examined.pin_policies.iter().all(|it| !it.made) && examined.touch_policies.iter().all(|(_, made)| !made)
        );
        assert_eq!((examined.made_by_yubico, examined.largest_object), (None, None));
        assert_eq!(all_slots(&plugged.card), before);
    }
}

/// A FIPS model makes no key with the PIN policy *never*. The rest is measured all the same.
#[test]
fn keys_that_need_the_pin_are_made_and_attested() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 5555);
    let (card, token) = (&plugged.card, plugged.open());
    card.make_fips();
    let verifies = card.counts().verifies;
    let examined = examine(&token, None).unwrap();
    let pins: Vec<_> = examined.pin_policies.iter().map(|it| (it.made, it.needs_pin)).collect();
    assert_eq!(pins, [(false, false), (true, true), (true, true)]);
    assert!(examined.touch_policies.iter().all(|(_, made)| *made));
    let refused = KnownAnswer::Refused(Refusal { command: "GENERAL AUTHENTICATE", status: 0x6982 });
    for it in &examined.algorithms {
        assert!(it.made.is_ok() && it.attested, "{it:?}");
        assert!([it.agreement, it.signature].into_iter().flatten().all(|answer| answer == refused), "{it:?}");
    }
    assert_eq!((examined.made_by_yubico, examined.largest_object), (Some(false), Some(3052)));
    assert_eq!((card.counts().verifies, card.pin_tries_left()), (verifies, 3));
}

#[test]
fn only_an_object_that_was_written_is_the_largest() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 5555);
    let token = plugged.open();
    let before = all_slots(&plugged.card);
    // The certificates of deleted keys fit, and nothing behind them.
    plugged.card.fill_memory(500);
    let largest = examine(&token, None).unwrap().largest_object.unwrap();
    assert!((300..=500).contains(&largest), "{largest}");
    assert_eq!(all_slots(&plugged.card), before);
}

/// The first key cannot be marked as deleted. Firmware before 5.7 cannot delete it either.
#[test]
fn a_key_that_is_left_is_named() {
    for (firmware, expected) in
        [(Firmware::V5_7_1, SlotAfter::Cleared(slot("95"))), (Firmware::V5_4_3, SlotAfter::NotCleared(slot("95")))]
    {
        let plugged = ConnectedCard::new(firmware, 5555);
        let token = plugged.open();
        plugged.card.fill_memory(100);
        let ended = examine(&token, Some(slot("95"))).unwrap_err();
        assert!(ended.to_string().contains("PUT DATA") && ended.to_string().contains("6A84"), "{ended}");
        assert_eq!(ended.slot, expected);
        let held: Vec<_> = token.inventory().unwrap().into_iter().map(|held| (held.slot, held.label)).collect();
        assert_eq!(held.is_empty(), expected == SlotAfter::Cleared(slot("95")), "{held:?}");
    }
}

/// If the attestation key in slot F9 was replaced, a card may attest nothing.
#[test]
fn a_card_without_attestations_has_no_form_factor() {
    let plugged = ConnectedCard::new(Firmware::V5_7_1, 5555);
    let token = plugged.open();
    make_in(&token, "82");
    assert!(token.form_factor().unwrap().is_some());
    plugged.card.faults().answer_next(0xf9, 0x6a80);
    assert_eq!(token.form_factor().unwrap(), None);
}

/// However the examination ends, the keys of the person stay.
#[test]
fn a_card_that_is_removed_keeps_its_keys() {
    for firmware in [Firmware::V5_4_3, Firmware::V5_7_1] {
        let plugged = ConnectedCard::new(firmware, 5555);
        let (card, token) = (&plugged.card, plugged.open());
        let mine = make_in(&token, "82");
        let before = content(card, slot("82"));
        let apdus = card.counts().apdus;
        examine(&token, Some(slot("95"))).unwrap();
        let whole = card.counts().apdus - apdus;
        let mut unmarked = 0;
        // At the end, after each command.
        for at in (0..whole - 15).step_by(usize::try_from(whole / 40).unwrap()).chain(whole - 15..whole) {
            let last = content(card, slot("95"));
            card.faults().unplug_after(at);
            let ended = examine(&token, Some(slot("95")));
            card.faults().unplug_after(u64::MAX);
            card.faults().plug_in();
            match ended {
                // The last commands make the card forget the management key, as its removal does.
                Ok(_) => assert!(at + 5 > whole, "{at} of {whole}"),
                Err(ended) => {
                    assert!(matches!(ended.error, TokenError::Away(_)), "{at}: {ended:?}");
                    match ended.slot {
                        SlotAfter::Untouched => assert_eq!(content(card, slot("95")), last, "{at}"),
                        after => assert_eq!(after, SlotAfter::NotCleared(slot("95")), "{at}"),
                    }
                }
            }
            assert_eq!(content(card, slot("82")), before);
            token.sign(&mine, b"a message", &Purpose::KeyTest).unwrap();
            // Only between two commands is the throw-away key not marked. Then it is seen as a key, and can be deleted.
            for left in token.inventory().unwrap().into_iter().filter(|held| held.public != mine) {
                assert_eq!((left.slot, left.label), (Some(slot("95")), None));
                token.delete(&left.public).unwrap();
                unmarked += 1;
            }
            // The slot counts as empty.
            let other = make_in(&token, "95");
            token.delete(&other).unwrap();
        }
        assert!(unmarked < 10, "{unmarked} keys were left without a mark");
        assert!(examine(&token, Some(slot("95"))).is_ok());
    }
}
