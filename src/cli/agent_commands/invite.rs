//! `claviger invite`: makes an invitation.

use std::{fs, path::PathBuf};

use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::choose_did::choose_own_did;
use crate::cli::{agent_client::AgentClient, failure::Failure, output::Out};

/// Makes an invitation: a URL, and a QR code in the terminal
///
/// Prints the URL on stdout, and the QR code on stderr.
#[derive(clap::Args)]
pub struct Args {
    /// Our DID that invites; the newest if not given
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// The purpose of the invitation, for people
    #[arg(long, value_name = "TEXT")]
    goal: Option<String>,
    /// The purpose of the invitation, for programs
    #[arg(long, value_name = "CODE")]
    goal_code: Option<String>,
    /// Lets any number of peers accept the invitation
    #[arg(long)]
    multi: bool,
    /// The invitation expires after this many hours
    #[arg(long, value_name = "HOURS", default_value_t = 24 * 7)]
    hours: u32,
    /// An ID for this request, for a command that is repeated: it makes one invitation; if not given, a new ID
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Writes the QR code to a file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let from = choose_own_did(client, args.from.as_deref()).await?;
    let id = args.id.clone().unwrap_or_else(Message::new_id);
    let has_qr_codes = !out.json || args.svg.is_some();
    let mut request =
        json!({ "id": id, "from": from, "multi_use": args.multi, "hours": args.hours, "qr_codes": has_qr_codes });
    for (name, value) in [("goal", &args.goal), ("goal_code", &args.goal_code)] {
        if let Some(value) = value {
            request[name] = value.as_str().into();
        }
    }
    let made: Value = client.post_repeatable("/v1/invitations", &request).await?;
    if let Some(path) = &args.svg {
        let picture = made["svg"].as_str().ok_or_else(|| {
            Failure::new(
                "too-long-for-a-picture",
                "the URL is too long for a QR code; a did:peer:2 is shorter than a did:peer:4",
            )
        })?;
        fs::write(path, picture).map_err(|error| Failure::io(path.display(), &error))?;
    }
    if out.json {
        return out.document(&made);
    }
    if let Some(picture) = made["terminal"].as_str() {
        out.say(picture);
    }
    out.line(made["url"].as_str().unwrap_or_default())
}
