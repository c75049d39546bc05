//! `claviger token list`.

use serde_json::{Value, json};

use claviger::secrets::{
    HeldKey, TokenInfo,
    pkcs11::{self, PinMemory, PinOutcome, PinState, SeenToken, Uri},
};

use super::modules;
#[cfg(feature = "yubikey")]
use super::piv;
use crate::cli::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{DIM, Out},
    pin,
    table::Table,
    tokens,
};

pub fn run(config: &Config, out: &Out) -> Result<(), Failure> {
    if config.tokens.is_empty() {
        return of_the_machine(config, out);
    }
    let rows = config.tokens.iter().map(|token| match tokens::is_yubikey(token) {
        #[cfg(feature = "yubikey")]
        true => piv::row(config, token),
        _ => Ok(configured(config, token, &tokens::check_uri(token)?)),
    });
    let rows = rows.collect::<Result<Vec<Row>, Failure>>()?;
    if out.json {
        rows.iter().for_each(|row| row.warn(out));
        return out.document(&rows.iter().map(Row::to_json).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["NAME", "LABEL", "SERIAL", "MODEL", "FIRMWARE", "PIN", "KEYS"]);
    for row in &rows {
        table.row(row.cells());
    }
    out.line(&table.render())?;
    for row in &rows {
        match &row.keys {
            Ok(keys) => row.say_slots(keys, out),
            Err(failure) => out.say(&format!("{DIM}{}{DIM:#}", failure.message)),
        }
        row.warn(out);
    }
    Ok(())
}

/// A configured token.
pub struct Row {
    pub name: String,
    pub info: TokenInfo,
    /// What it says of its PIN; none if it is not there.
    pub pin: Option<PinState>,
    /// How many tries its PIN has left, if it says so.
    pub tries: Option<u8>,
    /// What the PIN's guard remembers; none if the token is not there.
    pub remembered: Option<PinMemory>,
    /// The keys it holds, once logged in.
    pub keys: Result<Vec<HeldKey>, Failure>,
    /// What a YubiKey looks like, if it says so.
    pub form: Option<String>,
}

/// Logs in, for the keys are seen by none else. That the PIN is refused is seen then as well; it is not tried again.
fn configured(config: &Config, token: &TokenConfig, uri: &Uri) -> Row {
    let name = token.name.clone();
    // A person is not asked for a list.
    let attended = uri.pin_value.is_none() && uri.pin_source.as_deref().is_none_or(pin::asks);
    let opened = if attended {
        let said = format!("the token {name:?} asks a person for its PIN: its keys are not counted");
        Err(Failure::not_ready("pin-needed", said))
    } else {
        tokens::open_here(config, token, false)
    };
    let info = opened.as_ref().ok().map(|opened| opened.info());
    let keys = opened.and_then(|opened| opened.inventory().map_err(|error| Failure::of_token(&name, &error)));
    let seen = seen(config, uri);
    let pin = seen.as_ref().map(|seen| seen.pin);
    // What cannot be read was told when the token was not opened.
    let remembered = seen.as_ref().and_then(|seen| tokens::options(config, token).ok()?.pin_memory(&seen.info).ok()?);
    let info = info.or(seen.map(|seen| seen.info)).unwrap_or_default();
    Row { name, info, pin, tries: None, remembered, keys, form: None }
}

/// What a token shows without a login.
fn seen(config: &Config, uri: &Uri) -> Option<SeenToken> {
    let tokens = pkcs11::tokens(config.base.join(uri.module_path.as_ref()?)).ok()?;
    let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    tokens
        .into_iter()
        .find(|token| token.initialized && fits(&uri.token, &token.info.label) && fits(&uri.serial, &token.info.serial))
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let info = &self.info;
        let pin = match self.trouble() {
            Some(trouble) => trouble.word.to_owned(),
            None => json!(self.pin).as_str().unwrap_or_default().to_owned(),
        };
        let pin = match self.tries {
            Some(tries) => {
                format!("{pin}, {} left", if tries == 1 { "1 try".into() } else { format!("{tries} tries") })
            }
            None => pin,
        };
        let keys = self.keys.as_ref().map(|keys| keys.len().to_string()).unwrap_or_default();
        let mut model = [info.manufacturer.as_str(), &info.model].join(" ").trim().to_owned();
        if let Some(form) = &self.form {
            model = format!("{model} ({form})");
        }
        [self.name.clone(), info.label.clone(), info.serial.clone(), model, info.firmware.clone(), pin, keys]
    }

    fn trouble(&self) -> Option<PinTrouble> {
        PinTrouble::of(&self.name, self.pin?, self.remembered.as_ref(), self.keys.is_ok())
    }

    fn warn(&self, out: &Out) {
        if let Some(trouble) = self.trouble() {
            out.warn(&format!("{}: {}", trouble.said, trouble.hint));
        }
    }

    /// What is in the slots of a YubiKey.
    fn say_slots(&self, keys: &[HeldKey], out: &Out) {
        for held in keys {
            let Some(slot) = held.slot else { continue };
            let (curve, label) = (held.public.curve(), held.label.as_deref().unwrap_or("-"));
            let usage = json!(held.usage);
            let touch = if held.asks_touch { ", wants a touch" } else { "" };
            out.say(&format!(
                "  {} slot {slot}: {curve}, {}, {label}{touch}",
                self.name,
                usage.as_str().unwrap_or_default()
            ));
        }
    }

    fn to_json(&self) -> Value {
        let mut row = json!({
            "name": self.name,
            "label": self.info.label,
            "serial": self.info.serial,
            "manufacturer": self.info.manufacturer,
            "model": self.info.model,
            "firmware": self.info.firmware,
            "pin": self.pin,
            "last_try": self.remembered.as_ref().map(|memory| memory.state),
            "keys": self.keys.as_ref().ok().map(Vec::len),
            "error": self.keys.as_ref().err().map(|failure| failure.to_json()["error"].clone()),
        });
        if let Some(tries) = self.tries {
            row["pin_tries"] = tries.into();
            row["form"] = json!(self.form);
            let keys = self.keys.iter().flatten();
            row["slots"] = keys
                .map(|held| {
                    json!({
                        "slot": held.slot.map(|slot| slot.to_string()),
                        "name": held.label,
                        "key": held.public.to_multikey(),
                        "algorithm": held.public.curve().name(),
                        "use": held.usage,
                        "touch": held.asks_touch,
                    })
                })
                .collect();
        }
        row
    }
}

/// Why no PIN is tried.
pub struct PinTrouble {
    /// In a word.
    pub word: &'static str,
    pub said: String,
    /// What to do.
    pub hint: String,
}

impl PinTrouble {
    /// By what the token shows, what the PIN's guard remembers, and whether the token was opened.
    pub fn of(name: &str, shown: PinState, remembered: Option<&PinMemory>, opened: bool) -> Option<Self> {
        let once = format!("`claviger token unlock {name}` tries it once");
        let (word, said, hint) = match (shown, remembered.map(|memory| memory.state)) {
            (PinState::Locked, _) => {
                ("LOCKED", format!("THE PIN OF {name} IS LOCKED"), "its security officer sets a new one".to_owned())
            }
            (_, Some(PinOutcome::Locked)) => (
                "LOCKED-HERE",
                format!("{name} was locked by `claviger token lock`"),
                format!("`claviger token unlock {name}` ends that"),
            ),
            (_, Some(PinOutcome::Refused)) => (
                "REFUSED",
                format!("THE PIN OF {name} WAS REFUSED and is not tried again"),
                format!("mend its source, or {once}"),
            ),
            (_, Some(PinOutcome::Trying)) if !opened => {
                ("UNFINISHED", format!("what came of the last try of the PIN of {name} is not known"), once)
            }
            (PinState::FinalTry, _) => ("FINAL-TRY", format!("THE PIN OF {name} HAS ONE TRY LEFT"), once),
            (PinState::CountLow, _) => {
                ("COUNT-LOW", format!("a wrong PIN was given to {name} since the last right one"), once)
            }
            (PinState::Ready, _) => return None,
        };
        Some(Self { word, said, hint })
    }
}

/// Without a configuration: what the modules of this machine have, with lines to paste.
fn of_the_machine(config: &Config, out: &Out) -> Result<(), Failure> {
    let mut found = Vec::new();
    for module in modules::installed() {
        match pkcs11::tokens(&module) {
            Ok(tokens) => found.extend(tokens.into_iter().map(|token| (module.clone(), token))),
            Err(error) => tracing::info!(%error, "a module is passed over"),
        }
    }
    #[cfg(feature = "yubikey")]
    let yubikeys = piv::here();
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
        out.say("no PKCS#11 tokens. `apt-get install softhsm2` gives one in software, to try things out.");
    }
    for (module, token) in &found {
        out.line(&paste(module, token))?;
    }
    for (_, lines) in &yubikeys {
        out.line(lines)?;
    }
    Ok(())
}

/// The lines of a token for claviger.toml.
fn paste(module: &std::path::Path, token: &SeenToken) -> String {
    let info = &token.info;
    let serial = if info.serial.is_empty() { String::new() } else { format!(", serial {}", info.serial) };
    let what = format!("# {} {}{serial}, slot {}", info.manufacturer, info.model, token.slot_id);
    if !token.initialized {
        let slot = token.slot_id;
        let mut uri = uri(module, token);
        uri.token = Some("NAME".to_owned());
        return format!(
            "{what}: not initialised. With these lines `claviger token init NAME --slot-id {slot}` does it.\n# [[token]]\n\
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

fn uri(module: &std::path::Path, token: &SeenToken) -> Uri {
    let mut uri = Uri::default();
    uri.token = Some(token.info.label.clone()).filter(|label| !label.is_empty());
    uri.serial = Some(token.info.serial.clone()).filter(|serial| !serial.is_empty());
    uri.module_path = module.to_str().map(str::to_owned);
    uri.pin_source = Some("prompt".to_owned());
    uri
}
