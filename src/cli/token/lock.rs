//! `claviger token lock`.

use serde_json::json;

use crate::cli::{config::Config, failure::Failure, output::Out, tokens};

/// Has no one use the token's PIN until you unlock it. From about a second later on every claviger with the same state
/// folder does nothing more with it, and logs out when it is next asked; messages wait. Nothing is changed in the token.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    name: String,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(Some(&args.name))?;
    let name = &configured.name;
    let locked = match tokens::is_yubikey(configured) {
        // It has no login to make: what is forgotten is on the card.
        true => tokens::open_here(config, configured, false)?.lock(),
        false => tokens::options(config, configured)?.lock(&configured.uri),
    };
    locked.map_err(|error| Failure::of_token(name, &error))?;
    out.say(&format!("The token {name:?} is locked: no PIN is used until `claviger token unlock {name}`."));
    if out.json { out.document(&json!({ "locked": name })) } else { Ok(()) }
}
