//! The host's side: encodes commands and decodes responses.

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use claviger_virtual_yubikey::{Firmware, VirtualYubiKey};

pub const PIN: &[u8; 8] = b"123456\xFF\xFF";
pub const PUK: &[u8; 8] = b"12345678";
pub const WRONG: &[u8; 8] = b"654321\xFF\xFF";

pub const P256: u8 = 0x11;
pub const P384: u8 = 0x14;
pub const ED25519: u8 = 0xE0;
pub const X25519: u8 = 0xE1;

/// Values of element AA, the PIN policy, and of AB, the touch policy.
pub const NEVER: u8 = 1;
pub const ONCE: u8 = 2;
pub const PIN_ALWAYS: u8 = 3;
pub const TOUCH_ALWAYS: u8 = 2;
pub const CACHED: u8 = 3;

/// The data of a response, or the status word of a failure.
pub type Answer = Result<Vec<u8>, u16>;

pub struct Host(pub VirtualYubiKey);

impl Host {
    /// A YubiKey from the factory, with its PIV application selected.
    pub fn new(firmware: Firmware) -> Self {
        let host = Self(VirtualYubiKey::new(firmware, 1111));
        host.select().expect("PIV is there");
        host
    }

    /// A YubiKey from the factory, already authenticated with the management key.
    pub fn manager(firmware: Firmware) -> Self {
        let host = Self::new(firmware);
        host.authenticate().expect("the management key of the factory");
        host
    }

    /// Sends an APDU. Returns the data and the status word of the response.
    pub fn apdu(&self, apdu: &[u8]) -> (Vec<u8>, u16) {
        let mut answer = self.0.transmit(apdu).expect("plugged in");
        let status = answer.split_off(answer.len() - 2);
        (answer, u16::from_be_bytes([status[0], status[1]]))
    }

    /// Sends a whole command, in a chain if it is long. Returns the whole response.
    pub fn command(&self, ins: u8, p1: u8, p2: u8, data: &[u8]) -> Answer {
        let mut parts = data.chunks(255).collect::<Vec<_>>();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            match self.apdu(&[&[0x10, ins, p1, p2, 255], part].concat()) {
                (_, 0x9000) => {}
                (_, status) => return Err(status),
            }
        }
        let (mut all, mut status) = match last.len() {
            0 => self.apdu(&[0, ins, p1, p2]),
            length => self.apdu(&[&[0, ins, p1, p2, length as u8], last].concat()),
        };
        while status >> 8 == 0x61 {
            let (more, next) = self.apdu(&[0, 0xC0, 0, 0, 0]);
            all.extend(more);
            status = next;
        }
        if status == 0x9000 { Ok(all) } else { Err(status) }
    }

    pub fn select(&self) -> Answer {
        self.command(0xA4, 4, 0, &[0xA0, 0, 0, 3, 8])
    }

    pub fn verify(&self, pin: &[u8]) -> Answer {
        self.command(0x20, 0, 0x80, pin)
    }

    /// Single authentication with the factory management key.
    pub fn authenticate(&self) -> Answer {
        let algorithm = if self.0.firmware() >= Firmware::V5_7_1 { 0x0A } else { 0x03 };
        let challenge = self.command(0x87, algorithm, 0x9B, &[0x7C, 2, 0x81, 0])?;
        let response = encrypt_with_factory_key(algorithm, &challenge[4..]);
        self.command(0x87, algorithm, 0x9B, &tlv(&[0x7C], &tlv(&[0x82], &response)))
    }

    /// Makes a key with these policies (0 is the slot's default). Returns its public half.
    pub fn generate(&self, slot: u8, algorithm: u8, pin: u8, touch: u8) -> Answer {
        let template = [0x80, 1, algorithm, 0xAA, 1, pin, 0xAB, 1, touch];
        let answer = self.command(0x47, 0, slot, &tlv(&[0xAC], &template))?;
        // 7F49 is one tag of two bytes.
        let (_, template) = element(&answer[1..]);
        let (tag, public) = element(template);
        assert_eq!((&answer[..2], tag), (&[0x7F, 0x49][..], 0x86));
        Ok(public.to_vec())
    }

    pub fn sign(&self, slot: u8, algorithm: u8, input: &[u8]) -> Answer {
        self.use_key(slot, algorithm, 0x81, input)
    }

    pub fn agree(&self, slot: u8, algorithm: u8, peer: &[u8]) -> Answer {
        self.use_key(slot, algorithm, 0x85, peer)
    }

    fn use_key(&self, slot: u8, algorithm: u8, tag: u8, input: &[u8]) -> Answer {
        let template = [tlv(&[0x82], &[]), tlv(&[tag], input)].concat();
        let answer = self.command(0x87, algorithm, slot, &tlv(&[0x7C], &template))?;
        let (outer, inner) = element(&answer);
        let (tag, result) = element(inner);
        assert_eq!((outer, tag), (0x7C, 0x82));
        Ok(result.to_vec())
    }

    pub fn metadata(&self, slot: u8) -> Answer {
        self.command(0xF7, 0, slot, &[])
    }

    pub fn read(&self, object: [u8; 3]) -> Answer {
        self.command(0xCB, 0x3F, 0xFF, &tlv(&[0x5C], &object))
    }

    pub fn write(&self, object: [u8; 3], value: &[u8]) -> Answer {
        self.command(0xDB, 0x3F, 0xFF, &[tlv(&[0x5C], &object), tlv(&[0x53], value)].concat())
    }
}

pub fn encrypt_with_factory_key(algorithm: u8, block: &[u8]) -> Vec<u8> {
    encrypt(algorithm, &[1, 2, 3, 4, 5, 6, 7, 8].repeat(3), block)
}

pub fn encrypt(algorithm: u8, key: &[u8], block: &[u8]) -> Vec<u8> {
    fn with<C: KeyInit + BlockCipherEncrypt>(key: &[u8], block: &[u8]) -> Vec<u8> {
        let mut block = Array::try_from(block).expect("one block");
        C::new_from_slice(key).expect("a key of this length").encrypt_block(&mut block);
        block.to_vec()
    }
    match algorithm {
        0x03 => with::<des::TdesEde3>(key, block),
        0x08 => with::<aes::Aes128>(key, block),
        0x0A => with::<aes::Aes192>(key, block),
        _ => with::<aes::Aes256>(key, block),
    }
}

pub fn tlv(tag: &[u8], value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let length = match length {
        0..=0x7F => vec![length as u8],
        0x80..=0xFF => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    };
    [tag, &length, value].concat()
}

/// The tag and the value of the only element in `bytes`.
pub fn element(bytes: &[u8]) -> (u8, &[u8]) {
    let (length, value) = match bytes[1] {
        0x81 => (bytes[2].into(), &bytes[3..]),
        0x82 => (usize::from(bytes[2]) << 8 | usize::from(bytes[3]), &bytes[4..]),
        short => (short.into(), &bytes[2..]),
    };
    assert_eq!(value.len(), length, "one element");
    (bytes[0], value)
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}
