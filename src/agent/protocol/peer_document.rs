//! The long form of a peer's did:peer:4, which is the peer's document. The agent keeps it with the connection that needs
//! it, because later messages of the peer, and our own to it, name only the short form.

use serde::{Deserialize, Serialize};

use super::{received::Received, record::RecordType};
use crate::{
    did::{did_of, peer::short_form},
    didcomm::Layer,
};

/// The record of a long form. The key is the short form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDocument {
    /// The long form.
    pub long: String,
}

impl RecordType for PeerDocument {
    const KIND: &'static str = "long-form";
    const ABOUT_SENDER: bool = true;
}

/// Returns the long form of the authenticated sender's did:peer:4, if the message has it.
pub(super) fn long_form_of(received: &Received) -> Option<String> {
    let sender = received.sender.as_deref()?;
    let signers = received.provenance.layers.iter().filter_map(|layer| match layer {
        Layer::Authcrypt { skid: kid, .. } | Layer::Signed { kid, .. } => did_of(kid),
        _ => None,
    });
    let mut names = received.message.from.as_deref().into_iter().chain(signers);
    names.find(|did| is_long_form_of(did, sender)).map(str::to_owned)
}

/// Whether `did` is the long form of the did:peer:4 whose short form is `short`.
pub fn is_long_form_of(did: &str, short: &str) -> bool {
    did.len() > short.len() && short_form(did) == Some(short)
}
