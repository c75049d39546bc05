//! `claviger token unlock`.

use serde_json::json;

use crate::cli::{config::Config, failure::Failure, output::Out, tokens};

/// Tries the PIN once more after the token refused one, or after `token lock`. You vouch that it is right now: a wrong
/// one brings the token nearer to being locked.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    name: String,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(Some(&args.name))?;
    let token = tokens::open_here(config, configured, true)?;
    out.say(&format!("The token {:?} took its PIN.", token.name()));
    if out.json { out.document(&json!({ "unlocked": token.name() })) } else { Ok(()) }
}
