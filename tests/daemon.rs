//! The daemon as a process of its own, with its keepers and real tokens.
#![cfg(feature = "cli")]

#[path = "daemon/access.rs"]
mod access;
#[path = "daemon/api.rs"]
mod api;
#[path = "daemon/application.rs"]
mod application;
#[path = "daemon/attacks.rs"]
mod attacks;
#[path = "daemon/backup.rs"]
mod backup;
#[path = "daemon/browser.rs"]
mod browser;
#[path = "daemon/clock.rs"]
mod clock;
#[path = "daemon/conversation.rs"]
mod conversation;
#[path = "daemon/correspondent.rs"]
mod correspondent;
#[path = "daemon/daemon.rs"]
mod daemon;
#[path = "daemon/endpoint.rs"]
mod endpoint;
#[path = "daemon/faults.rs"]
mod faults;
#[path = "daemon/figures.rs"]
mod figures;
#[path = "daemon/flooding.rs"]
mod flooding;
#[path = "daemon/init.rs"]
mod init;
#[path = "daemon/kills.rs"]
mod kills;
#[path = "daemon/load.rs"]
mod load;
#[path = "daemon/mediated.rs"]
mod mediated;
#[path = "daemon/mediator.rs"]
mod mediator;
#[path = "daemon/memory.rs"]
mod memory;
#[path = "daemon/notify.rs"]
mod notify;
#[path = "daemon/opened.rs"]
mod opened;
#[path = "daemon/outages.rs"]
mod outages;
#[path = "daemon/outgoing.rs"]
mod outgoing;
#[path = "daemon/peer.rs"]
mod peer;
#[path = "support/mod.rs"]
mod people;
#[path = "daemon/protocols.rs"]
mod protocols;
#[path = "daemon/quotas.rs"]
mod quotas;
#[path = "daemon/replay.rs"]
mod replay;
#[path = "daemon/reread.rs"]
mod reread;
#[path = "daemon/resolving.rs"]
mod resolving;
#[path = "daemon/rotation.rs"]
mod rotation;
#[path = "daemon/sick.rs"]
mod sick;
#[path = "daemon/silence.rs"]
mod silence;
#[path = "daemon/socket.rs"]
mod socket;
#[path = "daemon/sockets.rs"]
mod sockets;
#[cfg(feature = "otel")]
#[path = "daemon/spans.rs"]
mod spans;
#[path = "cli/support.rs"]
#[allow(dead_code, reason = "the command line's suite uses all of it")]
mod support;
#[path = "daemon/webhook.rs"]
mod webhook;
#[path = "daemon/webvh.rs"]
mod webvh;
