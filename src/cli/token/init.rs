//! `claviger token init`.

use std::path::Path;

use serde_json::json;

use claviger::secrets::{
    TokenError,
    pkcs11::{self, InitToken, Pin, Uri, init_token},
};

use crate::cli::{config::Config, failure::Failure, output::Out, pin, tokens};

/// Initialises the empty token that a [[token]] names: its label, the security officer's PIN and the user's PIN.
///
/// Label, module and the user's PIN are those of its URI. A token that holds or may hold anything is refused.
///
/// A YubiKey that comes from the factory gets the PIN of its URI, a PUK, and a random management key that it keeps behind
/// the PIN. One that holds keys, or has a PIN of its own, is not touched.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    name: String,
    /// The slot; without it the one slot whose token is not initialised
    #[arg(long, value_name = "N")]
    slot_id: Option<u64>,
    /// Where the security officer's PIN comes from, of a YubiKey the PUK: file:PATH, credential:NAME or prompt
    #[arg(long, visible_alias = "puk-source", value_name = "SOURCE", default_value = "prompt")]
    so_pin_source: String,
    /// Erases the token of this label, and every key in it
    #[arg(long, value_name = "LABEL")]
    erase: Option<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(Some(&args.name))?;
    #[cfg(feature = "yubikey")]
    if tokens::is_yubikey(configured) {
        if args.slot_id.is_some() || args.erase.is_some() {
            let said = "--slot-id and --erase are for PKCS#11 tokens: a YubiKey is emptied by `ykman piv reset`";
            return Err(Failure::words("bad-arguments", said));
        }
        return super::piv::init(configured, &args.so_pin_source, config, out);
    }
    let uri = tokens::check_uri(configured)?;
    let misconfigured =
        |what: &str| Failure::words("token-misconfigured", format!("the URI of the token {:?} {what}", args.name));
    let module = uri.module_path.as_ref().ok_or_else(|| misconfigured("has no module-path=FILE"))?;
    let label = uri.token.clone().ok_or_else(|| misconfigured("has no token=LABEL to give it"))?;
    let slot_id = slot(args, &uri, &config.base.join(module))?;
    let user_source = uri.pin_source.as_deref().unwrap_or("prompt");
    let request = InitToken {
        module: config.base.join(module),
        slot_id,
        user_pin: match &uri.pin_value {
            Some(pin) => pin.clone(),
            None => pin::new(user_source, &config.base, &format!("new PIN of the token {:?}", args.name))?,
        },
        so_pin: so_pin(args)?,
        erase: args.erase.clone(),
        label,
    };
    let made = init_token(&request).map_err(|error| refused(args, &error))?;
    out.say(&format!("Initialised {made}."));
    if out.json {
        return out.document(&json!({
            "name": args.name,
            "label": made.info.label,
            "serial": made.info.serial,
            "slot": made.slot_id,
        }));
    }
    Ok(())
}

/// The slot: the one named, or that of the token which the URI or --erase names already, so that no second token gets
/// its label. None leaves the choice of an empty one to the library.
fn slot(args: &Args, uri: &Uri, module: &Path) -> Result<Option<u64>, Failure> {
    let label = args.erase.as_ref().or(uri.token.as_ref());
    let seen = pkcs11::tokens(module).map_err(|error| Failure::of_token(&args.name, &error))?;
    let same = seen.iter().find(|token| token.initialized && Some(&token.info.label) == label);
    match (args.slot_id.or(uri.slot_id), same) {
        (Some(slot), Some(token)) if slot != token.slot_id => {
            let said = format!("the token {token} has that label already");
            Err(Failure::new("not-initialised", said).hint("give the new one another label: token=LABEL in its URI"))
        }
        (Some(slot), _) => Ok(Some(slot)),
        (None, same) => Ok(same.map(|token| token.slot_id)),
    }
}

/// The security officer's PIN: a new one, or that of the token which is to be erased. As all arguments, a file is
/// relative to the working folder.
fn so_pin(args: &Args) -> Result<Pin, Failure> {
    match args.erase {
        Some(_) => pin::present(&args.so_pin_source, Path::new(""), "the security officer's PIN"),
        None => pin::new(&args.so_pin_source, Path::new(""), "a PIN for the security officer"),
    }
}

fn refused(args: &Args, error: &TokenError) -> Failure {
    let said = format!("the token {:?} was not initialised: {error}", args.name);
    match error {
        TokenError::Config(_) => {
            let hint = "--slot-id N names a slot, and --erase LABEL erases the token there; `claviger token list` \
                        without a configuration shows the slots";
            Failure::new("not-initialised", said).hint(hint)
        }
        error => Failure { message: said, ..Failure::of_token(&args.name, error) },
    }
}
