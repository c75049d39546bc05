//! `claviger did rotate`: rotates one of our DIDs to a new DID.

use serde_json::{Value, json};

use claviger::{
    did::{Document, Relationship},
    didcomm::FromPrior,
    secrets::KeyUse,
};

use super::create;
use crate::cli::{
    agent_client::AgentClient,
    arguments::check_did,
    config::Config,
    failure::Failure,
    key_name::KeyName,
    output::{Out, count, short},
    own_dids::{own_document, sign_from_prior},
    runtime::block_on,
    tokens::custodian,
    unix_time::unix_time,
};

/// Rotates a DID of ours to a new DID with new keys.
///
/// Without --to, a new DID with the same method and services is made. This command is a custodian, and has the old
/// DID's key sign the rotation in its token. An agent may not. The running agent notifies all peers with a connection,
/// and uses the new DID from then on. Messages to the old DID are read until the overlap is over.
#[derive(clap::Args)]
pub struct Args {
    /// The DID to rotate
    did: String,
    /// The new DID, one of ours; if not given, a new DID is made
    #[arg(long, value_name = "DID", conflicts_with = "token")]
    to: Option<String>,
    /// The token in which the new keys are made, by its name in the configuration; may be given several times
    #[arg(long, value_name = "NAME")]
    token: Vec<String>,
    /// Messages to the old DID are read for this many more days
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(0..=3650))]
    overlap: u16,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let client = AgentClient::new(config)?;
    // Only a running agent can tell the peers. Without one the command fails here, before keys are made.
    block_on(client.get::<Value>("/v1/status"))?;
    let old = own_document(config, &args.did)?;
    let new = match &args.to {
        Some(did) => {
            let new = own_document(config, did)?;
            prove_keys_of(&new, config)?;
            new
        }
        None => create::make(&create::Args::for_successor(&old, &args.token)?, config, out)?.document,
    };
    let from_prior = sign_from_prior(config, &FromPrior::rotation(old.id(), new.id(), unix_time()))?;
    let rotated = block_on(async {
        client.post::<Value>("/v1/dids/reload", &Value::Null).await?;
        let rotate =
            json!({ "from": old.id(), "to": new.id(), "from_prior": from_prior, "overlap_days": args.overlap });
        client.post::<Value>("/v1/dids/rotate", &rotate).await
    });
    let rotated = rotated.map_err(|failure| {
        let again = format!(
            "the agent did not confirm the rotation; try again: claviger did rotate {} --to {}",
            old.id(),
            new.id()
        );
        failure.hint(again)
    })?;
    let peers = rotated["peers"].as_array().map_or(0, Vec::len);
    out.say(&format!("Telling {} of the rotation of {}.", count(peers, "peer"), short(old.id())));
    if out.json {
        return out.document(
            &json!({ "from": old.id(), "to": new.id(), "peers": rotated["peers"], "until": rotated["until"] }),
        );
    }
    out.line(new.id())
}

/// Has the tokens prove each key of the new DID. Peers will use all of them.
fn prove_keys_of(new: &Document, config: &Config) -> Result<(), Failure> {
    let uses = [(Relationship::KeyAgreement, KeyUse::Agreement), (Relationship::Authentication, KeyUse::Signing)];
    for (relationship, usage) in uses {
        for key in new.methods(relationship).filter_map(|method| method.key.as_ref().ok()) {
            custodian::prove_named(config, &KeyName::Public(key.clone()), &key.to_multikey(), usage)?;
        }
    }
    Ok(())
}
