//! Device profiles: the peculiarities of devices, as data. Each device has one file in `hsm-config/`.
//!
//! A profile restricts the variants that are tried, and gives the encodings that the device wants. Known-answer tests
//! decide what a key can do, with or without a profile. Without a profile every variant is tried.

mod definition;
mod evidence;
mod library;
mod omitted;

pub use definition::Profile;
pub(super) use definition::{Probe, Recovery};
pub use evidence::{EvidenceBasis, Verdict};
