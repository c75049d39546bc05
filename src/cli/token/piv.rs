//! YubiKeys in the commands of `claviger token`.

use std::path::Path;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use claviger::secrets::{
    Custodian, Token, TokenError,
    pin::PinState,
    piv::{InsertedYubiKeys, OpenOptions, PcscReaders, TransportError, WHEN_LOCKED, YubiKey},
};

use super::row::TokenRow;
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::Out,
    pin,
    runtime::block_on,
    tokens::open::{yubikey_options, yubikey_uri},
};

/// The row of a YubiKey in `token list`. A YubiKey shows its keys without its PIN.
pub fn row(config: &Config, token: &TokenConfig) -> Result<TokenRow, Failure> {
    let name = token.name.clone();
    let options = yubikey_options(config, token)?;
    let failed = |error| Failure::from_token(&name, &error);
    let opened = options.clone().open(&token.uri, PcscReaders);
    let yubikey = opened.as_ref().ok();
    let pin = yubikey.and_then(|opened| opened.pin_state().ok());
    let info = yubikey.map(Token::info).unwrap_or_default();
    let pin_record = yubikey.and_then(|_| options.pin_record(&info).ok()?);
    let form = yubikey.and_then(|opened| opened.form_factor().ok()?).map(|form| form.to_string());
    let keys = opened.and_then(|opened| opened.inventory()).map_err(failed);
    let (pin, tries) = (pin.map(|pin| pin.0), pin.map(|pin| pin.1));
    Ok(TokenRow { name, info, pin, tries, pin_record, keys, form, when_locked: WHEN_LOCKED.to_owned() })
}

/// The connected YubiKeys, each as JSON and as lines for claviger.toml. Says which YubiKeys cannot be used, and why.
pub fn connected(out: &Out) -> Vec<(Value, String)> {
    let inserted = PcscReaders.inserted().unwrap_or_else(|error| {
        match error {
            TransportError::Denied(reason) => out.warn(&reason),
            error => tracing::info!(%error, "YubiKeys skipped"),
        }
        InsertedYubiKeys::default()
    });
    for passed_over in &inserted.passed_over {
        out.say(&format!("Passed over: {passed_over}."));
    }
    inserted.serials.into_iter().filter_map(connected_with_serial).collect()
}

fn connected_with_serial(serial: u32) -> Option<(Value, String)> {
    let uri = format!("yubikey:serial={serial}?pin-source=prompt");
    let opened = OpenOptions::new().open(&uri, PcscReaders).ok()?;
    let (info, (state, tries)) = (opened.info(), opened.pin_state().ok()?);
    let is_new = opened.check_fresh().is_ok();
    let row = json!({
        "label": info.label,
        "serial": info.serial,
        "manufacturer": info.manufacturer,
        "model": info.model,
        "firmware": info.firmware,
        "initialized": !is_new,
        "pin": state,
        "pin_tries": tries,
        "uri": uri,
    });
    let what = match (is_new, state) {
        (true, _) => ": new. With these lines, `claviger token init NAME` sets it up",
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
        if is_new { "NAME" } else { &info.label },
    );
    Some((row, lines))
}

/// Sets up a new YubiKey: a PIN, a PUK and a management key.
pub fn init(token: &TokenConfig, puk_source: &str, config: &Config, out: &Out) -> Result<(), Failure> {
    let uri = yubikey_uri(token)?;
    let failed = |error: &TokenError| {
        let message = format!("the YubiKey of the token {:?} was not set up: {error}", token.name);
        match error {
            TokenError::Config(_) => Failure::new("not-initialised", message).hint(
                "a YubiKey that is in use needs no setup. To erase it and all its keys for good: `ykman piv reset`",
            ),
            TokenError::Pin(_) => Failure::new("not-initialised", message)
                .hint("choose another PIN; the same command continues where it stopped"),
            error => Failure { message, ..Failure::from_token(&token.name, error) }
                .hint("the same command continues where it stopped, and says so if all was done"),
        }
    };
    let opened = yubikey_options(config, token)?.open(&token.uri, PcscReaders);
    let yubikey: YubiKey = opened.map_err(|error| Failure::from_token(&token.name, &error))?;
    // Checked before a person is asked for a PIN.
    yubikey.check_fresh().map_err(|error| failed(&error))?;
    let info = yubikey.info();
    let named = |what: &str| format!("{what} of the YubiKey {}, 6 to 8 characters", info.serial);
    let pin = pin::read_new(uri.pin_source.as_deref().unwrap_or("prompt"), &config.base, &named("new PIN"))?;
    let puk =
        pin::read_new(puk_source, Path::new(""), &named("new PUK, which sets a new PIN when the old one is locked,"))?;
    let puk_is_set = yubikey.set_up(&pin, &puk).map_err(|error| failed(&error))?;
    out.say(&format!(
        "The YubiKey {} has your PIN now, and a random management key, which the PIN protects.",
        info.serial
    ));
    if puk_is_set {
        out.say("It has your PUK, which sets a new PIN when the old one is locked.");
    } else {
        out.warn("the PUK was set before, and was not changed to the one given now");
    }
    out.say(
        "Its keys cannot be copied, so messages to them are lost with the YubiKey: set up a second one, and name both \
         in `claviger did create --token ... --token ...`.",
    );
    if out.json {
        return out.document(&json!({ "name": token.name, "label": info.label, "serial": info.serial }));
    }
    Ok(())
}

/// Locks a YubiKey. Warns if its card may still have its PIN verified.
pub fn lock(token: &TokenConfig, config: &Config, out: &Out) -> Result<(), Failure> {
    let locked = yubikey_options(config, token)?.lock(&token.uri, PcscReaders);
    if let Some(error) = locked.map_err(|error| Failure::from_token(&token.name, &error))? {
        out.warn(&format!(
            "the YubiKey of the token {:?} was not told to forget its PIN: {error}. Until it is unplugged, another program may \
             use its keys",
            token.name
        ));
    }
    Ok(())
}

/// Verifies the PIN, and holds the YubiKey until this process is interrupted, so that it keeps the PIN verified: pcscd cuts
/// its power only when no program is connected to it.
pub fn keep_unlocked(token: &TokenConfig, config: &Config, out: &Out) -> Result<(), Failure> {
    let failed = |error: &TokenError| Failure::from_token(&token.name, error);
    let (name, ask_at) = (token.name.clone(), pin::AskAt::from_pin_source(yubikey_uri(token)?.pin_source.as_deref()));
    let options = yubikey_options(config, token)?.prompt(move |prompt| pin::prompt(&name, ask_at, prompt));
    let yubikey = options.pin_confirmed(true).open(&token.uri, PcscReaders).map_err(|error| failed(&error))?;
    let say_so = || {
        out.say(&format!(
            "The token {:?} accepted its PIN, and needs it no more until this command is interrupted (Ctrl-C).",
            token.name
        ));
        if out.json { out.document(&json!({ "unlocked": token.name, "keeps": true })) } else { Ok(()) }
    };
    block_on(until_interrupted(say_so))?;
    yubikey.forget_pin().map_err(|error| failed(&error))?;
    out.say(&format!("The token {:?} needs its PIN again.", token.name));
    Ok(())
}

/// Waits for SIGINT, SIGTERM or SIGHUP. Calls `ready` once the process listens for them.
async fn until_interrupted(ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    ready()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
