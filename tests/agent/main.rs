//! `src/agent`, part by part: its store and its way out.

#[path = "../support/webvh_logs.rs"]
#[allow(dead_code, reason = "the suite of did:webvh uses all of it")]
mod webvh_logs;

mod net;
mod store;
