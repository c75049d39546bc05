//! `claviger token list`: lists the configured tokens, or the tokens of this machine.

#[cfg(not(feature = "yubikey"))]
use serde_json::Value;
use serde_json::json;

use claviger::secrets::pkcs11::{self, PinState, SlotToken, Uri};

use super::row::TokenRow;
#[cfg(feature = "yubikey")]
use super::yubikey;
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{DIM, Out},
    pin, pkcs11_modules,
    table::Table,
    tokens::open::{open_in_process, pkcs11_options, pkcs11_uri},
};

/// Lists the configured tokens; without a configuration, the tokens of this machine
///
/// The list has the name, label, serial number, model, firmware, the state of the PIN, and the number of keys. A token
/// whose PIN a person types is not logged in to, so its keys are not counted. A YubiKey shows also the tries that its
/// PIN has left, its form, and the keys in its slots. Without a configuration the list has lines to paste into
/// claviger.toml.
#[derive(clap::Args)]
#[command(
    after_long_help = r#"With --json, "last_try" is the PIN guard's record of the last attempt: new, accepted, trying (the result is unknown), refused, or locked (by `token lock`)."#
)]
pub struct Args {}

pub fn run(config: &Config, out: &Out) -> Result<(), Failure> {
    if config.tokens.is_empty() {
        return list_machine(config, out);
    }
    let rows = config.tokens.iter().map(|token| match token.is_yubikey() {
        #[cfg(feature = "yubikey")]
        true => yubikey::row(config, token),
        _ => Ok(row(config, token, &pkcs11_uri(token)?)),
    });
    let rows = rows.collect::<Result<Vec<TokenRow>, Failure>>()?;
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
    let seen = find(config, uri);
    let pin = seen.as_ref().map(|seen| seen.pin);
    // A record that cannot be read was already a failure to open the token.
    let pin_record = seen.as_ref().and_then(|seen| pkcs11_options(config, token).ok()?.pin_record(&seen.info).ok()?);
    let info = info.or(seen.map(|seen| seen.info)).unwrap_or_default();
    TokenRow { name, info, pin, tries: None, pin_record, keys, form: None }
}

/// Finds the token without a login.
fn find(config: &Config, uri: &Uri) -> Option<SlotToken> {
    let tokens = pkcs11::tokens(config.base.join(uri.module_path.as_ref()?)).ok()?;
    let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    tokens
        .into_iter()
        .find(|token| token.initialized && fits(&uri.token, &token.info.label) && fits(&uri.serial, &token.info.serial))
}

/// Lists the tokens of this machine, with lines to paste into claviger.toml.
fn list_machine(config: &Config, out: &Out) -> Result<(), Failure> {
    let mut found = Vec::new();
    for module in pkcs11_modules::installed() {
        match pkcs11::tokens(&module) {
            Ok(tokens) => found.extend(tokens.into_iter().map(|token| (module.clone(), token))),
            Err(error) => tracing::info!(%error, "PKCS#11 module skipped"),
        }
    }
    #[cfg(feature = "yubikey")]
    let yubikeys = yubikey::connected();
    #[cfg(not(feature = "yubikey"))]
    let yubikeys: Vec<(Value, String)> = Vec::new();
    if out.json {
        let rows = found.iter().map(|(module, token)| {
            json!({
                "module": module,
                "slot": token.slot_id,
                "label": token.info.label,
                "serial": token.info.serial,
                "manufacturer": token.info.manufacturer,
                "model": token.info.model,
                "firmware": token.info.firmware,
                "initialized": token.initialized,
                "pin": token.pin,
                "uri": uri(module, token).to_string(),
            })
        });
        return out.document(&rows.chain(yubikeys.into_iter().map(|(row, _)| row)).collect::<Vec<_>>());
    }
    out.say(match &config.file {
        Some(_) => "The configuration names no token. On this machine there are:",
        None => "There is no configuration yet. On this machine there are:",
    });
    if found.is_empty() && yubikeys.is_empty() {
        out.say("no PKCS#11 tokens. `apt-get install softhsm2` installs a software token, to try things out.");
    }
    for (module, token) in &found {
        out.line(&configuration_lines(module, token))?;
    }
    for (_, lines) in &yubikeys {
        out.line(lines)?;
    }
    Ok(())
}

/// The lines for a token in claviger.toml.
fn configuration_lines(module: &std::path::Path, token: &SlotToken) -> String {
    let info = &token.info;
    let serial = if info.serial.is_empty() { String::new() } else { format!(", serial {}", info.serial) };
    let what = format!("# {} {}{serial}, slot {}", info.manufacturer, info.model, token.slot_id);
    if !token.initialized {
        let slot = token.slot_id;
        let mut uri = uri(module, token);
        uri.token = Some("NAME".to_owned());
        return format!(
            "{what}: not initialised. With these lines, `claviger token init NAME --slot-id {slot}` initialises it.\n\
             # [[token]]\n\
             # name = \"NAME\"\n# uri = \"{uri}\"\n"
        );
    }
    let pin = match token.pin {
        PinState::Ready => "",
        PinState::CountLow => "; a wrong PIN was given",
        PinState::FinalTry => "; ITS PIN HAS ONE TRY LEFT",
        PinState::Locked => "; its PIN is locked",
    };
    format!("{what}{pin}\n[[token]]\nname = {:?}\nuri = \"{}\"\n", info.label, uri(module, token))
}

fn uri(module: &std::path::Path, token: &SlotToken) -> Uri {
    let mut uri = Uri::default();
    uri.token = Some(token.info.label.clone()).filter(|label| !label.is_empty());
    uri.serial = Some(token.info.serial.clone()).filter(|serial| !serial.is_empty());
    uri.module_path = module.to_str().map(str::to_owned);
    uri.pin_source = Some("prompt".to_owned());
    uri
}
