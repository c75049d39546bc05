//! The error of the requests that an application makes to the agent.

use super::store::error::StoreError;
use crate::did::short_name;

/// Why a request of the application failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The request is invalid, and would be refused again.
    #[error("{0}")]
    Invalid(String),
    /// Another message was sent under this id ([`Agent::send_once`](super::Agent::send_once)), or another request made.
    #[error("the id {0} was used before, for other content")]
    IdTaken(String),
    /// The message is not waiting to be sent any more, for this reason.
    #[error("{0}")]
    NotWaiting(&'static str),
    /// The recipient of a message has no endpoint, and no connection with us on which it could fetch the message.
    #[error("{0}")]
    NoEndpoint(String),
    /// The relationship has ended. Nothing is sent to the peer until it is resumed
    /// ([`Agent::resume_relationship`](super::Agent::resume_relationship)).
    #[error("{}", ended(own_did, peer, *.by_peer, *.peer_told))]
    ConnectionEnded {
        /// Our DID.
        own_did: String,
        /// The peer's DID.
        peer: String,
        /// Whether the peer has ended it.
        by_peer: bool,
        /// Whether the peer was told that we have ended it.
        peer_told: bool,
    },
    /// There is no such relationship.
    #[error("there is no connection{} with {}", own_did.as_ref().map_or(String::new(), |did| format!(" of {}", short_name(did))), short_name(peer))]
    NoConnection {
        /// Our DID, if the request names one.
        own_did: Option<String>,
        /// The peer's DID.
        peer: String,
    },
    /// The peer is blocked.
    #[error("{} is blocked: its answers would be dropped", short_name(.0))]
    Blocked(String),
    /// Another peer has this label.
    #[error("{label:?} is the label of {} already", short_name(peer))]
    LabelTaken {
        /// The label.
        label: String,
        /// The DID of the peer that has it.
        peer: String,
    },
    /// A message has no sender, and the agent has no DID.
    #[error("the agent has no DID that it serves")]
    NoDid,
    /// No token of the agent has shown keys of one of our DIDs: the agent does not serve their token, or it is away since
    /// the start.
    #[error(
        "no token of this agent has shown {} of {did}, so it could not read messages to the DID; it serves the tokens {tokens:?}",
        keys.join(" and ")
    )]
    KeysNotShown {
        /// The DID.
        did: String,
        /// The DID URLs of the keys.
        keys: Vec<String>,
        /// The names of the tokens that the agent serves.
        tokens: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the documents of our DIDs were not read again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A document is damaged. This is a message for people.
    #[error("{0}")]
    Document(String),
    /// The store, which other agents use too, failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn ended(own_did: &str, peer: &str, by_peer: bool, peer_told: bool) -> String {
    let (own_did, peer) = (short_name(own_did), short_name(peer));
    match (by_peer, peer_told) {
        (true, _) => format!("{peer} has ended its connection with {own_did}: nothing is sent to it"),
        (false, true) => format!(
            "the connection of {own_did} with {peer} has ended, and the peer was told: nothing is sent to it, and it \
             ignores {own_did}"
        ),
        (false, false) => format!("the connection of {own_did} with {peer} has ended: nothing is sent to it"),
    }
}
