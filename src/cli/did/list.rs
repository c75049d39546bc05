//! `claviger did list`: lists our DIDs.

use std::collections::HashSet;

use serde_json::{Value, json};

use claviger::did::{Document, Relationship};

use crate::cli::{
    agent_client::AgentClient,
    config::Config,
    failure::Failure,
    output::{DIM, NAME, Out, count, short},
    own_dids::OwnDids,
    runtime::block_on,
    unix_time::date_and_minute,
};

/// Lists our DIDs, newest first
///
/// Prints each DID as a whole, to be given to others, and below it its short name, which commands understand, and its
/// endpoints. The documents are read from the state folder and the configuration, so no token is opened and no agent need run.
/// If the agent runs, the list tells which DIDs were rotated, to which other DID, and until when messages to them are read; and
/// which it does not serve: those whose overlap is over, and those with keys that no token has shown. At the end come DIDs that
/// were made at other nodes and whose documents are not in the state folder (`claviger did fetch`).
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json: [{"did", "short", "endpoints", "keys", "served", "rotated_to", "read_until", "in_folder"}]; "served", "rotated_to" and "read_until" are null if no agent runs."#
)]
pub struct Args {}

pub fn run(_: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let mut documents = OwnDids::load(config)?.documents;
    let served = served(config);
    let in_folder = documents.len();
    let known: HashSet<String> = documents.iter().map(|document| document.id().to_owned()).collect();
    let elsewhere = served.iter().flatten().filter(|own| own["did"].as_str().is_some_and(|did| !known.contains(did)));
    documents.extend(elsewhere.filter_map(|own| Document::from_value(own["document"].clone()).ok()));
    let mut rows = Vec::with_capacity(documents.len());
    for (position, document) in documents.iter().enumerate() {
        let own = served.as_ref().map(|served| served.iter().find(|own| own["did"] == document.id()));
        rows.push(json!({
            "did": document.id(),
            "short": short(document.id()),
            "endpoints": endpoints(document),
            "keys": keys(document),
            "served": own.map(|own| own.is_some_and(|own| own["missing"].as_array().is_none_or(Vec::is_empty))),
            "rotated_to": own.flatten().map(|own| &own["rotated_to"]),
            "read_until": own.flatten().map(|own| &own["read_until"]),
            "in_folder": position < in_folder,
        }));
        if out.json {
            continue;
        }
        out.line(&format!("{NAME}{}{NAME:#}", document.id()))?;
        let mut details = Vec::new();
        if short(document.id()) != document.id() {
            details.push(short(document.id()));
        }
        match endpoints(document).as_slice() {
            [] => details.push("no endpoint".to_owned()),
            endpoints => details.push(endpoints.join(" ")),
        }
        if let Some((successor, until)) = own.flatten().and_then(rotation) {
            details.push(format!("rotated to {}, read until {}", short(successor), date_and_minute(until)));
        }
        if position >= in_folder {
            details.push("not in the state folder: `claviger did fetch`".to_owned());
        } else if config.daemon.store.node.is_some()
            && own.flatten().is_some_and(|own| own["document"] != *document.as_value())
        {
            details.push("changed at another node: `claviger did fetch`".to_owned());
        }
        match own {
            Some(None) => {
                let why = "its overlap is over (`claviger did retire`), or it is refused (`claviger status`)";
                details.push(format!("not served: {why}"));
            }
            Some(Some(own)) if own["missing"].as_array().is_some_and(|missing| !missing.is_empty()) => {
                details.push("a key is not in a token that is present".to_owned());
            }
            _ => {}
        }
        out.line(&format!("    {DIM}{}{DIM:#}", details.join("  ")))?;
    }
    if out.json {
        return out.document(&rows);
    }
    out.say(&count(rows.len(), "DID"));
    if served.is_none() {
        out.say("No agent answers, so the list does not tell which DIDs are served.");
    }
    Ok(())
}

/// The DID to which a DID of ours has rotated, and until when messages to the old one are read.
fn rotation(own: &Value) -> Option<(&str, i64)> {
    Some((own["rotated_to"].as_str()?, own["read_until"].as_i64()?))
}

/// The DIDs that a running agent serves. `None` if no agent answers.
fn served(config: &Config) -> Option<Vec<Value>> {
    let client = AgentClient::new(config).ok()?;
    block_on(client.get_all("/v1/dids", "dids")).ok()
}

/// The URIs of the document's DIDComm endpoints.
fn endpoints(document: &Document) -> Vec<String> {
    document.services().iter().flat_map(|service| &service.endpoints).map(|endpoint| endpoint.uri.clone()).collect()
}

/// The keys of the document, as multikeys.
fn keys(document: &Document) -> Vec<String> {
    let relationships = [Relationship::KeyAgreement, Relationship::Authentication];
    let methods = relationships.into_iter().flat_map(|relationship| document.methods(relationship));
    methods.filter_map(|method| method.key.as_ref().ok()).map(ToString::to_string).collect()
}
