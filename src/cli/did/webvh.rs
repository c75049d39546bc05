//! The log entries of our did:webvh DIDs, each signed in the token.

use std::time::SystemTime;

use claviger::{
    did::{
        Document, Service,
        webvh::{self, EntryDraft, OwnLog},
    },
    secrets::{SignRequest, Signature},
};

use super::key_maker::{DidKey, KeyMaker, OtherKey, document_builder};
use crate::cli::{config::Config, failure::Failure, output::short, state_dir::StateDir};

/// Makes a did:webvh with the host and path of this did:web: makes its update key, and stores its log with one entry.
pub fn create(
    config: &Config,
    maker: &mut KeyMaker,
    web_did: &str,
    (mut keys, others): (Vec<DidKey>, &[OtherKey]),
    services: &[Service],
) -> Result<(Document, Vec<DidKey>), Failure> {
    let update = maker.make_update_key(host_and_path(web_did))?;
    maker.prove(config, &[DidKey { held: update.clone(), relationships: Vec::new() }])?;
    let built = document_builder(&keys, others, services);
    let draft = EntryDraft::first(host_and_path(web_did), &update.public, |did| built.draft(did), SystemTime::now());
    let line = sign_entry(draft, |what| maker.sign(config, &update.public, what))?;
    let log = OwnLog::read(format!("{line}\n"))?;
    StateDir::new(config.state_dir.clone()).add_log(&log)?;
    keys.push(DidKey { held: update, relationships: Vec::new() });
    Ok((log.document().clone(), keys))
}

/// Signs a log entry, and returns its line in the log.
pub fn sign_entry(
    draft: EntryDraft,
    sign: impl FnOnce(&SignRequest<'_>) -> Result<Signature, Failure>,
) -> Result<String, Failure> {
    let signature = sign(&SignRequest::WebvhEntry(draft.entry().as_bytes()))?;
    let proved = draft.with_proof(&signature.protected, &signature.signature);
    proved.map_err(|error| Failure::new("did-not-made", format!("the token's signature is not valid: {error}")))
}

/// Checks that no DID of ours has its log at this host and path.
pub fn check_log_url_is_free(web_did: &str, documents: &[Document]) -> Result<(), Failure> {
    let is_there = |document: &&Document| {
        let at = document.id().strip_prefix("did:webvh:").and_then(|id| id.split_once(':'));
        at.is_some_and(|(_, at)| at == host_and_path(web_did))
    };
    match documents.iter().find(is_there) {
        None => Ok(()),
        Some(document) => {
            let path = webvh::path(document.id()).unwrap_or_default();
            let message = format!("the log of {} is at {path} of that host already", short(document.id()));
            Err(Failure::usage("bad-arguments", message)
                .hint("choose another --path; `claviger did update` changes an existing DID"))
        }
    }
}

/// Host and path of a did:web, encoded as in the DID.
fn host_and_path(web_did: &str) -> &str {
    web_did.strip_prefix("did:web:").unwrap_or(web_did)
}
