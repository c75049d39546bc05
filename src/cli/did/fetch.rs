//! `claviger did fetch`: writes the documents of other nodes to the state folder.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use claviger::did::{Document, webvh::OwnLog};

use crate::cli::{
    agent_client::AgentClient,
    config::Config,
    failure::Failure,
    output::{Out, count, short},
    own_dids::OwnDids,
    runtime::block_on,
    state_dir::StateDir,
};

/// Writes the documents that were made or changed at other nodes to the state folder.
///
/// Agents that share a store share the documents of our DIDs, so an agent serves DIDs that were made at another node. The other
/// commands read the state folder: to change such a DID here, or to pack messages from it, fetch its document first. An older
/// document in the folder is replaced. A warning names the keys that no token of this agent has shown.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"fetched"}, an array of DIDs."#)]
pub struct Args {}

pub fn run(_: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let state = StateDir::new(config.state_dir.clone());
    let served = served_after_reload(config)?;
    let _lock = state.lock()?;
    let here = OwnDids::load(config)?.documents;
    let here: HashMap<&str, &Document> = here.iter().map(|document| (document.id(), document)).collect();
    let mut fetched = Vec::new();
    for own in &served {
        let served = Served::read(own)?;
        let did = served.document.id();
        if here.get(did) == Some(&&served.document) {
            continue;
        }
        match &served.log {
            Some(log) => drop(state.add_log(log)?),
            None => {
                let file = state.add_document(&served.document)?;
                let created = own["created"].as_u64().map(Duration::from_millis);
                state.set_age(&file, created.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)))?;
            }
        }
        let missing: Vec<&str> = own["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !missing.is_empty() {
            out.warn(&format!(
                "no token of this agent has shown {}: who holds these keys can read messages to {}, or sign for it",
                missing.join(" and "),
                short(did)
            ));
        }
        if !out.json {
            out.line(did)?;
        }
        fetched.push(did.to_owned());
    }
    match out.json {
        true => out.document(&json!({ "fetched": fetched })),
        false => {
            out.say(&format!("Fetched: {}.", count(fetched.len(), "document")));
            Ok(())
        }
    }
}

/// Checks that the state folder has the document of a DID as the nodes have it. A change of an older document would undo what
/// was changed at another node. Without nodes or a running agent, nothing is checked.
pub fn check_current(config: &Config, document: &Document) -> Result<(), Failure> {
    if config.daemon.store.node.is_none() {
        return Ok(());
    }
    let served = match served_after_reload(config) {
        Err(failure) if failure.code == "agent-away" => return Ok(()),
        served => served?,
    };
    let own = served.iter().find(|own| own["did"] == document.id());
    if own.is_none_or(|own| own["document"] == *document.as_value()) {
        return Ok(());
    }
    let message =
        format!("the state folder has an older document of {}: another node has changed it", short(document.id()));
    Err(Failure::new("did-outdated", message).hint("`claviger did fetch` writes the present document to the folder"))
}

/// The DIDs that the agent serves, newest first, after it has read what is new in the state folder.
fn served_after_reload(config: &Config) -> Result<Vec<Value>, Failure> {
    let client = AgentClient::new(config)?;
    block_on(async {
        client.post::<Value>("/v1/dids/reload", &Value::Null).await?;
        client.get_all("/v1/dids", "dids").await
    })
}

/// A DID as the agent serves it.
struct Served {
    document: Document,
    log: Option<OwnLog>,
}

impl Served {
    fn read(own: &Value) -> Result<Self, Failure> {
        let wrong = |reason: String| {
            Failure::new("agent-away", format!("the agent's answer about {} is not valid: {reason}", own["did"]))
        };
        let log = own["log"].as_str().map(|text| OwnLog::read(text.to_owned())).transpose();
        let log = log.map_err(|error| wrong(error.to_string()))?;
        let document = match &log {
            Some(log) => log.document().clone(),
            None => Document::from_value(own["document"].clone()).map_err(|error| wrong(error.to_string()))?,
        };
        Ok(Self { document, log })
    }
}
