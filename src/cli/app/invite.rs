//! `claviger invite`.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{Client, from};
use crate::cli::{failure::Failure, output::Out};

/// Makes an invitation: a URL, and its picture in the terminal
#[derive(clap::Args)]
pub struct Args {
    /// Our DID that invites; without, the newest
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// What it is for, for people
    #[arg(long, value_name = "TEXT")]
    goal: Option<String>,
    /// What it is for, for programs
    #[arg(long, value_name = "CODE")]
    goal_code: Option<String>,
    /// Any number of others may accept it
    #[arg(long)]
    multi: bool,
    /// It is good for so many hours
    #[arg(long, value_name = "HOURS", default_value_t = 24 * 7)]
    hours: u32,
    /// Writes the picture to a file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub async fn run(args: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    let from = from(client, args.from.as_deref(), None).await?;
    let mut wanted = json!({ "from": from, "multi_use": args.multi, "hours": args.hours });
    for (name, value) in [("goal", &args.goal), ("goal_code", &args.goal_code)] {
        if let Some(value) = value {
            wanted[name] = value.as_str().into();
        }
    }
    let made: Value = client.post("/v1/invitations", &wanted).await?;
    if let Some(path) = &args.svg {
        let picture = made["svg"].as_str().ok_or_else(|| {
            Failure::new(
                "too-long-for-a-picture",
                "the URL is too long for a picture; a did:peer:2 is shorter than a did:peer:4",
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
