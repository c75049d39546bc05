//! The slots, their keys, and the policies of the keys.

use std::collections::BTreeMap;

use crate::{
    apdu::Command,
    firmware::Firmware,
    keys::{Algorithm, PrivateKey},
    status::Status,
    tlv::{self, List},
};

/// The slot of the attestation key.
pub(crate) const ATTESTATION: u8 = 0xF9;

/// When a key needs the PIN.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PinPolicy {
    Never = 1,
    Once = 2,
    Always = 3,
    /// Only a YubiKey Bio has these two. Here the PIN is the only way, as on one without a registered finger.
    MatchOnce = 4,
    MatchAlways = 5,
}

/// When a key needs a touch.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TouchPolicy {
    Never = 1,
    Always = 2,
    Cached = 3,
}

/// A model of YubiKeys with policies of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Standard,
    /// Its keys may have the policies of a YubiKey Bio.
    Bio,
    /// Its keys must have a PIN policy.
    Fips,
}

/// A key in its slot.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) private: PrivateKey,
    pub(crate) pin: PinPolicy,
    pub(crate) touch: TouchPolicy,
    pub(crate) origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Origin {
    Generated = 1,
    Imported = 2,
}

/// All slots.
pub(crate) struct Slots {
    firmware: Firmware,
    pub(crate) model: Model,
    keys: BTreeMap<u8, Key>,
}

impl Slots {
    /// Only the attestation key.
    pub(crate) fn factory(firmware: Firmware, attestation: PrivateKey) -> Self {
        // Yubico imports the attestation key in the factory.
        let (pin, touch, origin) = (PinPolicy::Never, TouchPolicy::Never, Origin::Imported);
        let key = Key { private: attestation, pin, touch, origin };
        Self { firmware, model: Model::Standard, keys: BTreeMap::from([(ATTESTATION, key)]) }
    }

    /// Empties all slots except the attestation slot, as a reset of the application does.
    pub(crate) fn reset(&mut self) {
        self.keys.retain(|slot, _| *slot == ATTESTATION);
    }

    /// Puts the key of one slot into another as well.
    pub(crate) fn copy(&mut self, from: u8, to: u8) {
        let key = self.keys.get(&from).expect("the slot holds a key").clone();
        self.keys.insert(to, key);
    }

    pub(crate) fn find(&self, slot: u8) -> Option<&Key> {
        self.keys.get(&slot)
    }

    /// GENERATE ASYMMETRIC KEY PAIR (NIST SP 800-73-4 part 2 section 3.3.2), with Yubico's PIN and touch policies.
    pub(crate) fn generate(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let slot = slot(command.p2)?;
        let template = List::parse_in(0xAC, &command.data)?;
        let algorithm = template.byte(0x80)?.ok_or(Status::WRONG_DATA)?;
        let private = PrivateKey::generate(Algorithm::parse(algorithm, self.firmware)?);
        let key = Key::new(slot, private, Origin::Generated, &template, self.model)?;
        let public = tlv::write(&[0x7F, 0x49], &public(&key));
        self.keys.insert(slot, key);
        Ok(public)
    }

    /// Yubico's IMPORT ASYMMETRIC KEY. P1 is the algorithm; the first element is the private key.
    pub(crate) fn import(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let slot = slot(command.p2)?;
        let algorithm = Algorithm::parse(command.p1, self.firmware)?;
        let list = List::parse(&command.data)?;
        let (tag, bytes) = list.first().ok_or(Status::WRONG_DATA)?;
        let private = PrivateKey::import(algorithm, tag, bytes)?;
        self.keys.insert(slot, Key::new(slot, private, Origin::Imported, &list, self.model)?);
        Ok(Vec::new())
    }

    /// Yubico's MOVE KEY, from slot P2 to slot P1, which must be empty. With P1 = FF the command is DELETE KEY.
    pub(crate) fn move_or_delete(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let from = slot(command.p2)?;
        let to = if command.p1 == 0xFF { None } else { Some(slot(command.p1)?) };
        if !self.keys.contains_key(&from) {
            return Err(Status::NO_REFERENCE);
        }
        if to.is_some_and(|to| self.keys.contains_key(&to)) {
            return Err(Status::WRONG_DATA);
        }
        let key = self.keys.remove(&from);
        if let (Some(to), Some(key)) = (to, key) {
            self.keys.insert(to, key);
        }
        Ok(Vec::new())
    }

    /// Yubico's GET METADATA of a slot: algorithm, policies, origin, public key.
    pub(crate) fn metadata(&self, slot: u8) -> Result<Vec<u8>, Status> {
        let key = self.find(slot).ok_or(Status::NO_REFERENCE)?;
        Ok([
            tlv::write(&[0x01], &[key.private.algorithm() as u8]),
            tlv::write(&[0x02], &[key.pin as u8, key.touch as u8]),
            tlv::write(&[0x03], &[key.origin as u8]),
            tlv::write(&[0x04], &public(key)),
        ]
        .concat())
    }
}

impl Key {
    /// A key with the policies of a command, or the defaults of its slot (Yubico's elements AA and AB; 0 is
    /// the default).
    fn new(slot: u8, private: PrivateKey, origin: Origin, parameters: &List, model: Model) -> Result<Self, Status> {
        let pin = match (parameters.byte(0xAA)?.unwrap_or(0), slot) {
            // "PIN_POLICY.NEVER not allowed on YubiKey FIPS" (yubikit/piv.py of Yubico's yubikey-manager).
            (1, _) if model == Model::Fips => return Err(Status::WRONG_DATA),
            // SP 800-73-4 part 1 table 4b: the signature key always needs the PIN, the card authentication key
            // never does.
            (0, 0x9C) | (3, _) => PinPolicy::Always,
            (0, 0x9E) | (1, _) => PinPolicy::Never,
            (0 | 2, _) => PinPolicy::Once,
            (4, _) if model == Model::Bio => PinPolicy::MatchOnce,
            (5, _) if model == Model::Bio => PinPolicy::MatchAlways,
            _ => return Err(Status::WRONG_DATA),
        };
        let touch = match parameters.byte(0xAB)?.unwrap_or(0) {
            0 | 1 => TouchPolicy::Never,
            2 => TouchPolicy::Always,
            3 => TouchPolicy::Cached,
            _ => return Err(Status::WRONG_DATA),
        };
        Ok(Self { private, pin, touch, origin })
    }
}

/// The number of a slot for a private key: the four of PIV, Yubico's attestation slot, the twenty retired slots.
fn slot(number: u8) -> Result<u8, Status> {
    match number {
        0x9A | 0x9C | 0x9D | 0x9E | ATTESTATION | 0x82..=0x95 => Ok(number),
        _ => Err(Status::WRONG_PARAMETERS),
    }
}

/// The public key as an element of a response.
fn public(key: &Key) -> Vec<u8> {
    tlv::write(&[0x86], &key.private.public())
}
