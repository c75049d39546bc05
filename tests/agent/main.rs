//! Tests of the store and of the network clients, without an agent.

#[path = "../support/webvh_logs.rs"]
#[allow(dead_code, reason = "the suite of did:webvh uses all of it")]
mod webvh_logs;

mod net;
mod store;
