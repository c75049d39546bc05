//! Device profiles: what is peculiar to a device, as data. One file of `hsm-config/` for each device.
//!
//! A profile restricts what is tried, and says how to write it for the device. It is not believed about what a key can do:
//! known answers decide that, with a profile and without. Without a profile every variant is tried.

mod definition;
mod evidence;
mod library;
mod omitted;

pub(super) use definition::Cure;
pub use definition::Profile;
pub use evidence::{EvidenceBasis, Verdict};
