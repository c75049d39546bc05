//! `claviger token lock`: stops the use of a token.

use serde_json::json;

use crate::cli::{
    config::Config,
    failure::Failure,
    output::Out,
    shell::quoted,
    tokens::{
        custodian::custodian_of,
        open::{check_uri, pkcs11_options},
    },
};

/// Stops the use of a token until `token unlock`.
///
/// Within about a second, every claviger process with the same state folder stops using the token, and logs out at the
/// next request. Messages wait meanwhile. Nothing is changed in the token. A YubiKey key with PIN policy never stays
/// usable, since it needs no PIN. A YubiKey whose URI has its serial number is locked also while another program uses it.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; not needed if only one token is configured
    pub name: Option<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(args.name.as_deref())?;
    check_uri(configured)?;
    let name = &configured.name;
    let failed = |error| Failure::from_token(name, &error);
    match &configured.keeper {
        // The keeper writes to its PIN guard, which other users cannot.
        Some(address) => custodian_of(name, address)?.lock().map_err(failed)?,
        #[cfg(feature = "yubikey")]
        None if configured.is_yubikey() => super::piv::lock(configured, config, out)?,
        None => pkcs11_options(config, configured)?.lock(&configured.uri).map_err(failed)?,
    }
    let unlock = format!("`claviger token unlock {}`", quoted(name));
    out.say(&format!("The token {name:?} is locked: its PIN is not used until {unlock}."));
    if out.json { out.document(&json!({ "locked": name })) } else { Ok(()) }
}
