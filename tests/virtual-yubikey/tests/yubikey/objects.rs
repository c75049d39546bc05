//! Data objects: write, read, remove, size limit, and the PIN.

use claviger_virtual_yubikey::Firmware;

use crate::host::{Host, PIN, tlv};

const CERTIFICATE: [u8; 3] = [0x5F, 0xC1, 0x05];
const PRINTED: [u8; 3] = [0x5F, 0xC1, 0x09];

#[test]
fn an_object_is_written_read_and_removed() {
    let host = Host::manager(Firmware::V5_7_1);
    assert_eq!(host.read(CERTIFICATE), Err(0x6A82));
    assert_eq!(host.write(CERTIFICATE, b"one"), Ok(vec![]));
    assert_eq!(host.read(CERTIFICATE), Ok(tlv(&[0x53], b"one")));
    assert_eq!(host.write(CERTIFICATE, b""), Ok(vec![]));
    assert_eq!(host.read(CERTIFICATE), Err(0x6A82));
}

#[test]
fn an_object_has_at_most_3052_bytes() {
    let host = Host::manager(Firmware::V5_7_1);
    assert_eq!(host.write(CERTIFICATE, &[5; 3053]), Err(0x6A84));
    assert_eq!(host.read(CERTIFICATE), Err(0x6A82));
    assert_eq!(host.write(CERTIFICATE, &[5; 3052]), Ok(vec![]));
    assert_eq!(host.read(CERTIFICATE), Ok(tlv(&[0x53], &[5; 3052])));
}

#[test]
fn an_object_may_be_too_large_for_the_memory_that_is_left() {
    let host = Host::manager(Firmware::V5_7_1);
    host.write(CERTIFICATE, b"one").unwrap();
    host.0.fill_memory(100);
    assert_eq!(host.write(CERTIFICATE, &[5; 101]), Err(0x6A84));
    assert_eq!(host.read(CERTIFICATE), Ok(tlv(&[0x53], b"one")));
    assert_eq!(host.write(CERTIFICATE, &[5; 100]), Ok(vec![]));
}

#[test]
fn printed_information_needs_the_pin() {
    let host = Host::manager(Firmware::V5_7_1);
    host.write(PRINTED, b"secret").unwrap();
    assert_eq!(host.read(PRINTED), Err(0x6982));
    host.verify(PIN).unwrap();
    assert_eq!(host.read(PRINTED), Ok(tlv(&[0x53], b"secret")));
}

#[test]
fn the_discovery_object_names_the_application() {
    let discovery = Host::new(Firmware::V5_4_3).command(0xCB, 0x3F, 0xFF, &[0x5C, 1, 0x7E]).unwrap();
    assert_eq!(discovery[..4], [0x7E, 0x12, 0x4F, 0x0B]);
}
