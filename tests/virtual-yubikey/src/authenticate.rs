//! GENERAL AUTHENTICATE (NIST SP 800-73-4 part 2 section 3.2.4): the management key is proven, or a private key used.

use std::time::Instant;

use crate::{
    apdu::Command,
    card::Card,
    faults::Plugging,
    firmware::Firmware,
    keys::Algorithm,
    management::MANAGEMENT_KEY,
    slots::{Key, PinPolicy, TouchPolicy},
    status::{Status, Stop},
    tlv::{self, List},
};

impl Card {
    pub(crate) fn general_authenticate(&mut self, command: &Command, plugging: Plugging) -> Result<Vec<u8>, Stop> {
        let template = List::parse_in(0x7C, &command.data)?;
        if command.p2 == MANAGEMENT_KEY {
            self.need_touch(self.management.touch_for(&template), plugging)?;
            return Ok(self.management.authenticate(command.p1, &template)?);
        }
        let key = self.slots.find(command.p2).ok_or(Status::WRONG_DATA)?.clone();
        let task = Task::parse(&key, command.p1, &template, self.firmware)?;
        self.need_pin(key.pin)?;
        self.need_touch(key.touch, plugging)?;
        self.faults.work(plugging)?;
        let result = task.perform(&key)?;
        self.counters.operations.up();
        Ok(tlv::write(&[0x7C], &tlv::write(&[0x82], &result)))
    }

    fn need_pin(&self, policy: PinPolicy) -> Result<(), Status> {
        let enough = match policy {
            PinPolicy::Never => true,
            PinPolicy::Once => self.pins.is_verified(),
            PinPolicy::Always => self.pins.is_verified_just_now(),
        };
        if enough { Ok(()) } else { Err(Status::SECURITY) }
    }

    /// Waits for a touch, if one is needed. One that does not come is answered exactly as a missing PIN is.
    fn need_touch(&mut self, policy: TouchPolicy, plugging: Plugging) -> Result<(), Stop> {
        let enough = match policy {
            TouchPolicy::Never => true,
            TouchPolicy::Always => false,
            TouchPolicy::Cached => self.touched.is_some_and(|touched| self.faults.still_counts(touched)),
        };
        if enough {
            return Ok(());
        }
        self.counters.touches.up();
        if !self.faults.wait_for_touch(plugging)? {
            return Err(Status::SECURITY.into());
        }
        self.touched = Some(Instant::now());
        Ok(())
    }
}

/// What a private key is to do.
enum Task<'a> {
    /// 81 is a challenge: what is to be signed.
    Sign(&'a [u8]),
    /// 85 is an exponentiation: the peer's point.
    Agree(&'a [u8]),
}

impl<'a> Task<'a> {
    fn parse(key: &Key, algorithm: u8, template: &List<'a>, firmware: Firmware) -> Result<Self, Status> {
        if Algorithm::parse(algorithm, firmware)? != key.private.algorithm() {
            return Err(Status::WRONG_DATA);
        }
        match (template.find(0x81), template.find(0x85)) {
            (Some(input), None) => Ok(Self::Sign(input)),
            (None, Some(peer)) => Ok(Self::Agree(peer)),
            _ => Err(Status::WRONG_DATA),
        }
    }

    fn perform(&self, key: &Key) -> Result<Vec<u8>, Status> {
        match self {
            Self::Sign(input) => key.private.sign(input),
            Self::Agree(peer) => key.private.agree(peer),
        }
    }
}
