//! The record of a mediator, and the mediator's current state.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::versions::{CoordinationVersion, PickupVersion};
use crate::agent::{canonical_did::canonical_did, clock::Millis, protocol::RecordType};

/// A mediator that receives messages for this agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mediator {
    /// The mediator's DID.
    pub did: String,
    /// Our DID in the relationship with the mediator.
    #[serde(rename = "ours")]
    pub own_did: String,
    /// The version of coordinate-mediation.
    pub coordination: CoordinationVersion,
    /// The version of the pickup protocol.
    pub pickup: PickupVersion,
    /// The routing DIDs. A DID of ours names one of them in its service. Then peers send its messages to the mediator.
    #[serde(rename = "routing")]
    pub routing_dids: Vec<String>,
    /// When the mediator granted mediation, in milliseconds since 1970.
    pub since: Millis,
    /// Our DIDs for which the mediator receives messages. A did:peer:4 is listed in both forms.
    pub registered: Vec<String>,
}

impl RecordType for Mediator {
    const KIND: &'static str = "mediator";
}

impl Mediator {
    /// The key of a mediator's record.
    pub fn key(did: &str) -> Cow<'_, str> {
        canonical_did(did)
    }
}

/// The state of the conversation with a mediator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "problem")]
pub enum MediatorState {
    /// The first conversation has not begun yet.
    #[default]
    Connecting,
    /// The mediator delivers messages as they arrive.
    Live,
    /// The agent asks for messages at intervals.
    Polling,
    /// The mediator cannot be used now, for this reason. The agent retries.
    #[serde(rename = "away")]
    Unreachable(String),
    /// Another node of the store leads, and talks to the mediator.
    OtherNode,
}

/// A mediator with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediatorStatus {
    /// The mediator.
    pub mediator: Mediator,
    /// The state of the conversation with the mediator.
    pub state: MediatorState,
    /// What the mediator lacks or what stays with it, while the agent uses it.
    pub problem: Option<String>,
    /// Our DIDs that name the mediator in a service, and that it is not registered for yet.
    pub unregistered: Vec<String>,
}
