//! Protocols: what an agent does with a message of a type that it knows.
//!
//! A protocol is one file that implements [`Protocol`]. It is handed a [`Received`] message, and writes what is to be done
//! into a [`Turn`]: replies, other messages, deliveries to the application, records. Nothing of it happens at once: the
//! agent commits all of it together with the mark that the message was handled, so a protocol that is interrupted has
//! done nothing, and is handed the message again.
//!
//! What is the same for every message stands beside the protocols, as functions that the inbox calls in the message's
//! turn, in this order: [`connections::has_moved`] and [`cascade::is_closed`] (it is dropped), [`connections::rotate`],
//! [`connections::meet`], [`acks::note`], [`invitations::note_response`]; then the protocol that [`Registry::find`] names,
//! and [`acks::honour`]. If there is a [`Problem`], a new turn gets [`connections::rotate`], [`connections::meet`] and
//! [`acks::note`] again, for what the headers say stands all the same, and then [`cascade::report_on`].

pub mod acks;
pub mod basic_message;
pub mod cascade;
pub mod connections;
pub mod discover_features;
pub mod empty;
pub mod invitations;
pub mod out_of_band;
mod problem;
mod problem_code;
mod registry;
pub mod report_problem;
mod rotation;
pub mod routing;
#[cfg(test)]
mod testing;
pub mod trust_ping;
mod turn;
pub mod user_profile;

pub use problem::{Fault, Problem};
pub use problem_code::{Code, Scope, Sorter};
pub use registry::{NotAPiuri, Registry};
pub use turn::{Effect, Records, Turn};

use std::{borrow::Cow, sync::Arc};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::store::Millis;
use crate::didcomm::{Message, Provenance, same_name};

/// What an agent does with the messages of one protocol.
#[async_trait]
pub trait Protocol: Send + Sync + 'static {
    /// Its identifier without a message's name, as `https://didcomm.org/trust-ping/2.0` (v2.1 "Protocol Identifier URI"). A
    /// message of another minor version is handed to it too.
    fn piuri(&self) -> &str;

    /// The roles that this agent plays in it, for discover-features.
    fn roles(&self) -> &[&str] {
        &[]
    }

    /// Whether it reads messages whose sender is not proved. Others get no such message: it is refused.
    fn reads_anonymous(&self) -> bool {
        false
    }

    /// Handles one message.
    ///
    /// It may be called more than once for one message, if the process was interrupted or a record was changed meanwhile;
    /// what it wrote into the turn is committed once. What it does outside of the turn it has to be able to do twice.
    ///
    /// # Errors
    /// [`Fault::Problem`] is reported to the sender, and nothing of the turn is done; [`Fault::Later`] has the message
    /// handed over again later.
    async fn handle(&self, received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault>;
}

/// A message that was opened and verified.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// How it was protected.
    pub provenance: Provenance,
    /// The DID of ours that it came to.
    pub ours: String,
    /// Who sent it, if that is proved; of a did:peer:4 the short form.
    pub theirs: Option<String>,
    /// When it came.
    pub time: Millis,
}

impl Received {
    /// The name of the message's type: `ping` of `https://didcomm.org/trust-ping/2.0/ping`; empty if it has none.
    pub fn name(&self) -> &str {
        self.message.message_type().map_or("", |kind| kind.message)
    }

    /// Whether that is its name; case and punctuation do not count (v2.1 "Message Type URI").
    pub fn is(&self, name: &str) -> bool {
        same_name(self.name(), name)
    }

    /// The problem that its protocol has no such message.
    fn unknown(&self) -> Problem {
        Problem::new("e.m.msg.unknown-type", "This protocol has no message {1}.").arg(self.name())
    }
}

/// What this agent can do, as discover-features tells it.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// The protocols, and the roles in each.
    pub protocols: Vec<(String, Vec<String>)>,
    /// Goal codes.
    pub goal_codes: Vec<String>,
    /// Headers beyond those that every agent reads.
    pub headers: Vec<String>,
    /// The largest message that is taken, in bytes: the constraint `max_receive_bytes`.
    pub max_receive_bytes: Option<u64>,
}

/// How the built-in protocols behave.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What discover-features tells, and whom.
    pub disclose: discover_features::Disclose,
    /// How many problems are borne.
    pub problems: cascade::ProblemLimits,
}

/// The protocols that every agent of ours speaks.
pub fn built_in(options: &Options) -> Vec<Arc<dyn Protocol>> {
    vec![
        Arc::new(trust_ping::TrustPing),
        Arc::new(discover_features::DiscoverFeatures::new(options.disclose.clone())),
        Arc::new(empty::Empty),
        Arc::new(report_problem::ReportProblem::new(options.problems.clone())),
        Arc::new(basic_message::BasicMessage),
        Arc::new(user_profile::UserProfile),
        Arc::new(out_of_band::OutOfBand),
        Arc::new(routing::Routing),
    ]
}

/// A message's id as part of a record's key: in lower case, as ids are compared (v2.1 "Message IDs"); of one that is
/// longer than ids are or holds other characters, its hash.
fn id_key(id: &str) -> Cow<'_, str> {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if id.len() > 64 || !id.bytes().all(unreserved) {
        let digest = Sha256::digest(id.to_lowercase().as_bytes());
        return Cow::Owned(format!("sha256~{}", bs58::encode(digest).into_string()));
    }
    if id.bytes().any(|byte| byte.is_ascii_uppercase()) { id.to_ascii_lowercase().into() } else { id.into() }
}

/// The start of a foreign text, for a report or a record.
fn start_of(text: &str, bytes: usize) -> &str {
    (0..=bytes).rev().find_map(|end| text.get(..end)).unwrap_or(text)
}
