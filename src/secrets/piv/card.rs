//! The commands of a YubiKey's PIV applet, within one transaction (NIST SP 800-73-4 part 2; Yubico's own in
//! <https://docs.yubico.com/yesdk/users-manual/application-piv/commands.html>).

use zeroize::Zeroizing;

use super::{
    algorithm::{Firmware, curve},
    apdu::{Command, Fault, Outcome, Status, send},
    management::ManagementKey,
    slot::Slot,
    tlv::{find, tlv},
    transport::{Exchange, TransportError},
};
use crate::{
    crypto::SharedSecret,
    keys::{Curve, PublicKey},
    secrets::{Origin, TokenError, pin::Pin},
};

/// The PIV applet's identifier.
const APPLET: [u8; 5] = [0xa0, 0, 0, 3, 8];
/// The PIN's reference (NIST SP 800-73-4 part 1 table 4b).
const PIN: u8 = 0x80;
/// The management key's.
const MANAGEMENT: u8 = 0x9b;

/// When a key wants a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PinPolicy {
    /// Not at all.
    Never,
    /// Once, until the card is reset or unplugged.
    #[default]
    Once,
    /// Right before each operation.
    Always,
}

/// When a key wants a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TouchPolicy {
    /// Not at all.
    #[default]
    Never,
    /// For each operation.
    Always,
    /// Unless there was one in the last 15 seconds.
    Cached,
}

impl PinPolicy {
    fn number(self) -> u8 {
        match self {
            Self::Never => 1,
            Self::Once => 2,
            Self::Always => 3,
        }
    }
}

impl TouchPolicy {
    fn number(self) -> u8 {
        match self {
            Self::Never => 1,
            Self::Always => 2,
            Self::Cached => 3,
        }
    }
}

/// The tries that a PIN has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) most: u8,
    pub(super) left: u8,
    /// Whether it is the PIN that every YubiKey comes with.
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

    /// The tries of the PIN. Not by an empty VERIFY: that says nothing of them once the PIN is verified.
    pub(super) fn tries(&mut self) -> Outcome<Tries> {
        let said = self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: PIN }, &[])?;
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
        let padded = padded(pin)?;
        self.send(Command { name: "VERIFY", ins: 0x20, p1: 0, p2: PIN }, &*padded).map(drop)
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
            pin: match pin {
                1 => PinPolicy::Never,
                2 => PinPolicy::Once,
                // Also what newer firmware may say that this program does not know.
                _ => PinPolicy::Always,
            },
            touch: match touch {
                1 => TouchPolicy::Never,
                3 => TouchPolicy::Cached,
                _ => TouchPolicy::Always,
            },
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

/// A PIN of 6 to 8 bytes, padded with FF (NIST SP 800-73-4 part 1 section 5.1 and table 4b).
fn padded(pin: &Pin) -> Result<Zeroizing<[u8; 8]>, TokenError> {
    let bytes = pin.as_bytes();
    if !(6..=8).contains(&bytes.len()) {
        return Err(TokenError::Pin(format!(
            "the PIN of a YubiKey has 6 to 8 characters; this one, which was not tried, has {}",
            bytes.len()
        )));
    }
    let mut padded = Zeroizing::new([0xff; 8]);
    padded[..bytes.len()].copy_from_slice(bytes);
    Ok(padded)
}

fn policies(pin: PinPolicy, touch: TouchPolicy) -> Vec<u8> {
    let mut policies = tlv(&[0xaa], &[pin.number()]).to_vec();
    policies.extend_from_slice(&tlv(&[0xab], &[touch.number()]));
    policies
}

fn malformed(operation: &'static str) -> Fault {
    Fault::Lost(TransportError::Reset(format!("the card's answer to {operation} cannot be read")))
}
