//! Keepers as they are in earnest: processes of the real program over real tokens, which are killed, crash, hang, lose
//! their token, are lied to and are flooded.
#![cfg(feature = "cli")]

#[path = "keeper_process/failover.rs"]
mod failover;
#[path = "keeper_process/faults.rs"]
mod faults;
#[path = "keeper_process/home.rs"]
mod home;
#[path = "keeper_process/hostile.rs"]
mod hostile;
#[path = "keeper_process/listening.rs"]
mod listening;
#[path = "keeper_process/rules.rs"]
mod rules;
#[path = "keeper_process/slow.rs"]
mod slow;
#[allow(unused)]
mod support;
