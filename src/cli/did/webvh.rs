//! The entries of a did:webvh of ours, each signed in the token.

use std::time::SystemTime;

use claviger::{
    did::{
        Document, Service,
        webvh::{self, Draft, OwnLog},
    },
    secrets::{Signature, ToSign},
};

use super::{
    create::builder,
    maker::{Chosen, Maker},
};
use crate::cli::{config::Config, failure::Failure, output::short, state::State};

/// Begins a log at the place of this did:web, with a key of its own that may change it.
pub fn first(
    config: &Config,
    maker: &mut Maker,
    web: &str,
    mut keys: Vec<Chosen>,
    services: &[Service],
) -> Result<(Document, Vec<Chosen>), Failure> {
    let update = maker.make_update_key(place(web))?;
    let built = builder(&keys, services);
    let draft = Draft::first(place(web), &update.public, |did| built.draft(did), SystemTime::now());
    let line = proved(draft, |what| maker.sign(config, &update.public, what))?;
    let log = OwnLog::read(format!("{line}\n"))?;
    State::new(config.state_dir.clone()).keep_log(&log)?;
    keys.push(Chosen { held: update, relationships: Vec::new() });
    Ok((log.document().clone(), keys))
}

/// The line of an entry, with the signature over it.
pub fn proved(draft: Draft, sign: impl FnOnce(&ToSign<'_>) -> Result<Signature, Failure>) -> Result<String, Failure> {
    let signature = sign(&ToSign::WebvhEntry(draft.entry().as_bytes()))?;
    let proved = draft.proved(&signature.protected, &signature.signature);
    proved.map_err(|error| Failure::new("did-not-made", format!("the proof is not one: {error}")))
}

/// A place has one log.
pub fn check_place(web: &str, documents: &[Document]) -> Result<(), Failure> {
    let there = |document: &&Document| {
        let at = document.id().strip_prefix("did:webvh:").and_then(|id| id.split_once(':'));
        at.is_some_and(|(_, at)| at == place(web))
    };
    match documents.iter().find(there) {
        None => Ok(()),
        Some(document) => {
            let path = webvh::path(document.id()).unwrap_or_default();
            let said = format!("the log of {} is at {path} of that host already", short(document.id()));
            Err(Failure::words("bad-arguments", said)
                .hint("--path names another place; `claviger did update` changes a DID"))
        }
    }
}

/// Host and path, as a DID has them.
fn place(web: &str) -> &str {
    web.strip_prefix("did:web:").unwrap_or(web)
}
