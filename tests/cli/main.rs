//! The command line, run as a process of its own.

#[path = "../daemon/endpoint.rs"]
#[allow(dead_code, reason = "the daemon's suite uses all of it")]
mod endpoint;
#[path = "../support/home.rs"]
mod home;
#[path = "../support/p11_kit.rs"]
mod p11_kit;
#[path = "../support/pages.rs"]
mod pages;
#[cfg(feature = "postgres")]
#[path = "../support/postgres.rs"]
#[allow(dead_code, reason = "the agent's suite uses all of it")]
mod postgres_server;
#[path = "../support/token_objects.rs"]
mod token_objects;
#[cfg(feature = "yubikey")]
#[path = "../support/yubikey_report.rs"]
mod yubikey_report;

mod appendix;
#[cfg(feature = "yubikey")]
mod attestation;
mod demo;
mod doctor;
mod documentation;
mod faulty_tokens;
mod foreign_keys;
mod foreign_messages;
mod guide;
mod links;
mod messages;
mod monitoring;
mod proved_keys;
mod remoting;
mod servers;
#[cfg(feature = "postgres")]
mod store;
mod tokens;
mod transcripts;
mod unused_parts;
#[cfg(feature = "yubikey")]
mod yubikey;
#[cfg(feature = "yubikey")]
mod yubikey_doctor;
#[cfg(feature = "yubikey")]
mod yubikey_readers;
