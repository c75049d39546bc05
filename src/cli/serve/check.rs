//! `serve --check`: whether the agent could run, also while it runs.

use std::net::SocketAddr;

use claviger::did::Document;
use serde::Deserialize;
use serde_json::json;

use super::prepared::Prepared;
use crate::cli::{
    agent_client::AgentClient,
    config::Config,
    failure::Failure,
    output::{Out, short},
    runtime::block_on,
    store_location,
};

/// The agent that runs with this configuration.
#[derive(Deserialize)]
struct RunningAgent {
    version: String,
    /// Its sockets, which are no fault of the configuration.
    #[serde(default)]
    listens: Vec<SocketAddr>,
    /// Why it does not tell more about itself. It may have another token than the configuration, before SIGHUP.
    #[serde(skip)]
    refusal: Option<String>,
}

/// Checks what the agent would open, and prints what it would serve.
pub fn run(config: &Config, documents: &[Document], out: &Out) -> Result<(), Failure> {
    let running = running_agent(config);
    let (store, listens): (_, Vec<SocketAddr>) = match &running {
        Some(agent) => (Prepared::check_beside(&agent.listens, config)?, config.daemon.http.listen.0.clone()),
        None => {
            let prepared = Prepared::new(config)?;
            (prepared.store, prepared.peers.iter().filter_map(|it| it.local_addr().ok()).collect())
        }
    };
    block_on(async { Ok(store_location::try_open(&store, running.is_some()).await?) })?;
    let remote = config.daemon.api.remote.as_ref().map(|remote| remote.listen);
    for document in documents {
        out.say(&format!("A DID of ours: {}", short(document.id())));
    }
    if listens.is_empty() {
        out.say("No port is opened: messages come through a mediator.");
    }
    if out.json {
        return out.document(&json!({
            "dids": documents.iter().map(Document::id).collect::<Vec<_>>(),
            "listens": listens,
            "api_remote": remote,
            "store": store.to_string(),
            "running": running.map(|agent| agent.version),
        }));
    }
    for address in listens {
        out.line(&format!("Peers would be served on {address}."))?;
    }
    if let Some(address) = remote {
        out.line(&format!("Applications on other machines would be served on {address}, with a certificate."))?;
        if config.daemon.api.client.is_empty() {
            out.say("No [[api.client]] is listed: each of them would be refused.");
        }
    }
    out.line(&format!("The store would be {}.", store))?;
    match running {
        Some(RunningAgent { refusal: Some(reason), .. }) => {
            out.say(&format!("An agent runs now, and refuses to tell its sockets, so no socket was opened: {reason}"));
        }
        Some(RunningAgent { version, .. }) => {
            out.say(&format!("The agent runs now, in version {version}: its sockets were not opened."));
        }
        None => {}
    }
    Ok(())
}

/// Asks for the running agent at the address of its API.
fn running_agent(config: &Config) -> Option<RunningAgent> {
    let client = AgentClient::new(config).ok()?;
    match block_on(client.get("/v1/status")) {
        Ok(agent) => Some(agent),
        Err(failure) if block_on(client.is_refused()).unwrap_or(false) => {
            let listens = config.daemon.sockets().map(|(address, _)| address).collect();
            Some(RunningAgent { version: "unknown".to_owned(), listens, refusal: Some(failure.message) })
        }
        Err(failure) => {
            tracing::debug!(reason = failure.message, "no agent runs");
            None
        }
    }
}
