//! The rows of `claviger token list`.

use serde_json::{Value, json};

use claviger::secrets::{
    HeldKey, TokenInfo,
    pkcs11::{PinRecord, PinState},
};

use super::pin_problem::PinProblem;
use crate::cli::{config::TokenConfig, failure::Failure, output::Out};

/// A configured token.
pub struct TokenRow {
    pub name: String,
    pub info: TokenInfo,
    /// The state of the PIN. `None` if the token is absent.
    pub pin: Option<PinState>,
    /// The tries that the PIN has left, if the token says so.
    pub tries: Option<u8>,
    /// The PIN guard's record. `None` if the token is absent.
    pub pin_record: Option<PinRecord>,
    /// The keys in the token.
    pub keys: Result<Vec<HeldKey>, Failure>,
    /// The form factor of a YubiKey, if the YubiKey says so.
    pub form: Option<String>,
    /// What a person does about a locked PIN.
    pub when_locked: String,
}

impl TokenRow {
    /// The row of a token that this configuration cannot open.
    pub fn unusable(token: &TokenConfig, failure: Failure) -> Self {
        let (name, info) = (token.name.clone(), TokenInfo::default());
        let when_locked = String::new();
        Self { name, info, pin: None, tries: None, pin_record: None, keys: Err(failure), form: None, when_locked }
    }

    /// The cells of the table.
    pub fn cells(&self) -> [String; 7] {
        let info = &self.info;
        let pin = match self.pin_problem() {
            Some(problem) => problem.word.to_owned(),
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

    fn pin_problem(&self) -> Option<PinProblem> {
        PinProblem::find(&self.name, self.pin?, self.pin_record.as_ref(), self.keys.is_ok(), &self.when_locked)
    }

    /// Whether [`TokenRow::warn`] warns.
    pub fn has_pin_problem(&self) -> bool {
        self.pin_problem().is_some()
    }

    /// Warns of a problem with the PIN.
    pub fn warn(&self, out: &Out) {
        if let Some(problem) = self.pin_problem() {
            out.warn(&format!("{}: {}", problem.message, problem.hint));
        }
    }

    /// Prints the keys in the slots of a YubiKey.
    pub fn print_slots(&self, keys: &[HeldKey], out: &Out) {
        for held in keys {
            let Some(slot) = held.slot else { continue };
            let (curve, label) = (held.public.curve(), held.label.as_deref().unwrap_or("-"));
            let usage = json!(held.usage);
            let touch = if held.asks_touch { ", needs a touch" } else { "" };
            out.say(&format!(
                "  {} slot {slot}: {curve}, {}, {label}{touch}",
                self.name,
                usage.as_str().unwrap_or_default()
            ));
        }
    }

    /// The JSON form of the row.
    pub fn to_json(&self) -> Value {
        let mut row = json!({
            "name": self.name,
            "label": self.info.label,
            "serial": self.info.serial,
            "manufacturer": self.info.manufacturer,
            "model": self.info.model,
            "firmware": self.info.firmware,
            "pin": self.pin,
            "last_try": self.pin_record.as_ref().map(|record| record.state),
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
