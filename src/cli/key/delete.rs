//! `claviger key delete`: deletes a key pair from its token.

use serde_json::json;

use claviger::secrets::HeldKey;

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
#[derive(clap::Args)]
pub struct Args {
    /// The key: its name, multikey, JWK thumbprint or DID URL
    key: String,
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
    if !args.yes {
        confirm(&question(&held, &key_ids(&own.documents, &held.public)))?;
    }
    let token = token.with_management_key(management_key.as_ref());
    token.delete(&held.public).map_err(|error| Failure::from_token(token.name(), &error))?;
    out.say(&format!("Deleted from the token {:?}: {}", token.name(), held.public));
    if out.json {
        return out.document(&json!({ "deleted": held_key_json(&held) }));
    }
    Ok(())
}

/// The question to confirm, with the key IDs that will stop working.
fn question(held: &HeldKey, kids: &[String]) -> String {
    let label = held.label.as_deref().map(|label| format!(" {label:?}")).unwrap_or_default();
    let key = format!("The key{label} {} ({}) in the token {:?}\n", held.public, held.public.curve(), held.token);
    let kids: String = kids.iter().map(|kid| format!("  is used as {kid}\n")).collect();
    format!("{key}{kids}{DELETE_WARNING} Delete it?")
}
