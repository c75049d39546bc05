//! Keepers as they are in earnest: processes of the real program over real tokens, which are killed, crash, hang, lose
//! their token, are lied to and are flooded.

#[path = "../support/mod.rs"]
mod support;

mod failover;
mod faults;
mod home;
mod hostile;
mod listening;
mod rules;
mod slow;
mod soak;
