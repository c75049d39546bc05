//! PIN and PUK (NIST SP 800-73-4 part 2 section 3.2).

use std::sync::Arc;

use crate::{apdu::Command, counts::Counters, status::Status, tlv};

/// The key references of PIN and PUK: P2 of commands, and the slot in GET METADATA.
pub(crate) const PIN: u8 = 0x80;
pub(crate) const PUK: u8 = 0x81;

const FACTORY_PIN: [u8; 8] = *b"123456\xFF\xFF";
const FACTORY_PUK: [u8; 8] = *b"12345678";
const FACTORY_TRIES: u8 = 3;

/// PIN and PUK, and whether the PIN is verified.
pub(crate) struct Pins {
    pin: Secret,
    puk: Secret,
    verified: Verified,
    counters: Arc<Counters>,
}

/// Whether the PIN is verified.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verified {
    No,
    /// The PIN was verified by an earlier command.
    Yes,
    /// The PIN was verified by the last command, as a key with PIN policy *always* needs.
    JustNow,
}

impl Pins {
    pub(crate) fn factory(counters: Arc<Counters>) -> Self {
        let (pin, puk) = (Secret::new(FACTORY_PIN), Secret::new(FACTORY_PUK));
        Self { pin, puk, verified: Verified::No, counters }
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.verified != Verified::No
    }

    pub(crate) fn is_verified_just_now(&self) -> bool {
        self.verified == Verified::JustNow
    }

    /// Called after every command except VERIFY.
    pub(crate) fn another_command_came(&mut self) {
        if self.verified == Verified::JustNow {
            self.verified = Verified::Yes;
        }
    }

    pub(crate) fn forget_verification(&mut self) {
        self.verified = Verified::No;
    }

    pub(crate) fn pin_tries_left(&self) -> u8 {
        self.pin.left
    }

    pub(crate) fn are_both_blocked(&self) -> bool {
        self.pin.left == 0 && self.puk.left == 0
    }

    /// VERIFY (SP 800-73-4 part 2 section 3.2.1).
    pub(crate) fn verify(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        match (command.p1, command.p2, &command.data[..]) {
            (0xFF, PIN, []) => self.verified = Verified::No,
            // Asks whether the PIN is verified. Costs no try.
            (0x00, PIN, []) if self.is_verified() => {}
            (0x00, PIN, []) => return Err(Status::tries_left(self.pin.left)),
            (0x00, PIN, pin) => {
                self.counters.verifies.increment();
                self.check_pin(pin)?;
                self.verified = Verified::JustNow;
            }
            _ => return Err(Status::NO_REFERENCE),
        }
        Ok(Vec::new())
    }

    /// CHANGE REFERENCE DATA (SP 800-73-4 part 2 section 3.2.2). The data is the old code and the new one.
    pub(crate) fn change(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let (old, new) = old_and_new(&command.data)?;
        match command.p2 {
            PIN => {
                self.check_pin(&old)?;
                self.pin.value = new;
            }
            PUK => {
                self.puk.check(old)?;
                self.puk.value = new;
            }
            _ => return Err(Status::NO_REFERENCE),
        }
        Ok(Vec::new())
    }

    /// RESET RETRY COUNTER (SP 800-73-4 part 2 section 3.2.3). The data is the PUK and the new PIN. A wrong PUK costs a try
    /// whatever the new PIN is: `ykman piv reset` blocks the PUK with two empty codes.
    pub(crate) fn unblock(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        if command.p2 != PIN {
            return Err(Status::NO_REFERENCE);
        }
        let (puk, new) = command.data.split_first_chunk().ok_or(Status::WRONG_DATA)?;
        self.puk.check(*puk)?;
        self.pin.value = new_code(new)?;
        self.pin.left = self.pin.max;
        Ok(Vec::new())
    }

    /// Yubico's SET PIN RETRIES. It also resets PIN and PUK to the factory values.
    pub(crate) fn set_tries(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        if command.p1 == 0 || command.p2 == 0 {
            return Err(Status::WRONG_DATA);
        }
        self.pin = Secret::with_tries(FACTORY_PIN, command.p1);
        self.puk = Secret::with_tries(FACTORY_PUK, command.p2);
        Ok(Vec::new())
    }

    /// GET METADATA of the PIN or the PUK: algorithm FF, whether the value is the factory value, and the tries.
    pub(crate) fn metadata(&self, which: u8) -> Vec<u8> {
        let (secret, factory) = if which == PIN { (&self.pin, FACTORY_PIN) } else { (&self.puk, FACTORY_PUK) };
        let is_factory = u8::from(secret.value == factory);
        let tries = [secret.max, secret.left];
        [tlv::write(&[0x01], &[0xFF]), tlv::write(&[0x05], &[is_factory]), tlv::write(&[0x06], &tries)].concat()
    }

    fn check_pin(&mut self, pin: &[u8]) -> Result<(), Status> {
        let pin = pin.try_into().map_err(|_| Status::WRONG_DATA)?;
        let left = self.pin.left;
        let checked = self.pin.check(pin);
        if checked.is_err() {
            self.verified = Verified::No;
        }
        if self.pin.left < left {
            self.counters.wrong_pins.increment();
        }
        checked
    }
}

/// A PIN or a PUK, padded to 8 bytes with FF (SP 800-73-4 part 2 section 2.4.3), and its tries.
struct Secret {
    value: [u8; 8],
    max: u8,
    left: u8,
}

impl Secret {
    fn new(value: [u8; 8]) -> Self {
        Self::with_tries(value, FACTORY_TRIES)
    }

    fn with_tries(value: [u8; 8], tries: u8) -> Self {
        Self { value, max: tries, left: tries }
    }

    fn check(&mut self, value: [u8; 8]) -> Result<(), Status> {
        if self.left == 0 {
            return Err(Status::BLOCKED);
        }
        if value != self.value {
            self.left -= 1;
            return Err(Status::tries_left(self.left));
        }
        self.left = self.max;
        Ok(())
    }
}

/// Splits data into two codes of 8 bytes. The second is a new code.
fn old_and_new(data: &[u8]) -> Result<([u8; 8], [u8; 8]), Status> {
    let (old, new) = data.split_first_chunk().ok_or(Status::WRONG_DATA)?;
    Ok((*old, new_code(new)?))
}

/// Parses a new code: 6 to 8 bytes, then only padding.
fn new_code(code: &[u8]) -> Result<[u8; 8], Status> {
    let code: [u8; 8] = code.try_into().map_err(|_| Status::WRONG_DATA)?;
    let length = code.iter().position(|byte| *byte == 0xFF).unwrap_or(code.len());
    let is_well_formed = length >= 6 && code[length..].iter().all(|byte| *byte == 0xFF);
    if is_well_formed { Ok(code) } else { Err(Status::WRONG_DATA) }
}
