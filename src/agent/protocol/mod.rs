//! The protocols of the agent. Each handles the messages of its types.
//!
//! A protocol is one file that implements [`Protocol`]. The protocol gets a [`Received`] message and writes the effects
//! into a [`Transaction`]: replies, other messages, deliveries to the application, records. No effect takes place at
//! once. The agent commits all effects together with the mark that the message was handled. After an interruption none
//! of these effects exists, and the protocol gets the message again.
//!
//! Four modules are not protocols. They apply to every message: [`acks`], [`connections`], [`issued_invitation`] and
//! [`problem_limits`]. The inbox applies them in the message's transaction, before and after the protocol.

pub mod acks;
pub mod basic_message;
pub mod connections;
pub mod discover_features;
pub mod empty;
mod features;
mod handler;
pub mod issued_invitation;
pub mod out_of_band;
pub mod peer_document;
mod problem;
mod problem_code;
pub mod problem_limits;
mod received;
mod record;
mod registry;
pub mod report_message;
pub mod report_problem;
pub mod routing;
#[cfg(test)]
pub(in crate::agent) mod testing;
pub(in crate::agent) mod text;
mod transaction;
pub mod trust_ping;
pub mod user_profile;

pub use features::Features;
pub use handler::Protocol;
pub use problem::{HandleError, Problem};
pub use problem_code::{ProblemCode, ProblemScope, Sorter};
pub use received::Received;
pub use record::{ReadRecord, RecordReader, RecordType};
pub use registry::{InvalidPiuri, Registry};
pub use transaction::{Effect, Transaction};

use std::sync::Arc;

/// Returns the protocols that every agent speaks.
pub(super) fn built_in(
    disclosure: &discover_features::DisclosurePolicy,
    problems: &problem_limits::ProblemLimits,
    accept_anonymous: bool,
) -> Vec<Arc<dyn Protocol>> {
    vec![
        Arc::new(trust_ping::TrustPing),
        Arc::new(discover_features::DiscoverFeatures::new(disclosure.clone())),
        Arc::new(empty::Empty),
        Arc::new(report_problem::ReportProblem::new(problems.clone())),
        Arc::new(basic_message::BasicMessage { accepts_anonymous: accept_anonymous }),
        Arc::new(user_profile::UserProfile),
        Arc::new(out_of_band::OutOfBand),
        Arc::new(routing::Routing),
    ]
}
