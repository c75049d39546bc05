//! APDUs: SELECT, chaining, long responses, extended lengths, invalid commands.

use claviger_virtual_yubikey::{Firmware, VirtualYubiKey};

use crate::host::{Host, PIN, tlv};

const CERTIFICATE: [u8; 3] = [0x5F, 0xC1, 0x05];

#[test]
fn commands_need_piv_selected() {
    let host = Host(VirtualYubiKey::new(Firmware::V5_7_1, 1111));
    assert_eq!(host.verify(PIN), Err(0x6D00));
    assert_eq!(host.command(0xA4, 4, 0, &[0xA0, 0, 0, 3, 9]), Err(0x6A82));
    assert_eq!(host.verify(PIN), Err(0x6D00));
    let whole = [0xA0, 0, 0, 3, 8, 0, 0, 0x10, 0, 1, 0];
    assert_eq!(host.command(0xA4, 4, 0, &whole).unwrap()[..2], [0x61, 0x11]);
    assert_eq!(host.verify(PIN), Ok(vec![]));
    assert_eq!(host.0.counts().selects, 2);
}

#[test]
fn firmware_and_serial() {
    for (firmware, serial) in [(Firmware::V5_4_3, 7), (Firmware::V5_7_1, 0x0102_0304)] {
        let host = Host(VirtualYubiKey::new(firmware, serial));
        host.select().unwrap();
        assert_eq!(host.command(0xFD, 0, 0, &[]).unwrap(), [firmware.major, firmware.minor, firmware.patch]);
        assert_eq!(host.command(0xF8, 0, 0, &[]).unwrap(), serial.to_be_bytes());
        let management = host.command(0xA4, 4, 0, &[0xA0, 0, 0, 5, 0x27, 0x47, 0x11, 0x17]).unwrap();
        assert_eq!(management, format!("Virtual mgr - FW version {firmware}").into_bytes());
        assert_eq!(format!("{firmware}").parse(), Ok(firmware));
    }
    assert!("5.7".parse::<Firmware>().is_err());
}

const MANAGEMENT: [u8; 8] = [0xA0, 0, 0, 5, 0x27, 0x47, 0x11, 0x17];

/// READ CONFIG, since the PIV application is not there to be asked.
#[test]
fn with_piv_switched_off_the_serial_number_is_in_the_configuration() {
    let host = Host(VirtualYubiKey::new(Firmware::V5_7_1, 0x0102_0304));
    let read = || {
        host.command(0xA4, 4, 0, &MANAGEMENT).unwrap();
        host.command(0x1D, 0, 0, &[]).unwrap()
    };
    let on = [19, 1, 2, 2, 0x3B, 2, 4, 1, 2, 3, 4, 3, 2, 2, 0x3B, 5, 3, 5, 7, 1];
    assert_eq!(read(), on);
    host.0.faults().switch_piv_off();
    assert_eq!(host.select(), Err(0x6A82));
    assert_eq!(read()[13..15], [0x02, 0x2B]);
}

#[test]
fn a_yubikey_4_says_its_serial_number_only_there() {
    let host = Host(VirtualYubiKey::new(Firmware::V4_3_5, 7));
    host.select().unwrap();
    assert_eq!(host.command(0xFD, 0, 0, &[]).unwrap(), [4, 3, 5]);
    assert_eq!(host.command(0xF8, 0, 0, &[]), Err(0x6D00));
    assert_eq!(host.metadata(0x9A), Err(0x6D00));
    host.command(0xA4, 4, 0, &MANAGEMENT).unwrap();
    assert_eq!(host.command(0x1D, 0, 0, &[]).unwrap()[5..11], [2, 4, 0, 0, 0, 7]);
}

#[test]
fn a_long_response_comes_in_parts_of_256_bytes() {
    let host = Host::manager(Firmware::V5_7_1);
    let object: Vec<u8> = (0..700).map(|n| n as u8).collect();
    host.write(CERTIFICATE, &object).unwrap();
    let whole = tlv(&[0x53], &object);
    let read = [&[0, 0xCB, 0x3F, 0xFF, 5][..], &tlv(&[0x5C], &CERTIFICATE)].concat();
    let more = [0, 0xC0, 0, 0, 0];
    assert_eq!(host.apdu(&read), (whole[..256].to_vec(), 0x6100), "256 or more are left");
    assert_eq!(host.apdu(&more), (whole[256..512].to_vec(), 0x61C0));
    assert_eq!(host.apdu(&more), (whole[512..].to_vec(), 0x9000));
    assert_eq!(host.apdu(&more), (vec![], 0x6985), "nothing is left");
    host.apdu(&read);
    host.apdu(&[0, 0xFD, 0, 0]);
    assert_eq!(host.apdu(&more), (vec![], 0x6985), "another command came between");
    host.apdu(&read);
    host.0.reset();
    assert_eq!(host.apdu(&more), (vec![], 0x6985), "the card was reset");
}

#[test]
fn extended_length_needs_no_chaining() {
    let host = Host::manager(Firmware::V5_7_1);
    let object = vec![7; 1000];
    let data = [tlv(&[0x5C], &CERTIFICATE), tlv(&[0x53], &object)].concat();
    let length = (data.len() as u16).to_be_bytes();
    assert_eq!(host.apdu(&[&[0, 0xDB, 0x3F, 0xFF, 0], &length[..], &data].concat()), (vec![], 0x9000));
    let read = [&[0, 0xCB, 0x3F, 0xFF, 0, 0, 5][..], &tlv(&[0x5C], &CERTIFICATE), &[0, 0]].concat();
    assert_eq!(host.apdu(&read), (tlv(&[0x53], &object), 0x9000));
}

#[test]
fn another_command_ends_a_chain() {
    let host = Host::manager(Firmware::V5_7_1);
    let data = [tlv(&[0x5C], &CERTIFICATE), tlv(&[0x53], &[1; 20])].concat();
    let part = |cla, data: &[u8]| [&[cla, 0xDB, 0x3F, 0xFF, data.len() as u8], data].concat();
    assert_eq!(host.apdu(&part(0x10, &data[..9])), (vec![], 0x9000));
    assert_eq!(host.apdu(&part(0x00, &data[9..])), (vec![], 0x9000));
    assert_eq!(host.read(CERTIFICATE), Ok(tlv(&[0x53], &[1; 20])));
    host.apdu(&part(0x10, &data[..9]));
    assert_eq!(host.apdu(&[0, 0xFD, 0, 0]), (vec![5, 7, 1], 0x9000));
    assert_eq!(host.apdu(&part(0x00, &data[9..])).1, 0x6A80);
    host.apdu(&part(0x10, &data[..9]));
    host.0.reset();
    host.select().unwrap();
    host.authenticate().unwrap();
    assert_eq!(host.apdu(&part(0x00, &data[9..])).1, 0x6A80);
}

#[test]
fn a_command_has_at_most_3072_bytes() {
    let host = Host::new(Firmware::V5_7_1);
    // The data is too long for a PIN. Its status is not the one for data that is too long for a command.
    assert_eq!(host.command(0x20, 0, 0x80, &[1; 3072]), Err(0x6A80));
    assert_eq!(host.command(0x20, 0, 0x80, &[1; 3073]), Err(0x6700));
    let extended = |length: u16| {
        let data = vec![1; length.into()];
        host.apdu(&[&[0, 0x20, 0, 0x80, 0], &length.to_be_bytes()[..], &data].concat()).1
    };
    assert_eq!((extended(3072), extended(3073)), (0x6A80, 0x6700));
}

#[test]
fn invalid_apdus_are_refused() {
    let host = Host::new(Firmware::V5_7_1);
    assert_eq!(host.apdu(&[]).1, 0x6700);
    assert_eq!(host.apdu(&[0, 0x20, 0]).1, 0x6700);
    assert_eq!(host.apdu(&[0, 0x20, 0, 0x80, 8, 1, 2]).1, 0x6700, "truncated");
    assert_eq!(host.apdu(&[&[0, 0x20, 0, 0x80, 8], &PIN[..], &[0, 0]].concat()).1, 0x6700, "too long");
    assert_eq!(host.apdu(&[&[0, 0x20, 0, 0x80, 0, 0, 9], &PIN[..]].concat()).1, 0x6700, "truncated, extended length");
    assert_eq!(host.apdu(&[0x80, 0x20, 0, 0x80]).1, 0x6E00);
    assert_eq!(host.apdu(&[0, 0x01, 0, 0]).1, 0x6D00);
    assert_eq!(host.0.pin_tries_left(), 3);
    assert_eq!(host.apdu(&[&[0, 0x20, 0, 0x80, 8], &PIN[..], &[0]].concat()).1, 0x9000, "with Le");
}
