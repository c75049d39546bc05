//! `claviger did retire`.

use serde_json::{Value, json};

use claviger::keys::PublicKey;

use super::rotate::own;
use crate::cli::{
    app::{Client, tell_of_new_did},
    config::Config,
    confirm::{NEVER_AGAIN, confirm},
    failure::Failure,
    keys::KeyName,
    output::{Out, count, short},
    own::{Own, check_did},
    state::State,
    tokens::{self, Management},
    wait,
};

/// Deletes the keys of a DID that has moved, once its overlap is over.
///
/// What was encrypted to it can never be read again. Keys that another DID of ours has too stay.
#[derive(clap::Args)]
pub struct Args {
    /// The DID that has moved
    did: String,
    /// Does not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    management: Management,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let management_key = args.management.read()?;
    let old = own(config, &args.did)?;
    let state = State::new(config.state_dir.clone());
    let file = state.file_of(&old).ok_or_else(|| {
        let said = format!("{} was not made here: its document is not in the state folder", short(old.id()));
        Failure::new("not-ours", said).hint("`claviger key delete` deletes a key")
    })?;
    // A key that changes another did:webvh stands in no document.
    let logs = state.logs()?;
    let changes = |key: &PublicKey| {
        let mut others = logs.iter().filter(|log| log.document().id() != old.id());
        others.any(|log| log.update_keys().contains(key) || log.has_committed_to(key))
    };
    let mut keys = old.own_keys(&Own::load(config)?.documents);
    keys.retain(|key| !changes(key));
    if !args.yes {
        let of_its_own = count(keys.len(), "key");
        confirm(&format!("{}: {of_its_own} of its own\n{NEVER_AGAIN} Delete them?", old.id()))?;
    }
    // It knows when the overlap is over, and has the store opened by other keys from now on.
    let client = Client::new(config)?;
    wait(client.post::<Value>("/v1/dids/give-up", &json!({ "did": old.id() })))?;
    let mut deleted = Vec::new();
    for key in &keys {
        let text = key.to_string();
        // A key that was imported may be in more than one token that is there.
        loop {
            match tokens::holding(config, &KeyName::Public(key.clone()), &text) {
                Ok((token, _)) => {
                    let token = token.with(management_key.as_ref());
                    token.delete(key).map_err(|error| Failure::of_token(token.name(), &error))?;
                }
                Err(failure) if failure.code == "key-unknown" || deleted.contains(&text) => break,
                Err(failure) => return Err(failure.hint("what was not deleted is by the same command, run again")),
            }
            if !deleted.contains(&text) {
                deleted.push(text.clone());
            }
        }
    }
    state.put_aside(&file)?;
    tell_of_new_did(config);
    out.say(&format!("{} is ours no more; deleted: {}.", short(old.id()), count(deleted.len(), "key")));
    if out.json { out.document(&json!({ "did": old.id(), "deleted": deleted })) } else { Ok(()) }
}
