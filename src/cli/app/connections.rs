//! `claviger connections`.

use serde_json::Value;

use super::Client;
use crate::cli::{
    failure::Failure,
    output::{NAME, Out, count, short},
};

/// Shows with whom the agent talks
#[derive(clap::Args)]
pub struct Args {}

pub async fn run(_: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    let found: Value = client.get("/v1/connections").await?;
    if out.json {
        return out.document(&found);
    }
    let connections = found["connections"].as_array().cloned().unwrap_or_default();
    for connection in &connections {
        let text = |name: &str| connection[name].as_str().unwrap_or_default().to_owned();
        let label = connection["label"].as_str().map_or(String::new(), |label| format!(" ({label})"));
        let ended = if connection["ended"].is_null() { "" } else { ", ended" };
        out.line(&format!("{NAME}{}{NAME:#}{label}, as {}{ended}", short(&text("theirs")), short(&text("ours"))))?;
    }
    out.say(&count(connections.len(), "connection"));
    Ok(())
}
