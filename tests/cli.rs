//! The command line, run as a process of its own.
#![cfg(feature = "cli")]

#[path = "cli/appendix.rs"]
mod appendix;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/documentation.rs"]
mod documentation;
#[path = "support/guide.rs"]
mod guide;
#[path = "cli/guide.rs"]
mod guided;
#[path = "cli/messages.rs"]
mod messages;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/tokens.rs"]
mod tokens;
#[path = "cli/transcripts.rs"]
mod transcripts;
