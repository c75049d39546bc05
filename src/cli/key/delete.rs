//! `claviger key delete`.

use serde_json::json;

use claviger::secrets::HeldKey;

use crate::cli::{
    config::Config,
    confirm::{NEVER_AGAIN, confirm},
    failure::Failure,
    keys::{KeyName, kids, to_json},
    output::Out,
    own::Own,
    tokens::{self, Management},
    wait,
};

/// Deletes a key pair. What was encrypted to it can never be read again.
#[derive(clap::Args)]
pub struct Args {
    /// The key: its name, multikey, JWK thumbprint or DID URL
    key: String,
    /// Does not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    management: Management,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let name = KeyName::parse(&args.key)?;
    let own = Own::load(config)?;
    let management_key = args.management.read()?;
    // A key may be named by a DID URL that is its label only: then it resolves to nothing.
    let resolved = wait(name.clone().resolve(&own));
    let name = match resolved {
        Ok(name) => name,
        Err(_) => name,
    };
    let (token, held) = tokens::holding(config, &name, &args.key)?;
    if !args.yes {
        confirm(&question(&held, &kids(&own.documents, &held.public)))?;
    }
    let token = token.with(management_key.as_ref());
    token.delete(&held.public).map_err(|error| Failure::of_token(token.name(), &error))?;
    out.say(&format!("Deleted from the token {:?}: {}", token.name(), held.public));
    if out.json {
        return out.document(&json!({ "deleted": to_json(&held) }));
    }
    Ok(())
}

/// What is asked, with what hangs on it.
fn question(held: &HeldKey, kids: &[String]) -> String {
    let label = held.label.as_deref().map(|label| format!(" {label:?}")).unwrap_or_default();
    let key = format!("The key{label} {} ({}) in the token {:?}\n", held.public, held.public.curve(), held.token);
    let kids: String = kids.iter().map(|kid| format!("  is used as {kid}\n")).collect();
    format!("{key}{kids}{NEVER_AGAIN} Delete it?")
}
