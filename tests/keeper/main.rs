//! Keepers as processes of the real program, over real tokens. They are killed, crash, hang, lose their token, and
//! receive hostile requests and too many requests.

#[path = "../support/p11_kit.rs"]
mod p11_kit;
#[path = "../support/mod.rs"]
mod support;

mod audit;
mod credentials;
mod failover;
mod faults;
mod home;
mod hostile;
mod idle;
mod listening;
mod renewal;
mod rules;
mod slow;
mod soak;
