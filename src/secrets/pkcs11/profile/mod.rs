//! Device profiles: what is peculiar to a device, as data. One file of `hsm-config/` for each device.
//!
//! A profile restricts the variants that are tried, and gives the encodings that the device wants. What a key can do is
//! decided by known answers, with a profile and without. Without a profile every variant is tried.

mod definition;
mod evidence;
mod library;
mod omitted;

pub use definition::Profile;
pub(super) use definition::Recovery;
pub use evidence::{EvidenceBasis, Verdict};
