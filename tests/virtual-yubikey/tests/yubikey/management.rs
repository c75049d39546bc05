//! The management key: authentication, and the commands that need it.

use aes::cipher::{Array, BlockCipherDecrypt, KeyInit};
use claviger_virtual_yubikey::Firmware;

use crate::host::{Host, P256, encrypt, encrypt_with_factory_key, tlv};

fn authenticate(host: &Host, algorithm: u8, elements: &[u8]) -> Result<Vec<u8>, u16> {
    host.command(0x87, algorithm, 0x9B, &tlv(&[0x7C], elements))
}

#[test]
fn changes_need_the_management_key() {
    let host = Host::new(Firmware::V5_7_1);
    assert_eq!(host.generate(0x9A, P256, 0, 0), Err(0x6982));
    assert_eq!(host.command(0xFE, P256, 0x9A, &tlv(&[6], &[1; 32])), Err(0x6982));
    assert_eq!(host.write([0x5F, 0xC1, 0x05], &[1]), Err(0x6982));
    assert_eq!(host.command(0xF6, 0xFF, 0xF9, &[]), Err(0x6982));
    assert_eq!(host.command(0xFF, 0xFF, 0xFF, &[3, 0x9B, 24]), Err(0x6982));
    host.authenticate().unwrap();
    assert!(host.generate(0x9A, P256, 0, 0).is_ok());
    host.0.reset();
    host.select().unwrap();
    assert_eq!(host.generate(0x9A, P256, 0, 0), Err(0x6982));
}

#[test]
fn the_default_is_3des_and_aes_192_from_5_7_on() {
    for (firmware, algorithm, other) in [(Firmware::V5_4_3, 3, 0x0A), (Firmware::V5_7_1, 0x0A, 3)] {
        let host = Host::new(firmware);
        assert_eq!(host.metadata(0x9B).unwrap(), [1, 1, algorithm, 2, 2, 0, 1, 5, 1, 1]);
        assert_eq!(authenticate(&host, other, &[0x81, 0]), Err(0x6A80));
        assert!(host.authenticate().is_ok());
    }
}

#[test]
fn single_authentication_accepts_the_right_response_once() {
    let host = Host::new(Firmware::V5_7_1);
    let challenge = || authenticate(&host, 0x0A, &[0x81, 0]).unwrap()[4..].to_vec();
    let respond = |response: &[u8]| authenticate(&host, 0x0A, &tlv(&[0x82], response));
    assert_eq!(respond(&[0; 16]), Err(0x6982), "there was no challenge");
    let challenge_block = challenge();
    assert_eq!(respond(&[0; 16]), Err(0x6982));
    assert_eq!(
        respond(&encrypt_with_factory_key(0x0A, &challenge_block)),
        Err(0x6982),
        "a challenge allows one response"
    );
    assert_eq!(host.generate(0x9A, P256, 0, 0), Err(0x6982));
    assert_eq!(respond(&encrypt_with_factory_key(0x0A, &challenge())), Ok(vec![]));
    assert!(host.generate(0x9A, P256, 0, 0).is_ok());
}

#[test]
fn mutual_authentication() {
    let host = Host::new(Firmware::V5_7_1);
    let witness = || authenticate(&host, 0x0A, &[0x80, 0]).unwrap()[4..].to_vec();
    let answer = |decrypted: &[u8]| {
        authenticate(&host, 0x0A, &[tlv(&[0x80], decrypted), tlv(&[0x81], &[9; 16]), vec![0x82, 0]].concat())
    };
    witness();
    assert_eq!(answer(&[0; 16]), Err(0x6982));
    let mut block = Array::try_from(&witness()[..]).unwrap();
    aes::Aes192::new_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8].repeat(3)).unwrap().decrypt_block(&mut block);
    let response = tlv(&[0x7C], &tlv(&[0x82], &encrypt_with_factory_key(0x0A, &[9; 16])));
    assert_eq!(answer(&block), Ok(response));
    assert!(host.generate(0x9A, P256, 0, 0).is_ok());
}

#[test]
fn each_kind_of_management_key_can_be_set() {
    for (algorithm, length) in [(0x03, 24), (0x08, 16), (0x0A, 24), (0x0C, 32)] {
        let host = Host::manager(Firmware::V5_4_3);
        let key: Vec<u8> = (0..length).collect();
        let set = |key: &[u8]| host.command(0xFF, 0xFF, 0xFF, &[&[algorithm, 0x9B, key.len() as u8], key].concat());
        assert_eq!(set(&key[1..]), Err(0x6A80));
        assert_eq!(set(&key), Ok(vec![]));
        assert_eq!(host.metadata(0x9B).unwrap(), [1, 1, algorithm, 2, 2, 0, 1, 5, 1, 0]);
        host.0.reset();
        host.select().unwrap();
        let challenge = authenticate(&host, algorithm, &[0x81, 0]).unwrap()[4..].to_vec();
        assert_eq!(authenticate(&host, algorithm, &tlv(&[0x82], &encrypt(algorithm, &key, &challenge))), Ok(vec![]));
    }
}

#[test]
fn a_management_key_can_have_a_touch_policy() {
    let host = Host::manager(Firmware::V5_7_1);
    let key = [&[0x0A, 0x9B, 24][..], &[1, 2, 3, 4, 5, 6, 7, 8].repeat(3)].concat();
    host.command(0xFF, 0xFF, 0xFE, &key).unwrap();
    assert_eq!(host.0.counts().touches, 0);
    host.authenticate().unwrap();
    assert_eq!(host.0.counts().touches, 1);
}
