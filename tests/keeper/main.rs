//! Keepers as processes of the real program, over real tokens. They are killed, crash, hang, lose their token, and get
//! hostile and many requests.

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
