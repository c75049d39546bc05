//! DID rotation (DIDComm v2.1 "DID Rotation", "Ending a Relationship"), on both sides of a connection.
//!
//! [`own`] moves one of our DIDs to another, at a custodian's word. [`peer`] follows a peer that rotates. [`current`] says
//! which DID of ours or of a peer is in use by now.

pub(in crate::agent) mod current;
pub(in crate::agent) mod own;
pub(in crate::agent) mod peer;

pub use own::{OwnRotation, RotationOutcome};
