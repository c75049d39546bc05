//! `claviger token lock`: stops the use of a token.

use serde_json::json;

use crate::cli::{
    config::Config,
    failure::Failure,
    output::Out,
    tokens::open::{open_in_process, pkcs11_options},
};

/// Stops the use of a token until `token unlock`.
///
/// Within about a second, every claviger process with the same state folder stops using the token, and logs out at the
/// next request. Messages wait meanwhile. Nothing is changed in the token. A YubiKey key with PIN policy never stays
/// usable, since it needs no PIN.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    name: String,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(Some(&args.name))?;
    let name = &configured.name;
    let locked = match configured.is_yubikey() {
        // Opening a YubiKey needs no login. The lock makes the card forget that its PIN was verified.
        true => open_in_process(config, configured, false)?.lock(),
        false => pkcs11_options(config, configured)?.lock(&configured.uri),
    };
    locked.map_err(|error| Failure::from_token(name, &error))?;
    out.say(&format!("The token {name:?} is locked: its PIN is not used until `claviger token unlock {name}`."));
    if out.json { out.document(&json!({ "locked": name })) } else { Ok(()) }
}
