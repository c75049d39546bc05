//! The commands of a YubiKey's PIV applet, within one transaction (NIST SP 800-73-4 part 2; Yubico's own in
//! <https://docs.yubico.com/yesdk/users-manual/application-piv/commands.html>).

use zeroize::Zeroizing;

use super::{
    algorithm::{Firmware, curve},
    apdu::{Command, Fault, Outcome, Status, send},
    management::ManagementKey,
    tlv::{find, tlv},
    transport::{Exchange, TransportError},
};
use crate::{
    crypto::SharedSecret,
    keys::{Curve, PublicKey},
    secrets::{Origin, PinPolicy, Slot, TokenError, TouchPolicy, pin::Pin},
};

/// The PIV applet's identifier.
const APPLET: [u8; 5] = [0xa0, 0, 0, 3, 8];
/// What a person knows, by its reference (NIST SP 800-73-4 part 1 table 4b).
#[derive(Debug, Clone, Copy)]
pub(super) enum Reference {
    /// What the keys are used with.
    Pin = 0x80,
    /// What sets a new PIN where the old one is locked.
    Puk = 0x81,
}

const PIN: u8 = Reference::Pin as u8;
/// The management key's.
const MANAGEMENT: u8 = 0x9b;

/// The tries that a PIN or a PUK has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) most: u8,
    pub(super) left: u8,
    /// Whether it is the one that every YubiKey comes with.
    pub(super) factory: bool,
}

/// What the card says of the key in a slot.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    /// None if it is of a kind that this program has no use for.
    pub(super) public: Option<PublicKey>,
    pub(super) algorithm: u8,
    pub(super) pin: PinPolicy,
    pub(super) touch: TouchPolicy,
    pub(super) origin: Origin,
}

/// A card, selected, within a transaction.
pub(super) struct Card<'a> {
    exchange: &'a mut dyn Exchange,
    pub(super) firmware: Firmware,
    pub(super) serial: u32,
}

impl<'a> Card<'a> {
    /// Selects the applet and reads who it is. Nothing secret has left by then.
    pub(super) fn select(exchange: &'a mut dyn Exchange) -> Outcome<Self> {
        let ask = |exchange: &mut dyn Exchange, name, ins, p1| send(exchange, Command { name, ins, p1, p2: 0 }, &[]);
        send(exchange, Command { name: "SELECT", ins: 0xa4, p1: 4, p2: 0 }, &APPLET)?;
        let version = ask(exchange, "GET VERSION", 0xfd, 0)?;
        let firmware = version.first_chunk::<3>().copied().ok_or_else(|| malformed("GET VERSION"))?.into();
        let serial = ask(exchange, "GET SERIAL", 0xf8, 0)?;
        let serial = u32::from_be_bytes(*serial.first_chunk::<4>().ok_or_else(|| malformed("GET SERIAL"))?);
        Ok(Self { exchange, firmware, serial })
    }

    fn send(&mut self, command: Command, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        send(self.exchange, command, data)
    }

    /// The tries of the PIN, or of the PUK. Not by an empty VERIFY: that says nothing of them once the PIN is verified.
    pub(super) fn tries(&mut self, of: Reference) -> Outcome<Tries> {
        let said = self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: of as u8 }, &[])?;
        match (find(&said, 0x05), find(&said, 0x06)) {
            (Some([factory]), Some([most, left])) => Ok(Tries { most: *most, left: *left, factory: *factory != 0 }),
            _ => Err(malformed("GET METADATA")),
        }
    }

    /// Whether the PIN is verified, by us or by another program: it is the card's.
    pub(super) fn is_verified(&mut self) -> Outcome<bool> {
        match self.send(Command { name: "VERIFY", ins: 0x20, p1: 0, p2: PIN }, &[]) {
            Ok(_) => Ok(true),
            Err(Fault::Status(_, status)) if status.tries().is_some() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Verifies a PIN. A wrong one is [`Fault::Status`] with the tries that are left.
    pub(super) fn verify(&mut self, pin: &Pin) -> Outcome<()> {
        let padded = padded(pin, "PIN")?;
        self.send(Command { name: "VERIFY", ins: 0x20, p1: 0, p2: PIN }, &*padded).map(drop)
    }

    /// Changes the PIN or the PUK (NIST SP 800-73-4 part 2 section 3.2.2). A wrong old one costs a try.
    pub(super) fn change(&mut self, which: Reference, old: &Pin, new: &Pin) -> Outcome<()> {
        let name = match which {
            Reference::Pin => "PIN",
            Reference::Puk => "PUK",
        };
        let mut both = Zeroizing::new([0; 16]);
        both[..8].copy_from_slice(&*padded(old, name)?);
        both[8..].copy_from_slice(&*padded(new, name)?);
        self.send(Command { name: "CHANGE REFERENCE DATA", ins: 0x24, p1: 0, p2: which as u8 }, &*both).map(drop)
    }

    /// Selects another applet, so that neither the management key nor the PIN stays proved.
    pub(super) fn deselect(&mut self) -> Outcome<()> {
        /// Yubico's management, which every YubiKey of today has.
        const MANAGEMENT_APPLET: [u8; 8] = [0xa0, 0x00, 0x00, 0x05, 0x27, 0x47, 0x11, 0x17];
        self.send(Command { name: "SELECT", ins: 0xa4, p1: 4, p2: 0 }, &MANAGEMENT_APPLET).map(drop)
    }

    /// Forgets that the PIN was verified.
    pub(super) fn log_out(&mut self) -> Outcome<()> {
        self.send(Command { name: "VERIFY", ins: 0x20, p1: 0xff, p2: PIN }, &[]).map(drop)
    }

    /// What is in a slot; none if it is empty.
    pub(super) fn metadata(&mut self, slot: Slot) -> Outcome<Option<Metadata>> {
        let said = match self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: slot.number() }, &[]) {
            Ok(said) => said,
            Err(fault) if fault.is(Status::NO_REFERENCE) || fault.is(Status::NOT_FOUND) => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let (Some([algorithm]), Some([pin, touch]), Some([origin])) =
            (find(&said, 0x01), find(&said, 0x02), find(&said, 0x03))
        else {
            return Err(malformed("GET METADATA"));
        };
        let point = find(&said, 0x04).and_then(|public| find(public, 0x86));
        let public = match (curve(*algorithm), point) {
            (Some(curve), Some(point)) => PublicKey::from_bytes(curve, point).ok(),
            _ => None,
        };
        Ok(Some(Metadata {
            public,
            algorithm: *algorithm,
            pin: pin_policy(*pin),
            touch: touch_policy(*touch),
            origin: match origin {
                1 => Origin::Generated,
                2 => Origin::Imported,
                _ => Origin::Unknown,
            },
        }))
    }

    /// A data object; none if it is not there or empty.
    pub(super) fn object(&mut self, object: &[u8]) -> Outcome<Option<Zeroizing<Vec<u8>>>> {
        let get = Command { name: "GET DATA", ins: 0xcb, p1: 0x3f, p2: 0xff };
        match self.send(get, &tlv(&[0x5c], object)) {
            Ok(said) => {
                let value = find(&said, 0x53).ok_or_else(|| malformed("GET DATA"))?;
                Ok((!value.is_empty()).then(|| Zeroizing::new(value.to_vec())))
            }
            Err(fault) if fault.is(Status::NOT_FOUND) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The data object with a slot's certificate; none if it is not there or empty.
    pub(super) fn certificate(&mut self, slot: Slot) -> Outcome<Option<Zeroizing<Vec<u8>>>> {
        self.object(&certificate_of(slot))
    }

    /// Writes a slot's certificate; an empty one deletes it.
    pub(super) fn put_certificate(&mut self, slot: Slot, value: &[u8]) -> Outcome<()> {
        self.put_object(&certificate_of(slot), value)
    }

    /// Writes a data object; an empty one deletes it.
    pub(super) fn put_object(&mut self, object: &[u8], value: &[u8]) -> Outcome<()> {
        let mut data = tlv(&[0x5c], object).to_vec();
        data.extend_from_slice(&tlv(&[0x53], value));
        self.send(Command { name: "PUT DATA", ins: 0xdb, p1: 0x3f, p2: 0xff }, &data).map(drop)
    }

    /// Proves that we know the management key, and that the card does (mutual authentication).
    pub(super) fn authenticate(&mut self, key: &ManagementKey) -> Outcome<()> {
        let said = self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: MANAGEMENT }, &[])?;
        let algorithm = match find(&said, 0x01) {
            Some([algorithm]) => *algorithm,
            _ => return Err(malformed("GET METADATA")),
        };
        let command = Command { name: "GENERAL AUTHENTICATE", ins: 0x87, p1: algorithm, p2: MANAGEMENT };
        let said = self.send(command, &tlv(&[0x7c], &tlv(&[0x80], &[])))?;
        let witness = find(&said, 0x7c).and_then(|said| find(said, 0x80)).ok_or_else(|| malformed(command.name))?;
        let witness = key.decrypt(algorithm, witness)?;
        let challenge = ManagementKey::challenge(witness.len())?;
        let mut answer = tlv(&[0x80], &witness).to_vec();
        answer.extend_from_slice(&tlv(&[0x81], &challenge));
        let said = match self.send(command, &tlv(&[0x7c], &answer)) {
            Err(fault) if fault.is(Status::NOT_SATISFIED) || fault.is(Status(0x6300)) => {
                return Err(key.refused().into());
            }
            said => said?,
        };
        let response = find(&said, 0x7c).and_then(|said| find(said, 0x82)).ok_or_else(|| malformed(command.name))?;
        if *key.encrypt(algorithm, &challenge)? == *response { Ok(()) } else { Err(key.refused().into()) }
    }

    /// Sets the management key, which asks for no touch.
    pub(super) fn set_management_key(&mut self, algorithm: u8, key: &ManagementKey) -> Outcome<()> {
        let key = key.as_bytes();
        let mut data = Zeroizing::new(Vec::with_capacity(3 + key.len()));
        data.extend_from_slice(&[algorithm, MANAGEMENT, key.len() as u8]);
        data.extend_from_slice(key);
        self.send(Command { name: "SET MANAGEMENT KEY", ins: 0xff, p1: 0xff, p2: 0xff }, &data).map(drop)
    }

    /// Whether the management key is the one that every YubiKey comes with.
    pub(super) fn has_factory_management_key(&mut self) -> Outcome<bool> {
        let said = self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: MANAGEMENT }, &[])?;
        Ok(matches!(find(&said, 0x05), Some([1])))
    }

    /// Makes a key in a slot, in place of what was there.
    pub(super) fn generate(
        &mut self,
        slot: Slot,
        curve: Curve,
        algorithm: u8,
        pin: PinPolicy,
        touch: TouchPolicy,
    ) -> Outcome<PublicKey> {
        let command = Command { name: "GENERATE ASYMMETRIC KEY PAIR", ins: 0x47, p1: 0, p2: slot.number() };
        let mut wanted = tlv(&[0x80], &[algorithm]).to_vec();
        wanted.extend_from_slice(&policies(pin, touch));
        let said = self.send(command, &tlv(&[0xac], &wanted))?;
        let point = find(&said, 0x7f49).and_then(|said| find(said, 0x86)).ok_or_else(|| malformed(command.name))?;
        PublicKey::from_bytes(curve, point)
            .map_err(|error| TokenError::KnownAnswer(format!("the card made a key that is none: {error}")).into())
    }

    /// Puts a key from outside into a slot, in place of what was there.
    pub(super) fn import(
        &mut self,
        slot: Slot,
        curve: Curve,
        algorithm: u8,
        private: &[u8],
        pin: PinPolicy,
        touch: TouchPolicy,
    ) -> Outcome<()> {
        let tag = match curve {
            Curve::Ed25519 => 0x07,
            Curve::X25519 => 0x08,
            _ => 0x06,
        };
        let key = tlv(&[tag], private);
        let policies = policies(pin, touch);
        let mut data = Zeroizing::new(Vec::with_capacity(key.len() + policies.len()));
        data.extend_from_slice(&key);
        data.extend_from_slice(&policies);
        self.send(Command { name: "IMPORT KEY", ins: 0xfe, p1: algorithm, p2: slot.number() }, &data).map(drop)
    }

    /// Deletes the key of a slot (firmware 5.7).
    pub(super) fn delete(&mut self, slot: Slot) -> Outcome<()> {
        self.send(Command { name: "MOVE KEY", ins: 0xf6, p1: 0xff, p2: slot.number() }, &[]).map(drop)
    }

    /// Z of the slot's key and a peer's.
    pub(super) fn agree(&mut self, slot: Slot, algorithm: u8, peer: &PublicKey) -> Outcome<SharedSecret> {
        let z = self.use_key(slot, algorithm, 0x85, peer.as_bytes())?;
        if z.len() != peer.curve().coordinate_length() {
            return Err(malformed("GENERAL AUTHENTICATE"));
        }
        Ok(SharedSecret::new(z.to_vec()))
    }

    /// A signature: DER of ECDSA over a hash, or 64 bytes of Ed25519 over an input.
    pub(super) fn sign(&mut self, slot: Slot, algorithm: u8, input: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        self.use_key(slot, algorithm, 0x81, input)
    }

    /// GENERAL AUTHENTICATE with a private key (NIST SP 800-73-4 part 2 section 3.2.4).
    fn use_key(&mut self, slot: Slot, algorithm: u8, tag: u8, input: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let command = Command { name: "GENERAL AUTHENTICATE", ins: 0x87, p1: algorithm, p2: slot.number() };
        let mut wanted = tlv(&[0x82], &[]).to_vec();
        wanted.extend_from_slice(&tlv(&[tag], input));
        let said = self.send(command, &tlv(&[0x7c], &wanted))?;
        let result = find(&said, 0x7c).and_then(|said| find(said, 0x82)).ok_or_else(|| malformed(command.name))?;
        Ok(Zeroizing::new(result.to_vec()))
    }

    /// The attestation certificate of the key in a slot, and that of the key which signed it, both DER.
    pub(super) fn attest(&mut self, slot: Slot) -> Outcome<(Vec<u8>, Vec<u8>)> {
        let statement = self.send(Command { name: "ATTEST", ins: 0xf9, p1: slot.number(), p2: 0 }, &[])?;
        let object = self.object(&[0x5f, 0xff, 0x01])?;
        let signer = object.as_deref().and_then(|object| find(object, 0x70)).ok_or_else(|| {
            TokenError::Unsupported("the slot F9 has no certificate: its attestation key was replaced".into())
        })?;
        Ok((statement.to_vec(), signer.to_vec()))
    }
}

/// The tag of the data object with a slot's certificate (NIST SP 800-73-4 part 1 table 3).
fn certificate_of(slot: Slot) -> [u8; 3] {
    let last = match slot.number() {
        0x9a => 0x05,
        0x9c => 0x0a,
        0x9d => 0x0b,
        0x9e => 0x01,
        // 82 to 95 are 5FC10D to 5FC120.
        retired => retired - 0x82 + 0x0d,
    };
    [0x5f, 0xc1, last]
}

/// A PIN or PUK of 6 to 8 bytes, padded with FF (NIST SP 800-73-4 part 1 section 5.1 and table 4b).
pub(super) fn padded(pin: &Pin, name: &str) -> Result<Zeroizing<[u8; 8]>, TokenError> {
    let bytes = pin.as_bytes();
    if !(6..=8).contains(&bytes.len()) {
        return Err(TokenError::Pin(format!(
            "the {name} of a YubiKey has 6 to 8 characters; this one, which was not tried, has {}",
            bytes.len()
        )));
    }
    let mut padded = Zeroizing::new([0xff; 8]);
    padded[..bytes.len()].copy_from_slice(bytes);
    Ok(padded)
}

fn policies(pin: PinPolicy, touch: TouchPolicy) -> Vec<u8> {
    let pin = match pin {
        PinPolicy::Never => 1,
        PinPolicy::Once => 2,
        PinPolicy::Always => 3,
    };
    let touch = match touch {
        TouchPolicy::Never => 1,
        TouchPolicy::Always => 2,
        TouchPolicy::Cached => 3,
    };
    let mut policies = tlv(&[0xaa], &[pin]).to_vec();
    policies.extend_from_slice(&tlv(&[0xab], &[touch]));
    policies
}

/// A policy by its number; one that is not known is taken for the strictest.
pub(super) fn pin_policy(number: u8) -> PinPolicy {
    match number {
        1 => PinPolicy::Never,
        2 => PinPolicy::Once,
        _ => PinPolicy::Always,
    }
}

/// A policy by its number; one that is not known is taken for the strictest.
pub(super) fn touch_policy(number: u8) -> TouchPolicy {
    match number {
        1 => TouchPolicy::Never,
        3 => TouchPolicy::Cached,
        _ => TouchPolicy::Always,
    }
}

fn malformed(operation: &'static str) -> Fault {
    Fault::Lost(TransportError::Reset(format!("the card's answer to {operation} cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_of_slots() {
        let last = |slot: &str| certificate_of(slot.parse().unwrap())[2];
        assert_eq!([last("9a"), last("9d"), last("82"), last("95")], [0x05, 0x0b, 0x0d, 0x20]);
    }
}
