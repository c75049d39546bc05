//! The command line, run as a process of its own.

#[path = "../support/home.rs"]
mod home;
#[path = "../support/pages.rs"]
mod pages;

mod appendix;
mod demo;
mod doctor;
mod documentation;
mod guide;
mod links;
mod messages;
mod tokens;
mod transcripts;
#[cfg(feature = "yubikey")]
mod yubikey;
