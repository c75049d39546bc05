//! What `claviger token` does with YubiKeys.

use std::path::Path;

use serde_json::{Value, json};

use claviger::secrets::{
    Custodian, Token, TokenError,
    pin::PinState,
    piv::{OpenOptions, PcscReaders, YubiKey},
};

use super::list::Row;
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::Out,
    pin, tokens,
};

/// A line of `token list`. A YubiKey shows its keys without its PIN.
pub fn row(config: &Config, token: &TokenConfig) -> Result<Row, Failure> {
    let name = token.name.clone();
    let options = tokens::yubikey_options(config, token)?;
    let failed = |error| Failure::of_token(&name, &error);
    let opened = options.clone().open(&token.uri, PcscReaders);
    let here = opened.as_ref().ok();
    let pin = here.and_then(|opened| opened.pin_state().ok());
    let info = here.map(Token::info).unwrap_or_default();
    let remembered = here.and_then(|_| options.pin_memory(&info).ok()?);
    let form = here.and_then(|opened| opened.form().ok()?).map(|form| form.to_string());
    let keys = opened.and_then(|opened| opened.inventory()).map_err(failed);
    Ok(Row { name, info, pin: pin.map(|pin| pin.0), tries: pin.map(|pin| pin.1), remembered, keys, form })
}

/// The YubiKeys of this machine, for programs and as lines to paste. One that cannot be looked at is passed over.
pub fn here() -> Vec<(Value, String)> {
    let serials = PcscReaders.serials().unwrap_or_else(|error| {
        tracing::info!(%error, "YubiKeys are passed over");
        Vec::new()
    });
    serials.into_iter().filter_map(one_here).collect()
}

fn one_here(serial: u32) -> Option<(Value, String)> {
    let uri = format!("yubikey:serial={serial}?pin-source=prompt");
    let opened = OpenOptions::new().open(&uri, PcscReaders).ok()?;
    let (info, (state, tries)) = (opened.info(), opened.pin_state().ok()?);
    let fresh = opened.check_fresh().is_ok();
    let row = json!({
        "label": info.label,
        "serial": info.serial,
        "manufacturer": info.manufacturer,
        "model": info.model,
        "firmware": info.firmware,
        "initialized": !fresh,
        "pin": state,
        "pin_tries": tries,
        "uri": uri,
    });
    let what = match (fresh, state) {
        (true, _) => ": as it came from the factory. With these lines `claviger token init NAME` sets it up",
        (false, PinState::Locked) => "; its PIN is locked",
        (false, PinState::FinalTry) => "; ITS PIN HAS ONE TRY LEFT",
        (false, PinState::CountLow) => "; a wrong PIN was given",
        (false, PinState::Ready) => "",
    };
    let lines = format!(
        "# {} {}, firmware {}, serial {serial}{what}\n[[token]]\nname = \"{}\"\nuri = \"{uri}\"\n",
        info.manufacturer,
        info.model,
        info.firmware,
        if fresh { "NAME" } else { &info.label },
    );
    Some((row, lines))
}

/// Gives a YubiKey that comes from the factory a PIN, a PUK and a management key of its own.
pub fn init(token: &TokenConfig, puk_source: &str, config: &Config, out: &Out) -> Result<(), Failure> {
    let uri = tokens::check_yubikey_uri(token)?;
    let failed = |error: &TokenError| {
        let said = format!("the YubiKey of the token {:?} was not set up: {error}", token.name);
        match error {
            TokenError::Config(_) => Failure::new("not-initialised", said).hint(
                "a card that is in use serves as it is. What its keys open is lost with them: `ykman piv reset` empties it for \
                 good, if that is meant",
            ),
            TokenError::Pin(_) => Failure::new("not-initialised", said)
                .hint("choose another one; the same command goes on where it was cut short"),
            error => Failure { message: said, ..Failure::of_token(&token.name, error) }
                .hint("the same again goes on where it was cut short, and says so if it was all done"),
        }
    };
    let opened = tokens::yubikey_options(config, token)?.open(&token.uri, PcscReaders);
    let yubikey: YubiKey = opened.map_err(|error| Failure::of_token(&token.name, &error))?;
    // Before a person is asked for anything.
    yubikey.check_fresh().map_err(|error| failed(&error))?;
    let info = yubikey.info();
    let of = |what: &str| format!("{what} of the YubiKey {}, 6 to 8 characters", info.serial);
    let pin = pin::new(uri.pin_source.as_deref().unwrap_or("prompt"), &config.base, &of("new PIN"))?;
    let puk = pin::new(puk_source, Path::new(""), &of("new PUK, which sets a new PIN where the old one is locked,"))?;
    let puk_is_set = yubikey.set_up(&pin, &puk).map_err(|error| failed(&error))?;
    out.say(&format!(
        "The YubiKey {} has your PIN now, and a random management key that it keeps behind the PIN.",
        info.serial
    ));
    if puk_is_set {
        out.say("It has your PUK, which sets a new PIN where the old one is locked.");
    } else {
        out.warn("its PUK was set before, and is still that one: not the one that was given now");
    }
    out.say(
        "What is encrypted to its keys is lost with it, for they cannot be copied: set up a second one, and name both in \
         `claviger did create --token ... --token ...`.",
    );
    if out.json {
        return out.document(&json!({ "name": token.name, "label": info.label, "serial": info.serial }));
    }
    Ok(())
}
