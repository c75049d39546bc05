//! `claviger accept`: accepts an invitation through the running agent.

use serde_json::{Value, json};

use super::choose_did::choose_own_did;
use crate::cli::{
    agent_client::AgentClient,
    arguments::check_did,
    failure::Failure,
    output::{Out, short},
};

/// Accepts an invitation, and sends a ping to its sender
///
/// Prints the DID of the sender.
#[derive(clap::Args)]
pub struct Args {
    /// The URL of the invitation, or the JSON in it
    invitation: String,
    /// Our DID that accepts; the newest if not given
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// A name for the new connection
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
}

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    if let Some(did) = &args.from {
        check_did(did)?;
    }
    let from = choose_own_did(client, args.from.as_deref(), None).await?;
    let mut request = json!({ "invitation": args.invitation, "from": from });
    if let Some(label) = &args.label {
        request["label"] = label.as_str().into();
    }
    let accepted: Value = client.post("/v1/invitations/accept", &request).await?;
    let theirs = accepted["theirs"].as_str().unwrap_or_default();
    out.say(&format!("Accepted. Sending a ping to {}.", short(theirs)));
    if out.json { out.document(&accepted) } else { out.line(theirs) }
}
