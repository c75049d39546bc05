//! `claviger token unlock`: tries a token's PIN once more, after a refusal or after `token lock`.

use serde_json::json;

use crate::cli::{config::Config, failure::Failure, output::Out, tokens::open::open_in_process};

/// Tries the PIN once more after the token refused it, or after `token lock`.
///
/// Be sure that the PIN is correct now: each wrong PIN brings the token nearer to being locked.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    name: String,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(Some(&args.name))?;
    let token = open_in_process(config, configured, true)?;
    out.say(&format!("The token {:?} accepted its PIN.", token.name()));
    if out.json { out.document(&json!({ "unlocked": token.name() })) } else { Ok(()) }
}
