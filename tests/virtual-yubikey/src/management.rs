//! The management key, and authentication with it (NIST SP 800-73-4 part 2 section 3.2.4 and appendix A.1).

use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};

use crate::{
    apdu::Command,
    firmware::Firmware,
    slots::TouchPolicy,
    status::Status,
    tlv::{self, List},
};

/// The slot of the management key.
pub(crate) const MANAGEMENT_KEY: u8 = 0x9B;

const TDES: u8 = 0x03;
const AES_128: u8 = 0x08;
const AES_192: u8 = 0x0A;
const AES_256: u8 = 0x0C;

/// The factory key, for 3DES and for AES-192.
const FACTORY_KEY: [u8; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];

/// The management key, and the state of the authentication with it.
pub(crate) struct Management {
    firmware: Firmware,
    algorithm: u8,
    key: Vec<u8>,
    touch: TouchPolicy,
    authenticated: bool,
    pending: Option<PendingAuthentication>,
}

/// An authentication that the card has begun and the host must complete.
enum PendingAuthentication {
    /// Mutual authentication: the caller must decrypt this.
    Witness(Vec<u8>),
    /// Single authentication: the caller must encrypt this.
    Challenge(Vec<u8>),
}

impl Management {
    pub(crate) fn factory(firmware: Firmware) -> Self {
        let algorithm = if firmware.is_5_7() { AES_192 } else { TDES };
        let (key, touch) = (FACTORY_KEY.to_vec(), TouchPolicy::Never);
        Self { firmware, algorithm, key, touch, authenticated: false, pending: None }
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    pub(crate) fn forget_authentication(&mut self) {
        self.authenticated = false;
        self.pending = None;
    }

    /// The touch policy of a command: the key's for the last command of an authentication, otherwise none.
    pub(crate) fn touch_for(&self, template: &List) -> TouchPolicy {
        let has = |tag| template.find(tag).is_some_and(|value| !value.is_empty());
        let is_last = match self.pending {
            Some(PendingAuthentication::Witness(_)) => has(0x80) && has(0x81),
            Some(PendingAuthentication::Challenge(_)) => has(0x82),
            None => false,
        };
        if is_last { self.touch } else { TouchPolicy::Never }
    }

    /// GENERAL AUTHENTICATE with the management key. Tag 80 is a witness, 81 a challenge, 82 a response. An empty
    /// element asks the card for that value.
    pub(crate) fn authenticate(&mut self, algorithm: u8, template: &List) -> Result<Vec<u8>, Status> {
        let pending = self.pending.take();
        // 00 also means 3DES (SP 800-78-4 table 6-2).
        if (if algorithm == 0 { TDES } else { algorithm }) != self.algorithm {
            return Err(Status::WRONG_DATA);
        }
        match (template.find(0x80), template.find(0x81), template.find(0x82), pending) {
            (Some([]), _, _, _) => {
                let witness = self.nonce();
                let encrypted = self.encrypt(&witness)?;
                self.pending = Some(PendingAuthentication::Witness(witness));
                Ok(answer(0x80, &encrypted))
            }
            (Some(decrypted), Some(challenge), _, Some(PendingAuthentication::Witness(witness))) => {
                let response = self.encrypt(challenge)?;
                self.set_authenticated(decrypted == witness)?;
                Ok(answer(0x82, &response))
            }
            (None, Some([]), _, _) => {
                let challenge = self.nonce();
                let request = answer(0x81, &challenge);
                self.pending = Some(PendingAuthentication::Challenge(challenge));
                Ok(request)
            }
            (None, None, Some(response), Some(PendingAuthentication::Challenge(challenge))) => {
                self.set_authenticated(response == self.encrypt(&challenge)?)?;
                Ok(Vec::new())
            }
            // A response without a pending request.
            (Some(_), Some(_), _, _) | (None, None, Some(_), _) => Err(Status::SECURITY),
            _ => Err(Status::WRONG_DATA),
        }
    }

    /// Yubico's SET MANAGEMENT KEY. The data is algorithm, 9B, length, key; P2 is the touch policy, counted down
    /// from FF.
    pub(crate) fn set(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let touch = match command.p2 {
            0xFF => TouchPolicy::Never,
            0xFE => TouchPolicy::Always,
            0xFD => TouchPolicy::Cached,
            _ => return Err(Status::WRONG_PARAMETERS),
        };
        let [algorithm, MANAGEMENT_KEY, length, key @ ..] = &command.data[..] else { return Err(Status::WRONG_DATA) };
        let fits = key.len() == usize::from(*length) && self.key_length(*algorithm) == Some(key.len());
        if !fits {
            return Err(Status::WRONG_DATA);
        }
        (self.algorithm, self.key, self.touch) = (*algorithm, key.to_vec(), touch);
        Ok(Vec::new())
    }

    /// GET METADATA: algorithm, touch policy, and whether the key is the factory key.
    pub(crate) fn metadata(&self) -> Vec<u8> {
        let is_factory = u8::from(self.key == FACTORY_KEY);
        [
            tlv::write(&[0x01], &[self.algorithm]),
            tlv::write(&[0x02], &[0, self.touch as u8]),
            tlv::write(&[0x05], &[is_factory]),
        ]
        .concat()
    }

    fn set_authenticated(&mut self, is_right: bool) -> Result<(), Status> {
        self.authenticated = is_right;
        if is_right { Ok(()) } else { Err(Status::SECURITY) }
    }

    fn key_length(&self, algorithm: u8) -> Option<usize> {
        match algorithm {
            TDES => Some(24),
            AES_128 if self.firmware.has_aes() => Some(16),
            AES_192 if self.firmware.has_aes() => Some(24),
            AES_256 if self.firmware.has_aes() => Some(32),
            _ => None,
        }
    }

    fn nonce(&self) -> Vec<u8> {
        let mut nonce = vec![0; if self.algorithm == TDES { 8 } else { 16 }];
        getrandom::fill(&mut nonce).expect("the operating system has randomness");
        nonce
    }

    fn encrypt(&self, block: &[u8]) -> Result<Vec<u8>, Status> {
        match self.algorithm {
            TDES => encrypt::<des::TdesEde3>(&self.key, block),
            AES_128 => encrypt::<aes::Aes128>(&self.key, block),
            AES_192 => encrypt::<aes::Aes192>(&self.key, block),
            _ => encrypt::<aes::Aes256>(&self.key, block),
        }
        .ok_or(Status::WRONG_DATA)
    }
}

fn encrypt<C: KeyInit + BlockCipherEncrypt>(key: &[u8], block: &[u8]) -> Option<Vec<u8>> {
    let mut block = Block::<C>::try_from(block).ok()?;
    C::new_from_slice(key).ok()?.encrypt_block(&mut block);
    Some(block.to_vec())
}

fn answer(tag: u8, value: &[u8]) -> Vec<u8> {
    tlv::write(&[0x7C], &tlv::write(&[tag], value))
}
