//! The card: passes each command to the part that carries it out.

use std::{sync::Arc, time::Instant};

use crate::{
    apdu::{Command, Transport, with_status},
    attestation::{self, Factory},
    counts::Counters,
    faults::{Faults, PowerCycle, Unplugged},
    firmware::Firmware,
    management::{MANAGEMENT_KEY, Management},
    objects::Objects,
    pin::{PIN, PUK, Pins},
    slots::Slots,
    status::{CommandError, Status},
    tlv,
};

const SELECT: u8 = 0xA4;
const GET_RESPONSE: u8 = 0xC0;
const VERIFY: u8 = 0x20;
const READ_CONFIG: u8 = 0x1D;

/// The identifier of the PIV application (NIST SP 800-73-4 part 1 section 2.2). SELECT accepts a prefix.
const PIV: [u8; 11] = [0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00];

/// The response to SELECT (SP 800-73-4 part 2 table 3): the application's version, and the authority for its tags.
const PIV_SELECTED: &[u8] =
    &[0x61, 0x11, 0x4F, 0x06, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x79, 0x07, 0x4F, 0x05, 0xA0, 0x00, 0x00, 0x03, 0x08];

/// Yubico's management application. Only its response to SELECT, which names the firmware, and READ CONFIG are emulated.
const YUBICO_MANAGEMENT: [u8; 8] = [0xA0, 0x00, 0x00, 0x05, 0x27, 0x47, 0x11, 0x17];

/// The application that is selected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Application {
    Piv,
    Management,
}

/// The card's state.
pub(crate) struct Card {
    pub(crate) firmware: Firmware,
    serial: u32,
    pub(crate) faults: Faults,
    pub(crate) counters: Arc<Counters>,
    /// The power cycle in which the card last answered.
    power_cycle: Option<PowerCycle>,
    transport: Transport,
    selected: Option<Application>,
    pub(crate) pins: Pins,
    pub(crate) management: Management,
    pub(crate) slots: Slots,
    pub(crate) objects: Objects,
    /// When the last touch came.
    pub(crate) last_touch: Option<Instant>,
}

impl Card {
    pub(crate) fn new(
        firmware: Firmware,
        serial: u32,
        factory: &Factory,
        faults: Faults,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            firmware,
            serial,
            faults,
            power_cycle: None,
            transport: Transport::default(),
            selected: None,
            pins: Pins::factory(counters.clone()),
            management: Management::factory(firmware),
            slots: Slots::factory(firmware, factory.key.clone()),
            objects: Objects::factory(&factory.certificate),
            last_touch: None,
            counters,
        }
    }

    /// Carries out an APDU. Fails if the card was unplugged meanwhile, even if it is plugged in again.
    pub(crate) fn transmit(&mut self, apdu: &[u8]) -> Result<Vec<u8>, Unplugged> {
        let power_cycle = self.faults.power_cycle()?;
        if self.power_cycle != Some(power_cycle) {
            self.power_cycle = Some(power_cycle);
            self.last_touch = None;
            self.reset();
        }
        self.counters.apdus.increment();
        let answer = match self.answer(apdu, power_cycle) {
            Ok(answer) => answer,
            Err(CommandError::Refused(status)) => with_status(Vec::new(), status),
            Err(CommandError::Unplugged) => return Err(Unplugged),
        };
        self.faults.apdu_done();
        if self.faults.power_cycle()? == power_cycle { Ok(answer) } else { Err(Unplugged) }
    }

    pub(crate) fn reset(&mut self) {
        self.transport.clear();
        self.selected = None;
        self.forget_authentication();
    }

    pub(crate) fn pin_tries_left(&self) -> u8 {
        self.pins.pin_tries_left()
    }

    fn forget_authentication(&mut self) {
        self.pins.forget_verification();
        self.management.forget_authentication();
    }

    fn answer(&mut self, apdu: &[u8], power_cycle: PowerCycle) -> Result<Vec<u8>, CommandError> {
        let part = Command::parse(apdu)?;
        if part.ins == GET_RESPONSE {
            let ordered = self.faults.take_answer(part.ins);
            return Ok(ordered.map_or_else(|| self.transport.more(&part), |status| with_status(Vec::new(), status)));
        }
        let Some(command) = self.transport.gather(part)? else { return Ok(with_status(Vec::new(), Status::SUCCESS)) };
        let result = match (self.faults.take_answer(command.ins), command.ins) {
            (Some(status), _) => Err(status.into()),
            (None, SELECT) => self.select(&command).map_err(CommandError::from),
            (None, _) if self.selected == Some(Application::Piv) => self.piv(&command, power_cycle),
            (None, READ_CONFIG) if self.selected == Some(Application::Management) => Ok(self.configuration()),
            (None, _) => Err(Status::NO_INSTRUCTION.into()),
        };
        if command.ins != VERIFY {
            self.pins.another_command_came();
        }
        Ok(self.transport.answer(&command, result?))
    }

    fn select(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        self.counters.selects.increment();
        let aid = &command.data[..];
        if aid.len() >= 5 && PIV.starts_with(aid) && !self.faults.is_piv_off() {
            // Selecting it again keeps the verified PIN and the authentication (SP 800-73-4 part 2 section 3.1.1).
            self.selected = Some(Application::Piv);
            return Ok(PIV_SELECTED.to_vec());
        }
        if aid.starts_with(&YUBICO_MANAGEMENT) {
            self.reset();
            self.selected = Some(Application::Management);
            return Ok(format!("Virtual mgr - FW version {}", self.firmware).into_bytes());
        }
        // If the application does not exist, the selected one stays selected (the same section).
        Err(Status::NOT_FOUND)
    }

    /// READ CONFIG of the management application: what the YubiKey supports over USB, and what of that is switched on
    /// (<https://docs.yubico.com/yesdk/users-manual/application-management/apdu/get-device-info.html>).
    fn configuration(&self) -> Vec<u8> {
        /// FIDO2, OATH, PIV, OpenPGP, U2F and OTP.
        const ALL: u16 = 0x023B;
        const PIV: u16 = 0x0010;
        let enabled = if self.faults.is_piv_off() { ALL & !PIV } else { ALL };
        let elements = [
            tlv::write(&[0x01], &ALL.to_be_bytes()),
            tlv::write(&[0x02], &self.serial.to_be_bytes()),
            tlv::write(&[0x03], &enabled.to_be_bytes()),
            tlv::write(&[0x05], &self.firmware.bytes()),
        ]
        .concat();
        [vec![elements.len() as u8], elements].concat()
    }

    fn piv(&mut self, command: &Command, power_cycle: PowerCycle) -> Result<Vec<u8>, CommandError> {
        let answer = match command.ins {
            VERIFY => self.verify(command),
            0x24 => self.pins.change(command),
            0x2C => self.pins.unblock(command),
            0x47 => self.with_management_key().and_then(|card| card.slots.generate(command)),
            0x87 => return self.general_authenticate(command, power_cycle),
            0xCB => self.objects.read(command, self.pins.is_verified()),
            0xDB => self.with_management_key().and_then(|card| card.objects.write(command)),
            // The commands from here on are Yubico's own.
            0xF6 if self.firmware.is_5_7() => {
                self.with_management_key().and_then(|card| card.slots.move_or_delete(command))
            }
            0xF7 if self.firmware.has_metadata() => self.metadata(command.p2),
            0xF8 if self.firmware.has_serial() => Ok(self.serial.to_be_bytes().to_vec()),
            0xF9 => attestation::attest(self.firmware, self.serial, command.p1, &self.slots, &self.objects),
            0xFA => self.set_pin_tries(command),
            0xFB => self.reset_application(),
            0xFD => Ok(self.firmware.bytes().to_vec()),
            0xFE => self.with_management_key().and_then(|card| card.slots.import(command)),
            0xFF => self.with_management_key().and_then(|card| card.management.set(command)),
            _ => Err(Status::NO_INSTRUCTION),
        };
        Ok(answer?)
    }

    fn with_management_key(&mut self) -> Result<&mut Self, Status> {
        if self.management.is_authenticated() { Ok(self) } else { Err(Status::SECURITY) }
    }

    /// VERIFY. Firmware 5.3.1 forgets a verified PIN when it is asked whether the PIN is verified.
    fn verify(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        let answer = self.pins.verify(command);
        if command.data.is_empty() && self.firmware.forgets_pin_when_asked() {
            self.pins.forget_verification();
        }
        answer
    }

    fn metadata(&self, slot: u8) -> Result<Vec<u8>, Status> {
        match slot {
            PIN | PUK => Ok(self.pins.metadata(slot)),
            MANAGEMENT_KEY => Ok(self.management.metadata()),
            _ => self.slots.metadata(slot),
        }
    }

    fn set_pin_tries(&mut self, command: &Command) -> Result<Vec<u8>, Status> {
        if !self.pins.is_verified() {
            return Err(Status::SECURITY);
        }
        self.with_management_key()?.pins.set_tries(command)
    }

    /// Yubico's RESET. Allowed only when PIN and PUK are blocked, which prevents resets by mistake.
    fn reset_application(&mut self) -> Result<Vec<u8>, Status> {
        if !self.pins.are_both_blocked() {
            return Err(Status::CONDITIONS);
        }
        self.pins = Pins::factory(self.counters.clone());
        self.management = Management::factory(self.firmware);
        self.slots.reset();
        self.objects.reset();
        Ok(Vec::new())
    }
}
