//! `claviger status`: shows the state of the running agent.

use serde_json::{Value, json};

use crate::cli::{
    agent_client::AgentClient,
    failure::Failure,
    output::{Out, count, short},
};

/// Shows the state of the running agent: its tokens, and the messages that wait
#[derive(clap::Args)]
pub struct Args {}

pub async fn run(_: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let status: Value = client.get("/v1/status").await?;
    let keys: Value = client.get("/v1/tokens").await?;
    if out.json {
        return out.document(&json!({ "status": status, "keys": keys }));
    }
    let waiting = |name: &str| usize::try_from(status["waiting"][name].as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
    let ready = if status["token_ready"] == true { "ready" } else { "not ready: received messages wait" };
    out.line(&format!("claviger {}; its tokens are {ready}", status["version"].as_str().unwrap_or_default()))?;
    out.line(&format!("{} to be unpacked", count(waiting("envelopes"), "message")))?;
    out.line(&format!("{} to be read", count(waiting("deliveries"), "message")))?;
    out.line(&format!("{} to be sent", count(waiting("outgoing"), "message")))?;
    for refused in status["refused"].as_array().into_iter().flatten() {
        for key in refused["keys"].as_array().into_iter().flatten() {
            let text = |name: &str| key[name].as_str().unwrap_or_default();
            out.warn(&format!(
                "{} is refused: its key {} is not proved: {}",
                short(refused["did"].as_str().unwrap_or_default()),
                text("key"),
                text("why")
            ));
        }
    }
    for key in keys.as_array().into_iter().flatten() {
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
        out.line(&format!("{} in the token {:?}: {}", text("key"), text("token"), text("state")))?;
    }
    Ok(())
}
