//! `claviger accept`: accepts an invitation through the running agent.

use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::choose_did::choose_own_did;
use crate::cli::{
    agent_client::AgentClient,
    failure::Failure,
    output::{Out, printable, short},
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
    /// The label of the inviter: a name for it, which other commands understand and which is never sent
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// An ID for this request, for a command that is repeated: it sends one ping; if not given, a new ID
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let from = choose_own_did(client, args.from.as_deref()).await?;
    let id = args.id.clone().unwrap_or_else(Message::new_id);
    let mut request = json!({ "id": id, "invitation": args.invitation, "from": from });
    if let Some(label) = &args.label {
        request["label"] = label.as_str().into();
    }
    let accepted: Value = client.post_repeatable("/v1/invitations/accept", &request).await?;
    let theirs = accepted["theirs"].as_str().unwrap_or_default();
    let shown = args.label.as_deref().map_or_else(|| short(theirs), printable);
    out.say(&format!("Accepted. Sending a ping to {shown}."));
    if out.json { out.document(&accepted) } else { out.line(theirs) }
}
