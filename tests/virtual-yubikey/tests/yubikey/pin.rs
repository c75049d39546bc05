//! PIN and PUK: tries, blocking, change, and what makes the card forget a verified PIN.

use claviger_virtual_yubikey::Firmware;

use crate::host::{Host, ONCE, P256, PIN, PUK, WRONG};

#[test]
fn a_wrong_pin_costs_a_try_and_a_right_pin_resets_the_counter() {
    let host = Host::new(Firmware::V5_7_1);
    assert_eq!(host.verify(&[]), Err(0x63C3));
    assert_eq!(host.verify(WRONG), Err(0x63C2));
    assert_eq!(host.verify(WRONG), Err(0x63C1));
    assert_eq!(host.0.pin_tries_left(), 1);
    assert_eq!(host.verify(&[]), Err(0x63C1), "VERIFY without a PIN costs no try");
    assert_eq!(host.verify(PIN), Ok(vec![]));
    assert_eq!(host.0.pin_tries_left(), 3);
    assert_eq!(host.verify(&[]), Ok(vec![]), "VERIFY without a PIN succeeds once the PIN is verified");
    let counts = host.0.counts();
    assert_eq!((counts.verifies, counts.wrong_pins), (3, 2));
}

#[test]
fn firmware_5_3_1_forgets_the_pin_when_it_is_asked() {
    let host = Host::new(Firmware::V5_3_1);
    host.verify(PIN).unwrap();
    assert_eq!([0; 2].map(|_| host.verify(&[])), [Ok(vec![]), Err(0x63C3)]);
}

#[test]
fn after_three_wrong_pins_only_the_puk_helps() {
    let host = Host::new(Firmware::V5_7_1);
    let answers = [Err(0x63C2), Err(0x63C1), Err(0x6983), Err(0x6983)];
    assert_eq!([0; 4].map(|_| host.verify(WRONG)), answers);
    assert_eq!(host.verify(PIN), Err(0x6983));
    assert_eq!(host.0.counts().wrong_pins, 3);
    let unblock = |puk: &[u8; 8]| host.command(0x2C, 0, 0x80, &[&puk[..], b"abcdef\xFF\xFF"].concat());
    assert_eq!(unblock(WRONG), Err(0x63C2));
    assert_eq!(unblock(PUK), Ok(vec![]));
    assert_eq!(host.verify(b"abcdef\xFF\xFF"), Ok(vec![]));
    // The PUK is compared before the new PIN is looked at: `ykman piv reset` blocks it with empty codes.
    let empty = [0xFF; 16];
    assert_eq!([0; 4].map(|_| host.command(0x2C, 0, 0x80, &empty)), answers);
}

#[test]
fn a_pin_of_a_wrong_length_costs_no_try() {
    let host = Host::new(Firmware::V5_7_1);
    assert_eq!(host.verify(b"123456"), Err(0x6A80));
    assert_eq!(host.verify(b"123456\xFF\xFF\xFF"), Err(0x6A80));
    assert_eq!(host.0.pin_tries_left(), 3);
    assert_eq!(host.0.counts().wrong_pins, 0);
}

#[test]
fn a_wrong_pin_undoes_a_verified_one() {
    let host = Host::manager(Firmware::V5_7_1);
    for slot in [0x9A, 0x9C] {
        host.generate(slot, P256, 0, 0).unwrap();
        host.verify(PIN).unwrap();
        host.verify(WRONG).unwrap_err();
        assert_eq!(host.sign(slot, P256, &[1; 32]), Err(0x6982), "{slot:02x}");
    }
}

#[test]
fn changing_pin_or_puk_needs_the_old_one() {
    let host = Host::new(Firmware::V5_7_1);
    let change = |which, old: &[u8], new: &[u8]| host.command(0x24, 0, which, &[old, new].concat());
    assert_eq!(change(0x80, PIN, b"777777\xFF\xFF"), Ok(vec![]));
    assert_eq!(change(0x80, PIN, b"888888\xFF\xFF"), Err(0x63C2));
    assert_eq!(host.verify(b"777777\xFF\xFF"), Ok(vec![]));
    assert_eq!(change(0x81, PUK, b"00000000"), Ok(vec![]));
    assert_eq!(change(0x81, PUK, b"11111111"), Err(0x63C2));
    for new in [&b"12345\xFF\xFF\xFF"[..], b"1234\xFF56\xFF", b"1234567"] {
        assert_eq!(change(0x80, b"777777\xFF\xFF", new), Err(0x6A80), "{new:?}");
    }
    assert_eq!(host.0.pin_tries_left(), 3);
}

#[test]
fn logout_reset_and_another_application_forget_the_pin() {
    let host = Host::new(Firmware::V5_7_1);
    let forget: [(&str, &dyn Fn()); 3] = [
        ("VERIFY FF", &|| drop(host.command(0x20, 0xFF, 0x80, &[]).unwrap())),
        ("reset", &|| host.0.reset()),
        ("management", &|| drop(host.command(0xA4, 4, 0, &[0xA0, 0, 0, 5, 0x27, 0x47, 0x11, 0x17]).unwrap())),
    ];
    for (how, forget) in forget {
        host.verify(PIN).unwrap();
        host.select().unwrap();
        assert_eq!(host.verify(&[]), Ok(vec![]), "selecting PIV once more keeps it");
        forget();
        host.select().unwrap();
        assert_eq!(host.verify(&[]), Err(0x63C3), "{how}");
    }
}

#[test]
fn setting_the_number_of_tries_needs_pin_and_management_key() {
    let host = Host::new(Firmware::V5_7_1);
    assert_eq!(host.command(0xFA, 5, 4, &[]), Err(0x6982));
    host.verify(PIN).unwrap();
    assert_eq!(host.command(0xFA, 5, 4, &[]), Err(0x6982));
    host.authenticate().unwrap();
    assert_eq!(host.command(0xFA, 5, 4, &[]), Ok(vec![]));
    assert_eq!(host.0.pin_tries_left(), 5);
    assert_eq!(host.metadata(0x81).unwrap(), [1, 1, 0xFF, 5, 1, 1, 6, 2, 4, 4]);
}

#[test]
fn metadata_of_pin_and_puk() {
    let host = Host::new(Firmware::V5_4_3);
    assert_eq!(host.metadata(0x80).unwrap(), [1, 1, 0xFF, 5, 1, 1, 6, 2, 3, 3]);
    assert_eq!(host.metadata(0x81).unwrap(), [1, 1, 0xFF, 5, 1, 1, 6, 2, 3, 3]);
    host.command(0x24, 0, 0x80, &[&PIN[..], b"777777\xFF\xFF"].concat()).unwrap();
    host.verify(WRONG).unwrap_err();
    assert_eq!(host.metadata(0x80).unwrap(), [1, 1, 0xFF, 5, 1, 0, 6, 2, 3, 2]);
}

#[test]
fn an_application_reset_needs_pin_and_puk_blocked_and_keeps_the_attestation_key() {
    let host = Host::manager(Firmware::V5_7_1);
    host.generate(0x9A, P256, ONCE, 0).unwrap();
    host.write([0x5F, 0xC1, 0x05], &[1]).unwrap();
    let attestation = host.metadata(0xF9).unwrap();
    let reset = || host.command(0xFB, 0, 0, &[]);
    assert_eq!(reset(), Err(0x6985));
    (0..3).for_each(|_| drop(host.verify(WRONG)));
    assert_eq!(reset(), Err(0x6985));
    (0..3).for_each(|_| drop(host.command(0x24, 0, 0x81, &[*WRONG, *PUK].concat())));
    assert_eq!(reset(), Ok(vec![]));
    assert_eq!(host.verify(PIN), Ok(vec![]));
    assert_eq!(host.metadata(0x9A), Err(0x6A88));
    assert_eq!(host.read([0x5F, 0xC1, 0x05]), Err(0x6A82));
    assert_eq!(host.generate(0x9A, P256, 0, 0), Err(0x6982), "the management key needs authentication again");
    assert_eq!(host.metadata(0xF9), Ok(attestation));
    assert!(host.read([0x5F, 0xFF, 0x01]).is_ok());
}
