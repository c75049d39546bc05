//! The choice of our DID when the command line names none.

use claviger::did::peer::short_form;
use serde_json::Value;

use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    arguments::check_did,
    failure::Failure,
};

/// The number of connections that are read at once.
const PAGE: usize = 1000;

/// Returns the DID that was named, else our DID in the connection with the peer, else our newest DID.
pub async fn choose_own_did(client: &AgentClient, named: Option<&str>, peer: Option<&str>) -> Result<String, Failure> {
    if let Some(did) = named {
        check_did(did)?;
        return Ok(did.to_owned());
    }
    if let Some(peer) = peer
        && let Some(did) = own_did_towards(client, peer).await?
    {
        return Ok(did);
    }
    let dids: Value = client.get("/v1/dids").await?;
    match dids[0]["did"].as_str() {
        Some(did) => Ok(did.to_owned()),
        None => Err(Failure::new("no-did", "the agent has no DID that it serves")
            .hint("`claviger status` shows DIDs that are refused; `claviger did create` makes a DID")),
    }
}

/// Returns our DID in a connection with the peer that has not ended. Connections have the short form of a did:peer:4.
async fn own_did_towards(client: &AgentClient, peer: &str) -> Result<Option<String>, Failure> {
    let theirs = short_form(peer).unwrap_or(peer);
    let mut after = String::new();
    loop {
        let path = format!("/v1/connections?limit={PAGE}&after={}", percent_encoded(&after));
        let page: Value = client.get(&path).await?;
        let connections = page["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
        let connection = connections.iter().find(|it| it["theirs"] == theirs && it["ended"].is_null());
        if let Some(did) = connection.and_then(|it| it["ours"].as_str()) {
            return Ok(Some(did.to_owned()));
        }
        if connections.len() < PAGE {
            return Ok(None);
        }
        page["cursor"].as_str().unwrap_or_default().clone_into(&mut after);
    }
}
