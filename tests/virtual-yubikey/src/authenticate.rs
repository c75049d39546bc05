//! GENERAL AUTHENTICATE (NIST SP 800-73-4 part 2 section 3.2.4): authentication with the management key, and use of a
//! private key.

use std::time::Instant;

use crate::{
    apdu::Command,
    card::Card,
    faults::PowerCycle,
    firmware::Firmware,
    keys::Algorithm,
    management::MANAGEMENT_KEY,
    slots::{Key, PinPolicy, TouchPolicy},
    status::{CommandError, Status},
    tlv::{self, List},
};

impl Card {
    pub(crate) fn general_authenticate(
        &mut self,
        command: &Command,
        power_cycle: PowerCycle,
    ) -> Result<Vec<u8>, CommandError> {
        let template = List::parse_in(0x7C, &command.data)?;
        if command.p2 == MANAGEMENT_KEY {
            self.check_touch_policy(self.management.touch_for(&template), power_cycle)?;
            return Ok(self.management.authenticate(command.p1, &template)?);
        }
        let key = self.slots.find(command.p2).ok_or(Status::WRONG_DATA)?.clone();
        let operation = Operation::parse(&key, command.p1, &template, self.firmware)?;
        self.check_pin_policy(key.pin)?;
        self.check_touch_policy(key.touch, power_cycle)?;
        self.faults.work(power_cycle)?;
        let result = operation.perform(&key)?;
        self.counters.operations.increment();
        Ok(tlv::write(&[0x7C], &tlv::write(&[0x82], &result)))
    }

    fn check_pin_policy(&self, policy: PinPolicy) -> Result<(), Status> {
        let enough = match policy {
            PinPolicy::Never => true,
            PinPolicy::Once | PinPolicy::MatchOnce => self.pins.is_verified(),
            PinPolicy::Always | PinPolicy::MatchAlways => self.pins.is_verified_just_now(),
        };
        if enough { Ok(()) } else { Err(Status::SECURITY) }
    }

    /// Waits for a touch if the policy requires one. If no touch comes, the status is the same as for a missing PIN.
    fn check_touch_policy(&mut self, policy: TouchPolicy, power_cycle: PowerCycle) -> Result<(), CommandError> {
        let enough = match policy {
            TouchPolicy::Never => true,
            TouchPolicy::Always => false,
            TouchPolicy::Cached => self.last_touch.is_some_and(|last_touch| self.faults.still_counts(last_touch)),
        };
        if enough {
            return Ok(());
        }
        self.counters.touches.increment();
        if !self.faults.wait_for_touch(power_cycle)? {
            return Err(Status::SECURITY.into());
        }
        self.last_touch = Some(Instant::now());
        Ok(())
    }
}

/// An operation with a private key.
enum Operation<'a> {
    /// Tag 81, a challenge: the input to sign.
    Sign(&'a [u8]),
    /// Tag 85, an exponentiation: the peer's point.
    Agree(&'a [u8]),
}

impl<'a> Operation<'a> {
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
