//! Reads the list of connections.

use serde_json::Value;

use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    failure::Failure,
};

/// How many connections the agent is asked for at once.
const PAGE_SIZE: usize = 1000;

/// Returns all connections, or all with a peer, and the cursor of the last page.
pub async fn all(client: &AgentClient, peer: Option<&str>) -> Result<(Vec<Value>, String), Failure> {
    let (mut connections, mut cursor) = (Vec::new(), String::new());
    let filter = peer.map_or(String::new(), |did| format!("&peer={}", percent_encoded(did)));
    loop {
        let path = format!("/v1/connections?limit={PAGE_SIZE}&after={}{filter}", percent_encoded(&cursor));
        let page: Value = client.get(&path).await?;
        let found = page["connections"].as_array().cloned().unwrap_or_default();
        let is_last_page = found.len() < PAGE_SIZE;
        connections.extend(found);
        cursor = page["cursor"].as_str().unwrap_or_default().to_owned();
        if is_last_page {
            return Ok((connections, cursor));
        }
    }
}
