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
    arguments::check_own_did,
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
    check_own_did(&args.did)?;
    let client = AgentClient::new(config)?;
    // Only a running agent can tell the peers. Without one the command fails here, before keys are made.
    block_on(client.get::<Value>("/v1/status"))?;
    let old = own_document(config, &args.did)?;
    if args.to.is_none() {
        check_not_rotated(&client, old.id())?;
    }
    // Before keys are made in a token that the agent does not serve.
    check_tokens_are_served(args, &client, config)?;
    let new = match &args.to {
        Some(did) => {
            let new = own_document(config, did)?;
            prove_keys_of(&new, config)?;
            check_keys_are_shown(&old, &new, &client)?;
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
        if failure.code == "token-not-served" {
            return failure;
        }
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

/// Checks that a DID that gets a new successor has none. Peers that follow the first would not know the second.
fn check_not_rotated(client: &AgentClient, did: &str) -> Result<(), Failure> {
    let ours = block_on(client.get_all("/v1/dids", "dids"))?;
    let own = ours.iter().find(|own| own["did"] == did);
    let Some(successor) = own.and_then(|own| own["rotated_to"].as_str()) else { return Ok(()) };
    let (old, new) = (short(did), short(successor));
    Err(Failure::usage("bad-arguments", format!("{old} has rotated to {new}")).hint(format!(
        "`claviger did rotate {new}` goes on from there; `claviger did rotate {old} --to {new} --overlap DAYS` changes the overlap"
    )))
}

/// Checks that the running agent serves the tokens in which keys are to be made.
fn check_tokens_are_served(args: &Args, client: &AgentClient, config: &Config) -> Result<(), Failure> {
    if args.to.is_some() {
        return Ok(());
    }
    let status: Value = block_on(client.get("/v1/tokens/status"))?;
    let served = served_tokens(&status);
    let wanted = match args.token.as_slice() {
        [] => vec![config.token(None)?.name.as_str()],
        named => named.iter().map(String::as_str).collect(),
    };
    for name in wanted {
        config.token(Some(name))?.check()?;
        if !served.contains(&name) {
            let message = format!(
                "the running agent does not serve the token {name:?}, so it could not read messages to a DID in it"
            );
            return Err(not_served(message, &served.join(", "), "the same command then makes the DID"));
        }
    }
    Ok(())
}

/// Checks that the tokens of the running agent have shown the keys of the new DID.
fn check_keys_are_shown(old: &Document, new: &Document, client: &AgentClient) -> Result<(), Failure> {
    block_on(client.post::<Value>("/v1/dids/reload", &Value::Null))?;
    let status: Value = block_on(client.get("/v1/tokens/status"))?;
    let missing = create::unseen_keys(new, &status);
    if missing == 0 {
        return Ok(());
    }
    let served = served_tokens(&status);
    let message = format!(
        "the tokens of the running agent have not shown {} of {}, so it could not read messages to the DID",
        count(missing, "key"),
        short(new.id())
    );
    let then = format!("then `claviger did rotate {} --to {}`", old.id(), new.id());
    Err(not_served(message, &served.join(", "), &then))
}

/// The names of the tokens that the running agent serves.
fn served_tokens(status: &Value) -> Vec<&str> {
    status["tokens"].as_array().into_iter().flatten().filter_map(|token| token["name"].as_str()).collect()
}

fn not_served(message: String, served: &str, then: &str) -> Failure {
    Failure::new("token-not-served", format!("{message}. Nothing was changed")).hint(format!(
        "the agent serves the tokens that its configuration named when it was started ({served}): restart it with this \
         configuration; {then}"
    ))
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
