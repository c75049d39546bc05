//! The command line, run as a process of its own.

#[path = "../support/home.rs"]
mod home;
#[path = "../support/pages.rs"]
mod pages;
#[path = "../support/token_objects.rs"]
mod token_objects;

mod appendix;
mod demo;
mod doctor;
mod documentation;
mod guide;
mod links;
mod messages;
mod proved_keys;
mod tokens;
mod transcripts;
#[cfg(feature = "yubikey")]
mod yubikey;
