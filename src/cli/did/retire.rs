//! `claviger did retire`: deletes the keys of a DID that was rotated.

use serde_json::{Value, json};

use claviger::keys::PublicKey;

use super::fetch;
use crate::cli::{
    agent_client::{AgentClient, reload_own_dids},
    arguments::check_own_did,
    config::Config,
    confirm::{DELETE_WARNING, confirm},
    failure::Failure,
    key_name::KeyName,
    output::{Out, count, short},
    own_dids::{OwnDids, own_document},
    runtime::block_on,
    state_dir::StateDir,
    tokens::custodian::{self, ManagementKeyArgs},
    unix_time::{date_and_minute, unix_time},
};

/// Deletes the keys of a DID that was rotated, after its overlap.
///
/// Messages that are encrypted to the DID can never be read again. The command fails before the overlap is over, and
/// while messages to the DID wait. First, the running agent makes sure that it can open its store with the keys of
/// other DIDs. Keys that another DID of ours uses are not deleted, nor is the update key of another did:webvh. The
/// document is moved to `retired/` in the state folder, and the document of a did:web is no longer served. Other agents on the
/// same store give the DID up too.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"did", "deleted"}."#)]
pub struct Args {
    /// The DID that was rotated
    did: String,
    /// Does not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    management: ManagementKeyArgs,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    check_own_did(&args.did)?;
    let management_key = args.management.read()?;
    let old = own_document(config, &args.did)?;
    let client = AgentClient::new(config)?;
    fetch::check_current(config, &old)?;
    check_overlap(&client, old.id())?;
    let state = StateDir::new(config.state_dir.clone());
    let file = state.file_of(&old).ok_or_else(|| {
        let message = format!("{} was not made by claviger: its document is not in the state folder", short(old.id()));
        Failure::new("not-ours", message).hint("`claviger key delete` deletes a key")
    })?;
    // The update key of another did:webvh is in no document.
    let logs = state.logs()?;
    let is_update_key = |key: &PublicKey| {
        let mut others = logs.iter().filter(|log| log.document().id() != old.id());
        others.any(|log| log.update_keys().contains(key) || log.has_committed_to(key))
    };
    let mut keys = old.own_keys(&OwnDids::load(config)?.documents);
    keys.retain(|key| !is_update_key(key));
    if !args.yes {
        let keys = count(keys.len(), "key");
        confirm(&format!(
            "{} has {keys} that no other DID uses.\n{DELETE_WARNING} Backups from before its rotation can then not be opened, if \
             no other DID of ours was there. Delete them?",
            short(old.id())
        ))?;
    }
    // After this call, only keys of other DIDs unwrap the store key.
    let given_up = block_on(client.post::<Value>("/v1/dids/give-up", &json!({ "did": old.id() })));
    given_up.map_err(|failure| match failure.message.ends_with("is not one of our DIDs") {
        true => failure.hint(format!(
            "the agent refuses the DID if its keys are in no token (`claviger status`); if they are lost for good, move {} to \
             another folder, and restart the agent",
            file.display()
        )),
        false => failure,
    })?;
    let mut deleted = Vec::new();
    for key in &keys {
        let text = key.to_string();
        // An imported key may be in several tokens.
        loop {
            match custodian::open_holder(config, &KeyName::Public(key.clone()), &text) {
                Ok((token, held)) => {
                    let token = token.with_management_key(management_key.as_ref());
                    token.delete(&held).map_err(|error| Failure::from_token(token.name(), &error))?;
                }
                Err(failure) if failure.code == "key-unknown" || deleted.contains(&text) => break,
                Err(failure) => return Err(failure.hint("run the same command again to delete the remaining keys")),
            }
            if !deleted.contains(&text) {
                deleted.push(text.clone());
            }
        }
    }
    state.move_to_retired(&file)?;
    reload_own_dids(config, None);
    out.say(&format!("{} is retired; deleted: {}.", short(old.id()), count(deleted.len(), "key")));
    if out.json { out.document(&json!({ "did": old.id(), "deleted": deleted })) } else { Ok(()) }
}

/// Fails before a person is asked, if the agent would refuse: the DID was not rotated, or its overlap is not over. A DID that the
/// agent does not list any more has ended its overlap.
fn check_overlap(client: &AgentClient, did: &str) -> Result<(), Failure> {
    let ours = block_on(client.get_all("/v1/dids", "dids"))?;
    let Some(own) = ours.iter().find(|own| own["did"] == did) else { return Ok(()) };
    let name = short(did);
    match (own["rotated_to"].as_str(), own["read_until"].as_i64()) {
        (Some(successor), Some(until)) if until / 1000 > unix_time() => {
            let message = format!("messages to {name} are read until {}", date_and_minute(until));
            let earlier = format!("`claviger did rotate {name} --to {} --overlap 0` ends that now", short(successor));
            Err(Failure::new("bad-message", message).hint(format!("retire it after that; {earlier}")))
        }
        (None, _) if own.get("rotated_to").is_some() => {
            Err(Failure::new("bad-message", format!("{name} has not rotated to another DID"))
                .hint(format!("`claviger did rotate {name}` makes another DID, and tells the peers")))
        }
        _ => Ok(()),
    }
}
