//! `claviger token init`: initialises an empty token.

use std::path::Path;

use serde_json::json;

use claviger::secrets::{
    TokenError,
    pkcs11::{self, InitToken, Pin, Uri, init_token},
};

use crate::cli::{config::Config, failure::Failure, output::Out, pin, tokens::open::pkcs11_uri};

/// Initialises an empty token: sets its label, the security officer's PIN and the user's PIN.
///
/// The label, the module and the user's PIN are those of the token's URI. A token that holds or may hold anything is
/// refused, unless --erase names it.
///
/// A new YubiKey gets the PIN of its URI, a PUK, and a random management key that the PIN protects. A YubiKey that
/// holds keys, or whose PIN is not the factory PIN, is refused.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    pub name: String,
    /// The slot; if not given, the one slot whose token is not initialised
    #[arg(long, value_name = "N")]
    slot_id: Option<u64>,
    /// The source of the security officer's PIN, or of a YubiKey's PUK: file:PATH, credential:NAME or prompt
    #[arg(long, visible_alias = "puk-source", value_name = "SOURCE", default_value = "prompt")]
    so_pin_source: String,
    /// Erases the token with this label, and every key in it
    #[arg(long, value_name = "LABEL")]
    erase: Option<String>,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(Some(&args.name))?;
    #[cfg(feature = "yubikey")]
    if configured.is_yubikey() {
        if args.slot_id.is_some() || args.erase.is_some() {
            let message = "--slot-id and --erase are for PKCS#11 tokens: `ykman piv reset` erases a YubiKey";
            return Err(Failure::usage("bad-arguments", message));
        }
        return super::piv::init(configured, &args.so_pin_source, config, out);
    }
    let uri = pkcs11_uri(configured)?;
    let misconfigured =
        |what: &str| Failure::usage("token-misconfigured", format!("the URI of the token {:?} {what}", args.name));
    let module = pkcs11::module_file(&uri, &config.base).map_err(|error| Failure::from_token(&args.name, &error))?;
    let label = uri.token.clone().ok_or_else(|| misconfigured("has no token=LABEL, the label for the token"))?;
    let slot_id = choose_slot(args, &uri, &module)?;
    let user_source = uri.pin_source.as_deref().unwrap_or("prompt");
    let request = InitToken {
        module,
        slot_id,
        user_pin: match &uri.pin_value {
            Some(pin) => pin.clone(),
            None => pin::read_new(user_source, &config.base, &format!("new PIN of the token {:?}", args.name))?,
        },
        so_pin: so_pin(args)?,
        erase: args.erase.clone(),
        label,
    };
    let initialised = init_token(&request).map_err(|error| refused(args, &error))?;
    out.say(&format!("Initialised {initialised}."));
    if out.json {
        return out.document(&json!({
            "name": args.name,
            "label": initialised.info.label,
            "serial": initialised.info.serial,
            "slot": initialised.slot_id,
        }));
    }
    Ok(())
}

/// The slot to initialise: the named slot, or the slot whose token has the label already, so that no second token gets
/// the same label. `None` lets the library choose an empty slot.
fn choose_slot(args: &Args, uri: &Uri, module: &Path) -> Result<Option<u64>, Failure> {
    let label = args.erase.as_ref().or(uri.token.as_ref());
    let tokens = pkcs11::tokens(module).map_err(|error| Failure::from_token(&args.name, &error))?;
    let same_label = tokens.iter().find(|token| token.initialized && Some(&token.info.label) == label);
    match (args.slot_id.or(uri.slot_id), same_label) {
        (Some(slot), Some(token)) if slot != token.slot_id => {
            let message = format!("the token {token} has that label already");
            Err(Failure::new("not-initialised", message)
                .hint("give the new token another label: token=LABEL in its URI"))
        }
        (Some(slot), _) => Ok(Some(slot)),
        (None, same_label) => Ok(same_label.map(|token| token.slot_id)),
    }
}

/// The security officer's PIN: a new PIN, or the PIN of the token to erase. The path of a file is relative to the
/// working folder.
fn so_pin(args: &Args) -> Result<Pin, Failure> {
    match args.erase {
        Some(_) => pin::read_existing(&args.so_pin_source, Path::new(""), "the security officer's PIN"),
        None => pin::read_new(&args.so_pin_source, Path::new(""), "a PIN for the security officer"),
    }
}

fn refused(args: &Args, error: &TokenError) -> Failure {
    let message = format!("the token {:?} was not initialised: {error}", args.name);
    match error {
        TokenError::Config(_) => {
            let hint = "--slot-id N names a slot, and --erase LABEL erases the token in it; `claviger token list` \
                        without a configuration shows the slots";
            Failure::new("not-initialised", message).hint(hint)
        }
        error => Failure { message, ..Failure::from_token(&args.name, error) },
    }
}
