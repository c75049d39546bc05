//! A virtual YubiKey: its PIV application in software, with faults on demand. For tests only, since its keys are
//! in memory.
//!
//! A test can use it in its own process, one APDU at a time, without pcscd and without root:
//!
//! ```
//! use claviger_virtual_yubikey::{Firmware, VirtualYubiKey};
//!
//! let yubikey = VirtualYubiKey::new(Firmware::V5_7_1, 1111);
//! let select = [0, 0xA4, 4, 0, 5, 0xA0, 0, 0, 3, 8];
//! assert!(yubikey.transmit(&select)?.ends_with(&[0x90, 0x00]));
//! assert_eq!(yubikey.transmit(&[0, 0xF8, 0, 0])?, [0, 0, 4, 0x57, 0x90, 0x00]);
//! yubikey.faults().unplug();
//! assert!(yubikey.transmit(&select).is_err());
//! # Ok::<(), claviger_virtual_yubikey::Unplugged>(())
//! ```
//!
//! The binary `virtual-yubikey` connects it to pcscd, for programs that use PC/SC.
//!
//! The commands are those of NIST SP 800-73-4 part 2, and Yubico's own as the manual of its .NET SDK describes them
//! (<https://docs.yubico.com/yesdk/users-manual/application-piv/commands.html>). Not implemented: RSA, biometrics,
//! secure messaging, and all applications except PIV.

mod apdu;
mod attestation;
mod authenticate;
mod card;
mod counts;
mod faults;
mod firmware;
mod keys;
mod management;
mod objects;
pub mod pcscd;
mod pin;
pub mod reader;
mod slots;
mod status;
mod tlv;

pub use counts::Counts;
pub use faults::{Faults, Touch, Unplugged};
pub use firmware::Firmware;

use std::sync::{Arc, Mutex, MutexGuard};

use card::Card;
use slots::Model;

/// The answer to reset of a YubiKey 5 (ISO/IEC 7816-3 section 8).
pub const ATR: &[u8] = &[
    0x3B, 0xFD, 0x13, 0x00, 0x00, 0x81, 0x31, 0xFE, 0x15, 0x80, 0x73, 0xC0, 0x21, 0xC0, 0x57, 0x59, 0x75, 0x62, 0x69,
    0x4B, 0x65, 0x79, 0x40,
];

/// A virtual YubiKey. Clones refer to the same one.
#[derive(Clone)]
pub struct VirtualYubiKey(Arc<Inner>);

struct Inner {
    firmware: Firmware,
    serial: u32,
    root: Vec<u8>,
    faults: Faults,
    counters: Arc<counts::Counters>,
    card: Mutex<Card>,
}

impl VirtualYubiKey {
    /// A YubiKey from the factory: PIN 123456, PUK 12345678, the default management key, an attestation key, no
    /// other keys.
    pub fn new(firmware: Firmware, serial: u32) -> Self {
        let faults = Faults::default();
        let counters = Arc::<counts::Counters>::default();
        let factory = attestation::Factory::new();
        let card = Card::new(firmware, serial, &factory, faults.clone(), counters.clone());
        Self(Arc::new(Inner { firmware, serial, root: factory.root, faults, counters, card: Mutex::new(card) }))
    }

    /// The serial number.
    pub fn serial(&self) -> u32 {
        self.0.serial
    }

    /// The firmware that is emulated.
    pub fn firmware(&self) -> Firmware {
        self.0.firmware
    }

    /// Sends an APDU and returns the response with its status word, like a card reader. Fails if the YubiKey is
    /// unplugged, also during the command. Commands of several threads run one after another.
    pub fn transmit(&self, apdu: &[u8]) -> Result<Vec<u8>, Unplugged> {
        self.card().transmit(apdu)
    }

    /// Resets the card: it forgets the verified PIN, the authentication, the selected application and chained data.
    /// Keys stay. Waits for a command in progress.
    pub fn reset(&self) {
        self.card().reset();
    }

    /// The handle for faults. Can be used during a command.
    pub fn faults(&self) -> Faults {
        self.0.faults.clone()
    }

    /// Counts of events since the start. Can be read during a command.
    pub fn counts(&self) -> Counts {
        self.0.counters.now()
    }

    /// The tries left for the PIN. Waits for a command in progress.
    pub fn pin_tries_left(&self) -> u8 {
        self.card().pin_tries_left()
    }

    /// Makes it a YubiKey Bio, whose keys may ask for a fingerprint or the PIN. No finger is registered.
    pub fn make_bio(&self) {
        self.card().slots.model = Model::Bio;
    }

    /// Makes it a FIPS model, which makes no key that can be used without the PIN.
    pub fn make_fips(&self) {
        self.card().slots.model = Model::Fips;
    }

    /// Leaves memory for objects of at most `bytes` bytes.
    pub fn fill_memory(&self, bytes: usize) {
        self.card().objects.largest = bytes;
    }

    /// Puts the key of one slot into another as well, as a program does that imports a private key twice. The slot
    /// `from` must hold a key.
    pub fn copy_key(&self, from: u8, to: u8) {
        self.card().slots.copy(from, to);
    }

    /// The root certificate (DER) of the attestation chain.
    pub fn attestation_root(&self) -> Vec<u8> {
        self.0.root.clone()
    }

    fn card(&self) -> MutexGuard<'_, Card> {
        self.0.card.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
