//! Keepers as processes of the real program, over real tokens. They are killed, crash, hang, lose their token, and
//! receive hostile requests and too many requests.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod failover;
mod faults;
mod home;
mod hostile;
mod listening;
mod renewal;
mod rules;
mod slow;
mod soak;
