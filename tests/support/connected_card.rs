//! A virtual YubiKey as a reader in this process.

use std::sync::{Arc, Mutex};

use claviger::secrets::{
    pin::{Pin, PinSource},
    piv::{CardTransaction, OpenOptions, Readers, Transport, TransportError, YubiKey},
};
use claviger_virtual_yubikey::{Firmware, VirtualYubiKey};
use zeroize::Zeroizing;

/// The PIN of a factory-fresh card.
pub const PIN: &str = "123456";

/// A card in a reader that several programs may use, one transaction at a time.
#[derive(Clone)]
pub struct ConnectedCard {
    pub card: VirtualYubiKey,
    in_use: Arc<Mutex<()>>,
}

impl ConnectedCard {
    pub fn new(firmware: Firmware, serial: u32) -> Self {
        Self { card: VirtualYubiKey::new(firmware, serial), in_use: Arc::default() }
    }

    /// Begins a transaction of another program, which ends when the returned value is dropped.
    pub fn hold(&self) -> std::sync::MutexGuard<'_, ()> {
        self.in_use.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Opens the YubiKey with its PIN.
    pub fn open(&self) -> YubiKey {
        self.open_with(OpenOptions::new().pin(PinSource::value(Pin::new(PIN))))
    }

    pub fn open_with(&self, options: OpenOptions) -> YubiKey {
        options.open(&format!("yubikey:serial={}", self.card.serial()), self.clone()).expect("the card is connected")
    }
}

impl Readers for ConnectedCard {
    fn connect(&self, serial: Option<u32>) -> Result<Box<dyn Transport>, TransportError> {
        if serial.is_some_and(|serial| serial != self.card.serial()) || self.card.transmit(&[0, 0xa4, 4, 0]).is_err() {
            return Err(TransportError::Away(format!("insert the YubiKey with serial {}", self.card.serial())));
        }
        Ok(Box::new(self.clone()))
    }
}

impl Transport for ConnectedCard {
    fn transaction(&mut self, work: &mut dyn FnMut(&mut dyn CardTransaction)) -> Result<(), TransportError> {
        let in_use = self.in_use.clone();
        let _in_use = in_use.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        work(self);
        Ok(())
    }

    fn check_inserted(&self) -> Result<(), TransportError> {
        match self.card.faults().is_plugged_in() {
            true => Ok(()),
            false => Err(TransportError::Away("the card was removed".into())),
        }
    }
}

impl CardTransaction for ConnectedCard {
    fn transmit(&mut self, command: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        let answer = self.card.transmit(command);
        answer.map(Zeroizing::new).map_err(|_| TransportError::Away("the card was removed".into()))
    }
}
