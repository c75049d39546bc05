//! `claviger key import`: imports private keys from JWKs into a token.

use std::{fs, path::PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

use claviger::secrets::{ImportKey, TokenError};

use crate::cli::{
    config::Config,
    failure::Failure,
    key_name::held_key_json,
    output::{Out, count},
    tokens::custodian::{self, ManagementKeyArgs},
};

/// Imports private keys: a JWK, an array of JWKs, or a JWK set.
///
/// `use` and `key_ops` of a JWK are honoured; a NIST key without them is imported for both uses. The keys are stored
/// sensitive and not extractable, and each is tested by using it once. A key that existed outside hardware may have
/// been copied there, and nothing can ever prove otherwise: prefer `key generate`.
#[derive(clap::Args)]
pub struct Args {
    /// The token's name in the configuration; without it, the only token
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// The file with the JWKs
    #[arg(long, value_name = "FILE")]
    jwk: PathBuf,
    #[command(flatten)]
    management: ManagementKeyArgs,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let configured = config.token(args.token.as_deref())?;
    let keys = read(args)?;
    let management_key = args.management.read()?;
    let token = custodian::open_or_wait(config, configured)?.with_management_key(management_key.as_ref());
    let mut imported = Vec::new();
    for key in keys {
        let public = key.public.clone();
        let held = token.import(key).map_err(|error| {
            let failure = Failure::from_token(token.name(), &error);
            let done = match imported.len() {
                0 => "nothing was imported".to_owned(),
                done => format!("{} before it were imported", count(done, "key")),
            };
            let message = format!("{} (the key {public}; {done})", failure.message);
            match error {
                // For example, the key is in the token already: the configuration is not at fault.
                TokenError::Config(_) => Failure::new("not-imported", message),
                _ => Failure { message, ..failure },
            }
        })?;
        imported.push(held);
    }
    if out.json {
        out.document(&imported.iter().map(held_key_json).collect::<Vec<_>>())?;
    } else {
        for held in &imported {
            let label = held.label.as_deref().unwrap_or("-");
            out.line(&format!("{}  {}  {label}", held.public, held.public.curve()))?;
        }
    }
    out.say(&format!(
        "Imported {} into the token {:?}. They existed outside hardware, and nothing can prove that no copy exists: \
         destroy {} and every copy of it.",
        count(imported.len(), "key"),
        token.name(),
        args.jwk.display()
    ));
    Ok(())
}

/// Reads the keys of the file. All are checked before the first is imported.
fn read(args: &Args) -> Result<Vec<ImportKey>, Failure> {
    let file = args.jwk.display();
    let text = Zeroizing::new(fs::read(&args.jwk).map_err(|error| Failure::io(&file, &error))?);
    let bad = |message: String| Failure::new("bad-jwk", format!("{file}: {message}"));
    let mut value: Value = serde_json::from_slice(&text)
        .map_err(|error| bad(format!("not JSON (line {}, column {})", error.line(), error.column())))?;
    let keys = match &mut value {
        Value::Array(keys) => std::mem::take(keys),
        Value::Object(members) if members.contains_key("keys") => match members.remove("keys") {
            Some(Value::Array(keys)) => keys,
            _ => return Err(bad("\"keys\" is not an array".into())),
        },
        _ => vec![value],
    };
    if keys.is_empty() {
        return Err(bad("the file has no key".into()));
    }
    let numbered = keys.iter().enumerate().map(|(index, jwk)| match ImportKey::from_jwk(jwk) {
        Ok((key, _)) => Ok(key),
        Err(error) => Err(bad(format!("key {}: {error}", index + 1))),
    });
    numbered.collect()
}
