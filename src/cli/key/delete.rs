//! `claviger key delete`: deletes a key pair from its token.

use serde_json::json;

use claviger::secrets::{HeldKey, Slot};

use crate::cli::{
    config::Config,
    confirm::{DELETE_WARNING, confirm},
    failure::Failure,
    key_name::{KeyName, held_key_json, key_ids},
    output::Out,
    own_dids::OwnDids,
    runtime::block_on,
    tokens::custodian::{self, ManagementKeyArgs},
};

/// Deletes a key pair. Messages that are encrypted to it can never be read again.
///
/// If a YubiKey holds one key in several slots, the slot that the name or --slot names is emptied, and no other.
#[derive(clap::Args)]
pub struct Args {
    /// The key: its name, multikey, JWK thumbprint or DID URL
    key: String,
    /// The slot of a YubiKey, for a key that is in several
    #[arg(long)]
    slot: Option<Slot>,
    /// Does not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    management: ManagementKeyArgs,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let name = KeyName::parse(&args.key)?;
    let own = OwnDids::load(config)?;
    let management_key = args.management.read()?;
    // The label of an imported key may be a DID URL that does not resolve.
    let name = block_on(name.clone().resolve(&own.resolver)).unwrap_or(name);
    let (token, held) = custodian::open_holder(config, &name, &args.key)?;
    let held = match (held.slot, args.slot) {
        (None, None) => held,
        _ => in_slot(&token.inventory()?, &name, &held, args)?,
    };
    if !args.yes {
        confirm(&question(&held, &key_ids(&own.documents, &held.public)))?;
    }
    let token = token.with_management_key(management_key.as_ref());
    token.delete(&held).map_err(|error| Failure::from_token(token.name(), &error))?;
    let slot = held.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    out.say(&format!("Deleted from the token {:?}{slot}: {}", token.name(), held.public));
    if out.json {
        return out.document(&json!({ "deleted": held_key_json(&held) }));
    }
    Ok(())
}

/// The one slot of a YubiKey that is meant: a private key may have been imported into several.
fn in_slot(keys: &[HeldKey], name: &KeyName, found: &HeldKey, args: &Args) -> Result<HeldKey, Failure> {
    let is_meant = |held: &&HeldKey| {
        held.public == found.public && name.matches(held) && args.slot.is_none_or(|slot| held.slot == Some(slot))
    };
    let meant: Vec<&HeldKey> = keys.iter().filter(is_meant).collect();
    match meant[..] {
        [held] => Ok(held.clone()),
        [] => {
            let slot = args.slot.map(|slot| format!(" in slot {slot}")).unwrap_or_default();
            Err(Failure::new("key-unknown", format!("the token {:?} holds no key {:?}{slot}", found.token, args.key))
                .hint("`claviger token list` shows the slots and their keys"))
        }
        _ => {
            let slots: Vec<String> = meant.iter().filter_map(|held| Some(held.slot?.to_string())).collect();
            let message = format!("the key {:?} is in the slots {}", args.key, slots.join(" and "));
            Err(Failure::usage("key-ambiguous", message).hint("--slot names the slot to empty"))
        }
    }
}

/// The question to confirm, with the key IDs that will stop working.
fn question(held: &HeldKey, kids: &[String]) -> String {
    let label = held.label.as_deref().map(|label| format!(" {label:?}")).unwrap_or_default();
    let slot = held.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let (public, curve) = (&held.public, held.public.curve());
    let key = format!("The key{label} {public} ({curve}) in the token {:?}{slot}\n", held.token);
    let kids: String = kids.iter().map(|kid| format!("  is used as {kid}\n")).collect();
    format!("{key}{kids}{DELETE_WARNING} Delete it?")
}
