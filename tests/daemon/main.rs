//! The daemon as a process of its own, with its keepers and real tokens.

#[path = "../support/home.rs"]
#[allow(dead_code, reason = "the command line's suite uses all of it")]
mod home;
#[path = "../support/mod.rs"]
mod support;

mod access;
mod api;
mod application;
mod attacks;
mod backup;
mod browser;
mod clock;
mod conversation;
mod correspondent;
mod daemon;
mod endpoint;
mod faults;
mod figures;
mod flooding;
mod init;
mod kills;
mod load;
mod mediated;
mod mediator;
mod memory;
mod notify;
mod opened;
mod outages;
mod outgoing;
mod peer;
mod protocols;
mod quotas;
mod replay;
mod reread;
mod resolving;
mod rotation;
mod sick;
mod silence;
mod socket;
mod sockets;
#[cfg(feature = "otel")]
mod spans;
mod webhook;
mod webvh;
