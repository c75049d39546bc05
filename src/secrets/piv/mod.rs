//! YubiKeys, by their PIV applet: keys in its slots, made there or put there, used behind PIN and touch.
//!
//! [`YubiKey`] is a [`Token`](super::Token) and [`Custodian`](super::Custodian) over a [`Transport`]: PC/SC, or a virtual
//! card in tests. Each operation is one transaction: SELECT, compare the serial number before the PIN leaves, VERIFY,
//! operate, and leave the card as it is. A YubiKey derives Z and hands it out, so its custody is
//! [`Custody::SharedSecretInProcess`](super::Custody).
//!
//! The crate `yubikey` (0.9.0-rc.0) is not used: it speaks to PC/SC only, and so cannot be tried on a card in process; it
//! cannot verify a PIN and operate in one transaction, logs the PIN at trace level, and resets the card when it is
//! dropped. What it would have been used for, to make and import keys and to write objects, is four commands in
//! `card.rs`.

mod algorithm;
mod apdu;
mod attestation;
mod card;
mod certificate;
mod form;
mod manage;
mod management;
mod operate;
mod options;
mod readers;
mod setup;
mod tlv;
mod token;
mod touch;
mod transport;
mod unlock;
mod uri;

pub use algorithm::Firmware;
pub use attestation::{Attestation, AttestationError};
pub use form::Form;
pub use options::OpenOptions;
pub use readers::PcscReaders;
pub use token::YubiKey;
pub use touch::TouchPrompt;
pub use transport::{Exchange, Readers, Transport, TransportError};
pub use uri::{Uri, UriError};
