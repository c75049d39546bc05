//! The daemon as a process of its own, with its keepers and real tokens.

#[path = "../support/home.rs"]
#[allow(dead_code, reason = "the command line's suite uses all of it")]
mod home;
#[path = "../support/mod.rs"]
mod support;

mod api;
mod api_access;
mod api_client;
mod attacks;
mod backup;
mod blame;
mod browser;
mod chat_application;
mod clock;
mod connections;
mod conversation;
mod daemon;
mod did_resolution;
mod endpoint;
mod faulty_token;
mod flooding;
mod hostile_envelopes;
mod hostile_messages;
mod idle_websockets;
mod init;
mod kills;
mod load;
mod lost_marks;
mod mediation;
mod memory;
mod metrics;
mod no_secrets_in_logs;
mod outages;
mod outgoing;
mod peer;
mod peer_routes;
mod protocols;
mod proved_keys;
mod public_side;
mod quotas;
mod reload;
mod replay;
mod return_routes;
mod rotation;
mod sending;
#[cfg(feature = "otel")]
mod spans;
mod strangers;
mod strangers_endpoints;
mod systemd;
mod test_mediator;
#[path = "../support/token_objects.rs"]
mod token_objects;
mod unopenable_messages;
mod webhook;
mod websocket_client;
mod webvh;
