//! The tokens of this machine, for who has no configuration yet.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use claviger::secrets::pkcs11::{self, PinState, SlotToken, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[cfg(feature = "yubikey")]
use super::piv;
use crate::cli::{
    config::Config,
    failure::Failure,
    output::{Out, printable},
    pkcs11_modules, runtime, this_program,
};

/// How long a module may take to list its tokens.
const LIMIT: Duration = Duration::from_secs(10);

/// A token in a slot of a PKCS#11 module.
#[derive(Serialize, Deserialize)]
struct ModuleToken {
    module: PathBuf,
    slot: u64,
    label: String,
    serial: String,
    manufacturer: String,
    model: String,
    firmware: String,
    initialized: bool,
    pin: PinState,
    uri: String,
}

/// Lists the tokens of this machine, with lines to paste into claviger.toml.
pub fn list(config: &Config, out: &Out) -> Result<(), Failure> {
    let mut found = Vec::new();
    for module in pkcs11_modules::installed() {
        found.extend(ask(&module, out)?);
    }
    #[cfg(feature = "yubikey")]
    let yubikeys = piv::connected(out);
    #[cfg(not(feature = "yubikey"))]
    let yubikeys: Vec<(Value, String)> = Vec::new();
    if out.json {
        let rows = found.iter().map(|token| json!(token));
        return out.document(&rows.chain(yubikeys.into_iter().map(|(row, _)| row)).collect::<Vec<Value>>());
    }
    out.say(match &config.file {
        Some(_) => "The configuration names no token. On this machine there are:",
        None => "There is no configuration yet. On this machine there are:",
    });
    if found.is_empty() && yubikeys.is_empty() {
        out.say("no PKCS#11 tokens. `apt-get install softhsm2` installs a software token, to try things out.");
    }
    let lines = found.iter().map(ModuleToken::configuration_lines);
    lines.chain(yubikeys.into_iter().map(|(_, lines)| lines)).try_for_each(|lines| out.line(&lines))
}

/// Lists the tokens of one module.
pub fn list_module(module: &Path, out: &Out) -> Result<(), Failure> {
    let tokens = pkcs11::tokens(module).map_err(|error| {
        // The error names the module.
        Failure { message: error.to_string(), ..Failure::from_token("", &error) }
    })?;
    let tokens: Vec<_> = tokens.into_iter().map(|token| ModuleToken::new(module, token)).collect();
    if out.json {
        return out.document(&tokens);
    }
    if tokens.is_empty() {
        out.say(&format!("The module {} has no tokens.", module.display()));
    }
    tokens.iter().try_for_each(|token| out.line(&token.configuration_lines()))
}

/// Asks a module for its tokens, in a process of its own: nobody chose the module for Claviger, and a module may crash,
/// or wait for ever for a card that another program uses.
fn ask(module: &Path, out: &Out) -> Result<Vec<ModuleToken>, Failure> {
    let mut command = tokio::process::Command::from(this_program::command()?);
    command.args(["--json", "token", "list", "--module"]).arg(module).stdin(Stdio::null()).kill_on_drop(true);
    let output = runtime::block_on(async { Ok(tokio::time::timeout(LIMIT, command.output()).await) })?;
    let left_out = |reason: String| out.warn(&format!("the PKCS#11 module {} is left out: {reason}", module.display()));
    let output = match output {
        Ok(output) => output.map_err(|error| Failure::io("this program", &error))?,
        Err(_) => {
            left_out(format!("it did not list its tokens within {} s", LIMIT.as_secs()));
            return Ok(Vec::new());
        }
    };
    let error = this_program::error_message(&output.stderr);
    match (serde_json::from_slice(&output.stdout), error) {
        (Ok(tokens), _) => return Ok(tokens),
        (Err(_), Some(error)) => tracing::info!(module = %module.display(), error, "PKCS#11 module skipped"),
        (Err(_), None) => left_out(format!("the process that asked it ended without its tokens ({})", output.status)),
    }
    Ok(Vec::new())
}

impl ModuleToken {
    fn new(module: &Path, token: SlotToken) -> Self {
        Self {
            uri: uri(module, &token.info.label, &token.info.serial),
            module: module.to_owned(),
            slot: token.slot_id,
            label: token.info.label,
            serial: token.info.serial,
            manufacturer: token.info.manufacturer,
            model: token.info.model,
            firmware: token.info.firmware,
            initialized: token.initialized,
            pin: token.pin,
        }
    }

    /// The lines for the token in claviger.toml.
    fn configuration_lines(&self) -> String {
        let slot = self.slot;
        let serial = if self.serial.is_empty() { String::new() } else { format!(", serial {}", self.serial) };
        // A line feed would end the comment.
        let what = printable(&format!("# {} {}{serial}, slot {slot}", self.manufacturer, self.model));
        if !self.initialized {
            let uri = uri(&self.module, "NAME", &self.serial);
            return format!(
                "{what}: not initialised. With these lines, `claviger token init NAME --slot-id {slot}` initialises it.\n\
                 # [[token]]\n\
                 # name = \"NAME\"\n# uri = \"{uri}\"\n"
            );
        }
        let pin = match self.pin {
            PinState::Ready => "",
            PinState::CountLow => "; a wrong PIN was given",
            PinState::FinalTry => "; ITS PIN HAS ONE TRY LEFT",
            PinState::Locked => "; its PIN is locked",
        };
        // TOML understands all escapes of JSON.
        format!("{what}{pin}\n[[token]]\nname = {}\nuri = \"{}\"\n", json!(self.label), self.uri)
    }
}

fn uri(module: &Path, label: &str, serial: &str) -> String {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut uri = Uri::default();
    uri.token = given(label);
    uri.serial = given(serial);
    uri.module_path = module.to_str().map(str::to_owned);
    uri.pin_source = Some("prompt".to_owned());
    uri.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the token calls itself, the lines are its table and nothing else.
    #[test]
    fn a_token_writes_no_line_of_its_own() {
        let label = "it's \"a\"\u{1b}[2J\nuri = \"x\"";
        let token = ModuleToken {
            uri: uri(Path::new("/m.so"), label, "1"),
            module: "/m.so".into(),
            slot: 0,
            label: label.to_owned(),
            serial: "1".to_owned(),
            manufacturer: "a\n[[token]]\nname = \"b\"".to_owned(),
            model: "c".to_owned(),
            firmware: String::new(),
            initialized: true,
            pin: PinState::Ready,
        };
        let lines = token.configuration_lines();
        let parsed: toml::Table = lines.parse().unwrap_or_else(|error| panic!("{error}: {lines}"));
        assert_eq!(parsed["token"].as_array().unwrap().len(), 1, "{lines}");
        assert_eq!(parsed["token"][0]["name"].as_str(), Some(label));
        assert_eq!(lines.lines().count(), 4, "{lines}");
        assert!(!lines.contains('\u{1b}'), "{lines}");
    }
}
