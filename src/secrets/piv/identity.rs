//! What the card in a reader is: a YubiKey that can be used, or one that cannot, and why.

use super::{
    algorithm::Firmware,
    apdu::{CardError, Command, Status, send},
    card::{MANAGEMENT_APPLET, PIV_APPLET, select},
    tlv::find,
    transport::{CardTransaction, TransportError},
};

/// What a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// A YubiKey that can be used.
    Usable {
        /// Its serial number.
        serial: u32,
    },
    /// A YubiKey whose PIV applet is switched off.
    PivOff {
        /// Its serial number, if it says so.
        serial: Option<u32>,
    },
    /// A YubiKey whose firmware is too old.
    TooOld {
        /// Its firmware.
        firmware: Firmware,
        /// Its serial number, if its PIV applet says so: since firmware 5.0.
        serial: Option<u32>,
    },
}

/// Finds out what a card is. Selects its PIV applet; only if the card has none, another applet.
///
/// # Errors
/// [`TransportError`] if the card does not answer, or answers what no YubiKey does.
pub(super) fn identify(card: &mut dyn CardTransaction) -> Result<Identity, TransportError> {
    match select(card, &PIV_APPLET) {
        Ok(()) => {}
        Err(error) if error.is(Status::NOT_FOUND) => {
            return Ok(Identity::PivOff { serial: serial_of_management(card) });
        }
        Err(error) => return Err(unclear(error)),
    }
    let ask = |card: &mut dyn CardTransaction, name, ins| send(card, Command { name, ins, p1: 0, p2: 0 }, &[]);
    let version = ask(card, "GET VERSION", 0xfd).map_err(unclear)?;
    let firmware = version.first_chunk::<3>().copied().map(Firmware::from);
    let firmware = firmware.ok_or_else(|| TransportError::Reset("the card reports no firmware version".into()))?;
    let serial = match ask(card, "GET SERIAL", 0xf8) {
        Ok(serial) => serial.first_chunk::<4>().copied().map(u32::from_be_bytes),
        Err(CardError::Status(..)) => None,
        Err(error) => return Err(unclear(error)),
    };
    match serial {
        Some(serial) if firmware >= Firmware::METADATA => Ok(Identity::Usable { serial }),
        None if firmware >= Firmware::METADATA => {
            Err(TransportError::Reset("the card reports no serial number".into()))
        }
        serial => Ok(Identity::TooOld { firmware, serial }),
    }
}

/// The serial number by Yubico's management applet (READ CONFIG, since firmware 4.1); none if the card does not say.
///
/// To select the applet makes the card forget that its PIN was verified, so this is asked only where no PIN can be
/// verified, or where a person must know the number.
pub(super) fn serial_of_management(card: &mut dyn CardTransaction) -> Option<u32> {
    select(card, &MANAGEMENT_APPLET).ok()?;
    let response = send(card, Command { name: "READ CONFIG", ins: 0x1d, p1: 0, p2: 0 }, &[]).ok()?;
    let (length, elements) = response.split_first()?;
    let serial = find(elements.get(..usize::from(*length))?, 0x02)?;
    Some(u32::from_be_bytes(*serial.first_chunk::<4>()?))
}

fn unclear(error: CardError) -> TransportError {
    match error {
        CardError::Transport(error) => error,
        CardError::Status(..) | CardError::Token(_) => {
            TransportError::Reset("the card's PIV applet does not answer as a YubiKey's does".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use claviger_virtual_yubikey::VirtualYubiKey;
    use zeroize::Zeroizing;

    use super::*;

    struct Virtual(VirtualYubiKey);

    impl CardTransaction for Virtual {
        fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
            self.0.transmit(command).map(Zeroizing::new).map_err(|error| TransportError::Away(error.to_string()))
        }
    }

    fn card(firmware: &str, serial: u32) -> Virtual {
        Virtual(VirtualYubiKey::new(firmware.parse().unwrap(), serial))
    }

    #[test]
    fn each_kind_of_yubikey_is_told_apart() {
        assert_eq!(identify(&mut card("5.7.1", 1111)), Ok(Identity::Usable { serial: 1111 }));
        let firmware = |text: &str| text.parse().unwrap();
        let old = Identity::TooOld { firmware: firmware("5.2.7"), serial: Some(2222) };
        assert_eq!(identify(&mut card("5.2.7", 2222)), Ok(old));
        let mut yubikey_4 = card("4.3.5", 3333);
        let old = Identity::TooOld { firmware: firmware("4.3.5"), serial: None };
        assert_eq!(identify(&mut yubikey_4), Ok(old));
        assert_eq!(serial_of_management(&mut yubikey_4), Some(3333));
        let mut off = card("5.7.1", 4444);
        off.0.faults().switch_piv_off();
        assert_eq!(identify(&mut off), Ok(Identity::PivOff { serial: Some(4444) }));
        off.0.faults().unplug();
        assert!(matches!(identify(&mut off), Err(TransportError::Away(_))));
        // Another status passes: it does not say that the applet is off.
        let mut busy = card("5.7.1", 5555);
        busy.0.faults().answer_next(0xa4, 0x6f00);
        assert!(matches!(identify(&mut busy), Err(TransportError::Reset(_))));
        assert_eq!(identify(&mut busy), Ok(Identity::Usable { serial: 5555 }));
    }

    /// To be told which YubiKey it is must not cost another program its verified PIN.
    #[test]
    fn a_usable_yubikey_keeps_its_pin_verified() {
        let mut card = card("5.7.1", 1111);
        identify(&mut card).unwrap();
        card.0.transmit(b"\x00\x20\x00\x80\x08123456\xff\xff").unwrap();
        identify(&mut card).unwrap();
        assert_eq!(card.0.transmit(&[0, 0x20, 0, 0x80]).unwrap(), [0x90, 0x00]);
    }
}
