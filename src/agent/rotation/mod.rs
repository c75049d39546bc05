//! DID rotation (DIDComm v2.1 "DID Rotation", "Ending a Relationship"), on both sides of a connection.
//!
//! [`own`] rotates one of our DIDs to another, with a proof that a custodian has signed. [`ending`] ends a relationship, and
//! resumes one. [`peer`] follows the rotation of a peer. [`current`] finds the DID that an earlier DID has rotated to.

pub(in crate::agent) mod current;
mod ending;
pub(in crate::agent) mod own;
pub(in crate::agent) mod peer;

pub use own::{OwnRotation, RotationOutcome};
