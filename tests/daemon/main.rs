//! The daemon as a process of its own, with its keepers and real tokens.

#[path = "../support/home.rs"]
#[allow(dead_code, reason = "the command line's suite uses all of it")]
mod home;
#[path = "../support/mod.rs"]
mod support;

#[path = "../support/postgres.rs"]
#[allow(dead_code, reason = "the suite of the store uses all of it")]
mod postgres_server;

#[path = "../support/pooler.rs"]
#[allow(dead_code, reason = "the suite of the store uses all of it")]
mod pooler;

mod agent_commands;
mod api;
mod api_access;
mod api_client;
mod api_remote;
mod api_scopes;
mod attachments;
mod attacks;
mod backup;
mod blame;
mod browser;
mod chat_application;
mod choice_of_did;
mod chromium;
mod clock;
mod connections;
mod conversation;
mod daemon;
mod did_resolution;
mod endings;
mod endpoint;
mod events;
mod example_application;
mod faulty_token;
mod flooding;
mod foreign_mediators;
mod foreign_messages;
mod hostile_envelopes;
mod hostile_mediators;
mod hostile_messages;
mod idle_websockets;
mod init;
mod invitation_pages;
mod json_log;
mod kills;
mod load;
mod lost_marks;
mod mediation;
mod memory;
mod metrics;
mod names;
mod no_secrets_in_logs;
mod nodes;
mod open_page;
mod outages;
mod outbox;
mod outgoing;
mod peer;
mod peer_routes;
mod postgres;
mod protocols;
mod proved_keys;
mod public_side;
mod quiet;
mod quotas;
mod random;
mod reload;
mod repeated_requests;
mod replay;
mod return_routes;
mod rotation;
mod sending;
#[cfg(feature = "otel")]
mod shared_dids;
mod spans;
mod strangers;
mod strangers_endpoints;
mod systemd;
mod test_mediator;
#[path = "../support/token_objects.rs"]
mod token_objects;
mod token_states;
mod unopenable_messages;
mod unserved_token;
mod webhook;
mod webhooks;
mod websocket_client;
mod webvh;
#[path = "../support/webvh_logs.rs"]
#[allow(dead_code, reason = "the suite of did:webvh uses all of it")]
mod webvh_logs;
