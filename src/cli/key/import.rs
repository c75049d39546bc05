//! `claviger key import`.

use std::{fs, path::PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

use claviger::secrets::{ImportKey, TokenError};

use crate::cli::{
    config::Config,
    failure::Failure,
    keys::to_json,
    output::{Out, count},
    tokens::{self, Management},
};

/// Imports private keys that were made outside: a JWK, an array of them, or a JWK set.
///
/// They are stored sensitive and not extractable, and each is used once to check it. A key that existed outside hardware
/// may have been copied there, and nothing can ever prove otherwise: prefer `key generate`.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// The file with the JWK or the JWKs
    #[arg(long, value_name = "FILE")]
    jwk: PathBuf,
    #[command(flatten)]
    management: Management,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(args.token.as_deref())?;
    let keys = read(args)?;
    let management_key = args.management.read()?;
    let token = tokens::open_patiently(config, configured)?.with(management_key.as_ref());
    let mut imported = Vec::new();
    for key in keys {
        let public = key.public.clone();
        let held = token.import(key).map_err(|error| {
            let failure = Failure::of_token(token.name(), &error);
            let done = match imported.len() {
                0 => "nothing was imported".to_owned(),
                done => format!("{} before it were imported", count(done, "key")),
            };
            let message = format!("{} (the key {public}; {done})", failure.message);
            match error {
                // The configuration is not to blame for a key that is there already.
                TokenError::Config(_) => Failure::new("not-imported", message),
                _ => Failure { message, ..failure },
            }
        })?;
        imported.push(held);
    }
    if out.json {
        out.document(&imported.iter().map(to_json).collect::<Vec<_>>())?;
    } else {
        for held in &imported {
            let label = held.label.as_deref().unwrap_or("-");
            out.line(&format!("{}  {}  {label}", held.public, held.public.curve()))?;
        }
    }
    out.say(&format!(
        "Imported {} into the token {:?}. They existed outside hardware, and can never be proved otherwise: \
         destroy {} and every copy of it.",
        count(imported.len(), "key"),
        token.name(),
        args.jwk.display()
    ));
    Ok(())
}

/// Every key of the file, each checked before the first is imported.
fn read(args: &Args) -> Result<Vec<ImportKey>, Failure> {
    let file = args.jwk.display();
    let text = Zeroizing::new(fs::read(&args.jwk).map_err(|error| Failure::io(&file, &error))?);
    let bad = |said: String| Failure::new("bad-jwk", format!("{file}: {said}"));
    let mut value: Value = serde_json::from_slice(&text)
        .map_err(|error| bad(format!("not JSON (line {}, column {})", error.line(), error.column())))?;
    let keys = match &mut value {
        Value::Array(keys) => std::mem::take(keys),
        Value::Object(members) if members.contains_key("keys") => match members.remove("keys") {
            Some(Value::Array(keys)) => keys,
            _ => return Err(bad("\"keys\" is no array".into())),
        },
        _ => vec![value],
    };
    if keys.is_empty() {
        return Err(bad("there is no key in it".into()));
    }
    let numbered = keys.iter().enumerate().map(|(index, jwk)| match ImportKey::from_jwk(jwk) {
        Ok((key, _)) => Ok(key),
        Err(error) => Err(bad(format!("key {}: {error}", index + 1))),
    });
    numbered.collect()
}
