//! `claviger token list`: lists the configured tokens, or the tokens of this machine.

use std::path::PathBuf;

use claviger::secrets::pkcs11::{TokenOverview, Uri};

use super::machine;
#[cfg(feature = "yubikey")]
use super::piv;
use super::row::TokenRow;
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{DIM, Out},
    pin,
    table::Table,
    tokens::open::{open_in_process, pkcs11_options, pkcs11_uri},
};

/// Lists the configured tokens; without a configuration, the tokens of this machine
///
/// The list has the name, label, serial number, model, firmware, the state of the PIN, and the number of keys. A token
/// whose PIN a person types is not logged in to, so its keys are not counted. A YubiKey shows also the tries that its
/// PIN has left, its form, and the keys in its slots. Without a configuration the list has lines to paste into
/// claviger.toml; a PKCS#11 module that does not answer within ten seconds is named and left out.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json, "last_try" is the PIN guard's record of the last attempt: new, accepted, trying (the result is unknown), refused, or locked (by `token lock`)."#
)]
pub struct Args {
    /// List the tokens of this PKCS#11 module, without the configuration
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
}

pub fn run(args: &Args, config: &dyn Fn() -> Result<Config, Failure>, out: &Out) -> Result<(), Failure> {
    match &args.module {
        Some(module) => machine::list_module(module, out),
        None => match config()? {
            config if config.tokens.is_empty() => machine::list(&config, out),
            config => list_configured(&config, out),
        },
    }
}

fn list_configured(config: &Config, out: &Out) -> Result<(), Failure> {
    let row_of = |token: &TokenConfig| match token.is_yubikey() {
        #[cfg(feature = "yubikey")]
        true => piv::row(config, token),
        _ => Ok(row(config, token, &pkcs11_uri(token)?)),
    };
    let (mut rows, mut is_any_usable, mut unusable) = (Vec::new(), false, None);
    for token in &config.tokens {
        rows.push(row_of(token).inspect(|_| is_any_usable = true).unwrap_or_else(|failure: Failure| {
            unusable.get_or_insert(failure.clone());
            TokenRow::unusable(token, failure)
        }));
    }
    // Among others, a token that this configuration cannot open has its line in the list.
    if let Some(failure) = unusable.filter(|_| !is_any_usable) {
        return Err(failure);
    }
    if out.json {
        rows.iter().for_each(|row| row.warn(out));
        return out.document(&rows.iter().map(TokenRow::to_json).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["NAME", "LABEL", "SERIAL", "MODEL", "FIRMWARE", "PIN", "KEYS"]);
    for row in &rows {
        table.row(row.cells());
    }
    out.line(&table.render())?;
    for row in &rows {
        match &row.keys {
            Ok(keys) => row.print_slots(keys, out),
            // The warning below has the same.
            Err(failure) if failure.code == "pin-refused" && row.has_pin_problem() => {}
            Err(failure) => out.say(&format!("{DIM}{}{DIM:#}", failure.message)),
        }
        row.warn(out);
    }
    Ok(())
}

/// The row of a PKCS#11 token. Logs in, because only then keys are visible; a refused PIN is not tried again.
fn row(config: &Config, token: &TokenConfig, uri: &Uri) -> TokenRow {
    let name = token.name.clone();
    // A person is not asked for a PIN to list tokens.
    let asks_person = uri.pin_value.is_none() && uri.pin_source.as_deref().is_none_or(pin::is_interactive);
    let opened = if asks_person {
        let message = format!("the token {name:?} asks a person for its PIN: its keys are not counted");
        Err(Failure::not_ready("pin-needed", message))
    } else {
        open_in_process(config, token, false)
    };
    let info = opened.as_ref().ok().map(|opened| opened.info());
    let keys = opened.and_then(|opened| opened.inventory().map_err(|error| Failure::from_token(&name, &error)));
    let overview = find(config, token);
    let when_locked =
        overview.as_ref().map(|it| it.profile.new_pin(&it.module.to_string_lossy(), &it.token.info.label));
    let seen = overview.map(|overview| overview.token);
    let pin = seen.as_ref().map(|seen| seen.pin);
    // A record that cannot be read was already a failure to open the token.
    let pin_record = seen.as_ref().and_then(|seen| pkcs11_options(config, token).ok()?.pin_record(&seen.info).ok()?);
    let info = info.or(seen.map(|seen| seen.info)).unwrap_or_default();
    let when_locked = when_locked.unwrap_or_default();
    TokenRow { name, info, pin, tries: None, pin_record, keys, form: None, when_locked }
}

/// Finds the token without a login.
fn find(config: &Config, token: &TokenConfig) -> Option<TokenOverview> {
    pkcs11_options(config, token).ok()?.overview(&token.uri).ok()
}
