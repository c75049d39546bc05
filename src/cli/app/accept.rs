//! `claviger accept`.

use serde_json::{Value, json};

use super::{Client, from};
use crate::cli::{
    failure::Failure,
    output::{Out, short},
    own::check_did,
};

/// Accepts an invitation, and tells the one who invites with a ping
#[derive(clap::Args)]
pub struct Args {
    /// Its URL, or the JSON that it holds
    invitation: String,
    /// Our DID that accepts; without, the newest
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// What we call the other
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
}

pub async fn run(args: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    if let Some(did) = &args.from {
        check_did(did)?;
    }
    let from = from(client, args.from.as_deref(), None).await?;
    let mut wanted = json!({ "invitation": args.invitation, "from": from });
    if let Some(label) = &args.label {
        wanted["label"] = label.as_str().into();
    }
    let accepted: Value = client.post("/v1/invitations/accept", &wanted).await?;
    let theirs = accepted["theirs"].as_str().unwrap_or_default();
    out.say(&format!("Accepted: {} is told with a ping.", short(theirs)));
    if out.json { out.document(&accepted) } else { out.line(theirs) }
}
