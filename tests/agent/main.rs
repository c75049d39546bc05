//! Tests of the store and of the network clients, and of an agent in this process.

#[path = "../support/webvh_logs.rs"]
#[allow(dead_code, reason = "the suite of did:webvh uses all of it")]
mod webvh_logs;

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
mod postgres_server;

#[cfg(feature = "postgres")]
#[path = "../support/pooler.rs"]
#[allow(dead_code, reason = "the daemon's suite uses the rest of it")]
mod pooler;

mod arrivals;
mod net;
mod nodes;
mod outbox_threads;
mod panics;
mod running_agent;
mod store;
mod store_reads;
mod watched_store;
