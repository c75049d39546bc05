//! The commands of a YubiKey's PIV applet for its PIN, its management key and its data objects, in one
//! transaction (NIST SP 800-73-4 part 2; Yubico's own commands:
//! <https://docs.yubico.com/yesdk/users-manual/application-piv/commands.html>). The commands for keys are
//! in `card_keys.rs`.

use zeroize::Zeroizing;

use super::{
    algorithm::{Firmware, curve_of},
    apdu::{CardError, CardResult, Command, Status, send},
    management_key::ManagementKey,
    policies::{pin_policy, touch_policy},
    tlv::{find, find_in, tlv},
    transport::{CardTransaction, TransportError},
};
use crate::{
    keys::PublicKey,
    secrets::{Origin, PinPolicy, Slot, TokenError, TouchPolicy, pin::Pin},
};

/// The PIV applet's identifier.
pub(super) const PIV_APPLET: [u8; 5] = [0xa0, 0, 0, 3, 8];
/// Yubico's management applet, which every current YubiKey has.
pub(super) const MANAGEMENT_APPLET: [u8; 8] = [0xa0, 0x00, 0x00, 0x05, 0x27, 0x47, 0x11, 0x17];
/// The key reference of the PIN.
const PIN: u8 = Reference::Pin as u8;
/// The key reference of the management key.
pub(super) const MANAGEMENT: u8 = 0x9b;
/// Yubico's administrative data: a flag says whether the management key is stored on the card, behind the PIN, and a salt
/// is there if it is derived from the PIN (`PivmanData` in Yubico's yubikey-manager).
const ADMIN_DATA: [u8; 3] = [0x5f, 0xff, 0x00];
/// The flag for a stored management key in the administrative data.
const MANAGEMENT_KEY_STORED: u8 = 0x02;
/// The object "Printed Information", which is readable only after VERIFY. It holds the stored management key.
const PRINTED_INFORMATION: [u8; 3] = [0x5f, 0xc1, 0x09];
/// The object with the certificate of the attestation key F9.
pub(super) const ATTESTATION_CERTIFICATE: [u8; 3] = [0x5f, 0xff, 0x01];

/// The PIN or the PUK, by its key reference (NIST SP 800-73-4 part 1 table 4b).
#[derive(Debug, Clone, Copy)]
pub(super) enum Reference {
    /// The PIN, which allows the use of keys.
    Pin = 0x80,
    /// The PUK, which sets a new PIN when the PIN is locked.
    Puk = 0x81,
}

/// The tries of the PIN or the PUK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) max: u8,
    pub(super) left: u8,
    /// Whether the PIN or PUK is the factory's.
    pub(super) is_factory: bool,
}

/// What the card reports about the key in a slot.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    /// None for a kind of key that this program does not use.
    pub(super) public: Option<PublicKey>,
    pub(super) algorithm: u8,
    pub(super) pin: PinPolicy,
    pub(super) touch: TouchPolicy,
    pub(super) origin: Origin,
}

/// What the card reports about its management key.
#[derive(Debug, Clone, Copy)]
pub(super) struct ManagementKeyInfo {
    /// The PIV algorithm identifier.
    algorithm: u8,
    /// When authentication with the key needs a touch.
    pub(super) touch: TouchPolicy,
    /// Whether the key is the factory's.
    pub(super) is_factory: bool,
}

/// Where a management key that is not the factory's comes from, by the card's administrative data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManagementKeySource {
    /// The card stores the key behind its PIN.
    Stored,
    /// The key is derived from the PIN and a salt, which Yubico's tools did in former times.
    DerivedFromPin,
    /// The card does not say.
    Unknown,
}

/// A card in a transaction, with its PIV applet selected.
pub(super) struct Card<'a> {
    transaction: &'a mut dyn CardTransaction,
    pub(super) firmware: Firmware,
    pub(super) serial: u32,
}

impl<'a> Card<'a> {
    /// Selects the applet and reads serial number and firmware. Nothing secret is sent.
    pub(super) fn select(transaction: &'a mut dyn CardTransaction) -> CardResult<Self> {
        let ask = |transaction: &mut dyn CardTransaction, name, ins, p1| {
            send(transaction, Command { name, ins, p1, p2: 0 }, &[])
        };
        select(transaction, &PIV_APPLET)?;
        let version = ask(transaction, "GET VERSION", 0xfd, 0)?;
        let firmware = version.first_chunk::<3>().copied().ok_or_else(|| malformed("GET VERSION"))?.into();
        let serial = ask(transaction, "GET SERIAL", 0xf8, 0)?;
        let serial = u32::from_be_bytes(*serial.first_chunk::<4>().ok_or_else(|| malformed("GET SERIAL"))?);
        Ok(Self { transaction, firmware, serial })
    }

    /// Sends a command. Returns the response without its status word.
    pub(super) fn send(&mut self, command: Command, data: &[u8]) -> CardResult<Zeroizing<Vec<u8>>> {
        send(self.transaction, command, data)
    }

    /// The tries of the PIN or the PUK, from GET METADATA. VERIFY without a PIN does not report them while the
    /// PIN is verified.
    pub(super) fn tries(&mut self, of: Reference) -> CardResult<Tries> {
        let response = self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: of as u8 }, &[])?;
        match (find(&response, 0x05), find(&response, 0x06)) {
            (Some([factory]), Some([max, left])) => Ok(Tries { max: *max, left: *left, is_factory: *factory != 0 }),
            _ => Err(malformed("GET METADATA")),
        }
    }

    /// Whether the PIN is verified. That is a state of the card, and another program may have verified the PIN. Must be
    /// asked only if [`Firmware::keeps_pin_when_asked`].
    pub(super) fn is_verified(&mut self) -> CardResult<bool> {
        match self.send(Command { name: "VERIFY", ins: 0x20, p1: 0, p2: PIN }, &[]) {
            Ok(_) => Ok(true),
            Err(CardError::Status(_, status)) if status.tries().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends VERIFY with a PIN. A wrong PIN gives [`CardError::Status`] with the tries left.
    pub(super) fn verify(&mut self, pin: &Pin) -> CardResult<()> {
        let padded = padded(pin, "PIN")?;
        self.send(Command { name: "VERIFY", ins: 0x20, p1: 0, p2: PIN }, &*padded).map(drop)
    }

    /// Changes the PIN or the PUK (NIST SP 800-73-4 part 2 section 3.2.2). A wrong old code costs a try.
    pub(super) fn change(&mut self, which: Reference, old: &Pin, new: &Pin) -> CardResult<()> {
        let name = match which {
            Reference::Pin => "PIN",
            Reference::Puk => "PUK",
        };
        let mut both = Zeroizing::new([0; 16]);
        both[..8].copy_from_slice(&*padded(old, name)?);
        both[8..].copy_from_slice(&*padded(new, name)?);
        self.send(Command { name: "CHANGE REFERENCE DATA", ins: 0x24, p1: 0, p2: which as u8 }, &*both).map(drop)
    }

    /// Selects another applet. The card then forgets the verified PIN and the authentication with the management key.
    pub(super) fn deselect(&mut self) -> CardResult<()> {
        select(self.transaction, &MANAGEMENT_APPLET)
    }

    /// Makes the card forget that the PIN was verified.
    pub(super) fn log_out(&mut self) -> CardResult<()> {
        self.send(Command { name: "VERIFY", ins: 0x20, p1: 0xff, p2: PIN }, &[]).map(drop)
    }

    /// The metadata of a slot; none if the slot is empty.
    pub(super) fn metadata(&mut self, slot: Slot) -> CardResult<Option<Metadata>> {
        let response = match self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: slot.number() }, &[]) {
            Ok(response) => response,
            Err(error) if error.is(Status::NO_REFERENCE) || error.is(Status::NOT_FOUND) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (Some([algorithm]), Some([pin, touch]), Some([origin])) =
            (find(&response, 0x01), find(&response, 0x02), find(&response, 0x03))
        else {
            return Err(malformed("GET METADATA"));
        };
        let point = find_in(&response, 0x04, 0x86);
        let public = match (curve_of(*algorithm), point) {
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

    /// A data object by its tag; none if it does not exist or is empty.
    pub(super) fn object(&mut self, object: &[u8]) -> CardResult<Option<Zeroizing<Vec<u8>>>> {
        let get = Command { name: "GET DATA", ins: 0xcb, p1: 0x3f, p2: 0xff };
        match self.send(get, &tlv(&[0x5c], object)) {
            Ok(response) => {
                let value = find(&response, 0x53).ok_or_else(|| malformed("GET DATA"))?;
                Ok((!value.is_empty()).then(|| Zeroizing::new(value.to_vec())))
            }
            Err(error) if error.is(Status::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The data object with a slot's certificate; none if it does not exist or is empty.
    pub(super) fn certificate(&mut self, slot: Slot) -> CardResult<Option<Zeroizing<Vec<u8>>>> {
        self.object(&certificate_of(slot))
    }

    /// Writes the data object with a slot's certificate. An empty value deletes it.
    pub(super) fn put_certificate(&mut self, slot: Slot, value: &[u8]) -> CardResult<()> {
        self.put_object(&certificate_of(slot), value)
    }

    /// Writes a data object. An empty value deletes it.
    pub(super) fn put_object(&mut self, object: &[u8], value: &[u8]) -> CardResult<()> {
        // The value may be the management key.
        let data = joined(&tlv(&[0x5c], object), &tlv(&[0x53], value));
        self.send(Command { name: "PUT DATA", ins: 0xdb, p1: 0x3f, p2: 0xff }, &data).map(drop)
    }

    /// What the card reports about its management key.
    pub(super) fn management_key_info(&mut self) -> CardResult<ManagementKeyInfo> {
        let response = self.send(Command { name: "GET METADATA", ins: 0xf7, p1: 0, p2: MANAGEMENT }, &[])?;
        match (find(&response, 0x01), find(&response, 0x02)) {
            (Some([algorithm]), Some([_, touch])) => Ok(ManagementKeyInfo {
                algorithm: *algorithm,
                // 0 is the default, which is never.
                touch: touch_policy((*touch).max(1)),
                is_factory: matches!(find(&response, 0x05), Some([1])),
            }),
            _ => Err(malformed("GET METADATA")),
        }
    }

    /// Authenticates this program and the card to each other with the management key (NIST SP 800-73-4 part 2 section
    /// 3.2.4). Waits for a touch if the key has a touch policy. Fails with [`TokenError::Config`] if the card has another
    /// management key.
    pub(super) fn authenticate(&mut self, info: ManagementKeyInfo, key: &ManagementKey) -> CardResult<()> {
        let algorithm = info.algorithm;
        let command = Command { name: "GENERAL AUTHENTICATE", ins: 0x87, p1: algorithm, p2: MANAGEMENT };
        let response = self.send(command, &tlv(&[0x7c], &tlv(&[0x80], &[])))?;
        let witness = find_in(&response, 0x7c, 0x80).ok_or_else(|| malformed(command.name))?;
        let witness = key.decrypt(algorithm, witness)?;
        let challenge = ManagementKey::challenge(witness.len())?;
        let answer = joined(&tlv(&[0x80], &witness), &tlv(&[0x81], &challenge));
        let response = match self.send(command, &tlv(&[0x7c], &answer)) {
            Err(error) if error.is(Status::NOT_SATISFIED) && info.touch != TouchPolicy::Never => {
                let reason = "no touch came within the 15 seconds that the card waits, or the card has another management \
                              key; try again";
                let operation = "authentication with the management key".into();
                return Err(TokenError::Device { operation, reason: reason.into() }.into());
            }
            Err(error) if error.is(Status::NOT_SATISFIED) || error.is(Status(0x6300)) => {
                return Err(key.refused().into());
            }
            response => response?,
        };
        let response = find_in(&response, 0x7c, 0x82).ok_or_else(|| malformed(command.name))?;
        if *key.encrypt(algorithm, &challenge)? == *response { Ok(()) } else { Err(key.refused().into()) }
    }

    /// Sets the management key, without a touch policy.
    pub(super) fn set_management_key(&mut self, algorithm: u8, key: &ManagementKey) -> CardResult<()> {
        let key = key.as_bytes();
        let mut data = Zeroizing::new(Vec::with_capacity(3 + key.len()));
        data.extend_from_slice(&[algorithm, MANAGEMENT, key.len() as u8]);
        data.extend_from_slice(key);
        self.send(Command { name: "SET MANAGEMENT KEY", ins: 0xff, p1: 0xff, p2: 0xff }, &data).map(drop)
    }

    /// Where a management key that is not the factory's comes from. Needs no PIN.
    pub(super) fn management_key_source(&mut self) -> CardResult<ManagementKeySource> {
        let Some(admin) = self.object(&ADMIN_DATA)? else { return Ok(ManagementKeySource::Unknown) };
        let flags = find_in(&admin, 0x80, 0x81).and_then(|flags| flags.first());
        Ok(match flags {
            Some(flags) if flags & MANAGEMENT_KEY_STORED != 0 => ManagementKeySource::Stored,
            _ if find_in(&admin, 0x80, 0x82).is_some() => ManagementKeySource::DerivedFromPin,
            _ => ManagementKeySource::Unknown,
        })
    }

    /// The management key that the card stores; none if it stores none. The PIN must be verified.
    pub(super) fn stored_management_key(&mut self) -> CardResult<Option<ManagementKey>> {
        if self.management_key_source()? != ManagementKeySource::Stored {
            return Ok(None);
        }
        let Some(printed) = self.object(&PRINTED_INFORMATION)? else { return Ok(None) };
        Ok(find_in(&printed, 0x88, 0x89).map(ManagementKey::from_card))
    }

    /// Stores the management key on the card, behind the PIN, where Yubico's tools look for it.
    pub(super) fn store_management_key(&mut self, key: &ManagementKey) -> CardResult<()> {
        self.put_object(&PRINTED_INFORMATION, &tlv(&[0x88], &tlv(&[0x89], key.as_bytes())))?;
        self.put_object(&ADMIN_DATA, &tlv(&[0x80], &tlv(&[0x81], &[MANAGEMENT_KEY_STORED])))
    }
}

/// Selects an applet.
pub(super) fn select(transaction: &mut dyn CardTransaction, applet: &[u8]) -> CardResult<()> {
    send(transaction, Command { name: "SELECT", ins: 0xa4, p1: 4, p2: 0 }, applet).map(drop)
}

/// Both parts. The buffer never grows, since they may be secret.
fn joined(first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut both = Zeroizing::new(Vec::with_capacity(first.len() + second.len()));
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both
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
            "the {name} of a YubiKey has 6 to 8 characters; this one has {} and was not sent",
            bytes.len()
        )));
    }
    let mut padded = Zeroizing::new([0xff; 8]);
    padded[..bytes.len()].copy_from_slice(bytes);
    Ok(padded)
}

/// The error for a response that cannot be read.
pub(super) fn malformed(operation: &'static str) -> CardError {
    CardError::Transport(TransportError::Reset(format!("the card's response to {operation} cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_certificate_objects() {
        let last = |slot: &str| certificate_of(slot.parse().unwrap())[2];
        assert_eq!([last("9a"), last("9d"), last("82"), last("95")], [0x05, 0x0b, 0x0d, 0x20]);
    }
}
