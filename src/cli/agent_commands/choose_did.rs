//! The choice of our DID when the command line names none.

use serde_json::Value;

use crate::cli::{agent_client::AgentClient, arguments::check_did, failure::Failure};

/// Returns the DID that was named, else our DID in the connection with the peer, else our newest DID. Only the first
/// page of the connections is searched, by the DID as it was typed.
pub async fn choose_own_did(client: &AgentClient, named: Option<&str>, peer: Option<&str>) -> Result<String, Failure> {
    if let Some(did) = named {
        check_did(did)?;
        return Ok(did.to_owned());
    }
    if let Some(peer) = peer {
        let known: Value = client.get("/v1/connections").await?;
        let connection = known["connections"].as_array().into_iter().flatten().find(|it| it["theirs"] == peer);
        if let Some(did) = connection.and_then(|it| it["ours"].as_str()) {
            return Ok(did.to_owned());
        }
    }
    let dids: Value = client.get("/v1/dids").await?;
    match dids[0]["did"].as_str() {
        Some(did) => Ok(did.to_owned()),
        None => Err(Failure::new("no-did", "the agent has no DID").hint("`claviger did create` makes one")),
    }
}
