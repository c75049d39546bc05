//! YubiKeys, through their PIV applet: keys in its slots, used with PIN and touch.
//!
//! [`YubiKey`] is a [`Token`](super::Token) and [`Custodian`](super::Custodian) over a [`Transport`]: PC/SC, or
//! a virtual card in tests. Each operation is one transaction: SELECT, compare the serial number before the PIN
//! is sent, VERIFY, operate, and leave the card as it is. A YubiKey returns Z to this process, so its custody
//! is [`Custody::SharedSecretInProcess`](super::Custody).
//!
//! The crate `yubikey` (0.9.0-rc.0) is not used, for four reasons: it uses PC/SC only, so nothing could be tested on a
//! virtual card in this process; it cannot verify a PIN and operate in one transaction; it logs the PIN at trace level;
//! and it resets the card when it is dropped. Writing objects is a few commands in `card.rs`, and making and importing
//! keys is a few commands in `card_keys.rs`.

mod algorithm;
mod apdu;
mod attestation;
mod attestation_error;
mod card;
mod card_keys;
mod certificate;
mod certificate_object;
mod device;
mod examine;
mod form_factor;
mod identity;
mod key_history;
mod manage;
mod management_key;
mod operate;
mod options;
mod pcsc_card;
mod policies;
mod polkit;
mod readers;
mod setup;
mod tlv;
mod token;
mod touch;
mod transport;
mod unlock;
mod uri;

pub use algorithm::Firmware;
pub use attestation::Attestation;
pub use attestation_error::AttestationError;
pub use device::YubiKey;
pub use examine::{
    AlgorithmExamination, CardExamination, ExaminationError, KnownAnswer, PinPolicyExamination, Refusal, SlotAfter,
};
pub use form_factor::FormFactor;
pub use options::OpenOptions;
pub use readers::{InsertedYubiKeys, PassedOver, PcscReaders};
pub use touch::TouchPrompt;
pub use transport::{CardTransaction, Readers, Transport, TransportError};
pub use unlock::WHEN_LOCKED;
pub use uri::{Uri, UriError};
