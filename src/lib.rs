//! Claviger: DIDComm v2 whose private keys never leave the hardware.
//!
//! Every private-key operation passes one trait, [`secrets::Secrets`]; nothing else in the crate ever holds a
//! long-term private key, nor a shared secret or key-encryption key made with one.
//!
//! Imports run strictly downwards: [`didcomm`] stands on [`jose`], which stands on [`did`] and [`secrets`], which stand
//! on [`crypto`] and [`keys`].
// One small module, `secrets::pkcs11::raw`, is let off.
#![deny(unsafe_code)]

#[cfg(feature = "agent")]
pub mod agent;
pub mod crypto;
pub mod did;
pub mod didcomm;
pub mod jose;
pub mod keys;
#[cfg(feature = "keeper")]
pub mod process;
pub mod secrets;
