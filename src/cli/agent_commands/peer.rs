//! A peer as a person names it: a DID, the short name of one, or a label.

use std::collections::BTreeMap;

use serde_json::Value;

use claviger::did::did_of;

use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    arguments::not_a_did,
    failure::Failure,
    output::{printable, short},
};

/// A peer that a command names.
pub struct Peer {
    /// The DID, or DID URL, as the agent knows it or as it was named.
    pub did: String,
    /// The label, if the peer was found by a name and has one.
    label: Option<String>,
}

/// How many candidates a message names.
const MAX_NAMED: usize = 10;

impl Peer {
    /// Finds the peer that a text names.
    pub async fn find(client: &AgentClient, name: &str) -> Result<Self, Failure> {
        if is_cut(name) {
            return Err(not_a_did(name).hint(
                "an older release has cut this DID: `claviger connections` prints short names that commands understand",
            ));
        }
        if did_of(name).is_some() {
            return Ok(Self::of(name));
        }
        let page: Value =
            client.get(&format!("/v1/connections?name={}", percent_encoded(name))).await.map_err(|failure| {
                match failure.message.contains("unknown field `name`") {
                    true => failure.hint("the running agent is of an older release: restart it, or name the DID"),
                    false => failure,
                }
            })?;
        let found: BTreeMap<&str, &Value> = page["connections"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|connection| Some((connection["theirs"].as_str()?, connection)))
            .collect();
        let mut peers = found.into_iter();
        match (peers.next(), peers.len()) {
            (None, _) => Err(Failure::new("name-unknown", format!("no connection is with {:?}", printable(name)))
                .hint(
                    "`claviger connections` lists labels and DIDs; a peer that is not there is named by its whole DID",
                )),
            (Some((did, connection)), 0) => {
                Ok(Self { did: did.to_owned(), label: connection["label"].as_str().map(str::to_owned) })
            }
            (Some(first), others) => {
                let named = std::iter::once(first).chain(peers).take(MAX_NAMED);
                let named: Vec<&str> = named.map(|(did, _)| did).collect();
                let message = format!("{} peers are called {:?}: {}", others + 1, printable(name), named.join(", "));
                Err(Failure::usage("name-ambiguous", message)
                    .hint("name one of these DIDs; `claviger connections label DID LABEL` gives it another label"))
            }
        }
    }

    /// A peer without a label.
    pub fn of(did: &str) -> Self {
        Self { did: did.to_owned(), label: None }
    }

    /// The peer for a person: the label, or the short name of the DID.
    pub fn shown(&self) -> String {
        self.label.as_deref().map_or_else(|| short(&self.did), printable)
    }
}

/// Whether a text is a DID as older releases have cut it for people. Such a text has the syntax of a DID.
fn is_cut(text: &str) -> bool {
    text.starts_with("did:") && text.contains("...")
}
