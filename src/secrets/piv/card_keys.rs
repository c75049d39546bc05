//! The commands that make, delete, use and attest keys on a card.

use zeroize::Zeroizing;

use super::{
    apdu::{CardResult, Command},
    card::{ATTESTATION_CERTIFICATE, Card, malformed},
    certificate_object,
    policies::policies,
    tlv::{find_in, tlv},
};
use crate::{
    crypto::SharedSecret,
    keys::{Curve, PublicKey},
    secrets::{PinPolicy, Slot, TokenError, TouchPolicy},
};

impl Card<'_> {
    /// Makes a key in a slot, and overwrites what the slot held.
    pub(super) fn generate(
        &mut self,
        slot: Slot,
        curve: Curve,
        algorithm: u8,
        pin: PinPolicy,
        touch: TouchPolicy,
    ) -> CardResult<PublicKey> {
        let command = Command { name: "GENERATE ASYMMETRIC KEY PAIR", ins: 0x47, p1: 0, p2: slot.number() };
        let mut wanted = tlv(&[0x80], &[algorithm]).to_vec();
        wanted.extend_from_slice(&policies(pin, touch));
        let response = self.send(command, &tlv(&[0xac], &wanted))?;
        let point = find_in(&response, 0x7f49, 0x86).ok_or_else(|| malformed(command.name))?;
        PublicKey::from_bytes(curve, point).map_err(|error| {
            TokenError::KnownAnswer(format!("the card returned an invalid public key: {error}")).into()
        })
    }

    /// Imports a key into a slot, and overwrites what the slot held.
    pub(super) fn import(
        &mut self,
        slot: Slot,
        curve: Curve,
        algorithm: u8,
        private: &[u8],
        pin: PinPolicy,
        touch: TouchPolicy,
    ) -> CardResult<()> {
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

    /// Deletes the key of a slot. Needs firmware 5.7.
    pub(super) fn delete(&mut self, slot: Slot) -> CardResult<()> {
        self.send(Command { name: "MOVE KEY", ins: 0xf6, p1: 0xff, p2: slot.number() }, &[]).map(drop)
    }

    /// Computes Z of the slot's key and a peer's key.
    pub(super) fn agree(&mut self, slot: Slot, algorithm: u8, peer: &PublicKey) -> CardResult<SharedSecret> {
        let z = self.use_key(slot, algorithm, 0x85, peer.as_bytes())?;
        if z.len() != peer.curve().coordinate_length() {
            return Err(malformed("GENERAL AUTHENTICATE"));
        }
        Ok(SharedSecret::new(z.to_vec()))
    }

    /// A signature: ECDSA over a hash, in DER, or Ed25519 over the whole input, in 64 bytes.
    pub(super) fn sign(&mut self, slot: Slot, algorithm: u8, input: &[u8]) -> CardResult<Zeroizing<Vec<u8>>> {
        self.use_key(slot, algorithm, 0x81, input)
    }

    /// GENERAL AUTHENTICATE with a private key (NIST SP 800-73-4 part 2 section 3.2.4).
    fn use_key(&mut self, slot: Slot, algorithm: u8, tag: u8, input: &[u8]) -> CardResult<Zeroizing<Vec<u8>>> {
        let command = Command { name: "GENERAL AUTHENTICATE", ins: 0x87, p1: algorithm, p2: slot.number() };
        let mut wanted = tlv(&[0x82], &[]).to_vec();
        wanted.extend_from_slice(&tlv(&[tag], input));
        let response = self.send(command, &tlv(&[0x7c], &wanted))?;
        let result = find_in(&response, 0x7c, 0x82).ok_or_else(|| malformed(command.name))?;
        Ok(Zeroizing::new(result.to_vec()))
    }

    /// The attestation certificate of the key in a slot, and the certificate of the attestation key that signed it.
    /// Both DER.
    pub(super) fn attest(&mut self, slot: Slot) -> CardResult<(Vec<u8>, Vec<u8>)> {
        let statement = self.send(Command { name: "ATTEST", ins: 0xf9, p1: slot.number(), p2: 0 }, &[])?;
        let object = self.object(&ATTESTATION_CERTIFICATE)?;
        let signer = object.as_deref().and_then(|object| certificate_object::certificate(object)).ok_or_else(|| {
            TokenError::Unsupported("slot F9 has no certificate: its attestation key was replaced".into())
        })?;
        Ok((statement.to_vec(), signer.into_owned()))
    }
}
