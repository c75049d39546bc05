//! `claviger did rotate`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use claviger::{
    did::Document,
    didcomm::{FromPrior, Identities},
    secrets::keeper::Role,
};

use super::create;
use crate::cli::{
    app::Client,
    config::Config,
    failure::Failure,
    keeper,
    output::{Out, count, short},
    own::{Own, check_did},
    tokens, wait,
};

/// Moves a DID of ours to a new one, with new keys.
///
/// The new DID is of the same method and has the same services, unless --to names one. The old one signs, in its token, that it
/// moves; the running agent tells everyone it talks with, and goes on under the new one. What is sent to the old one is still
/// read for the overlap.
#[derive(clap::Args)]
pub struct Args {
    /// The DID that moves
    did: String,
    /// The DID that it moves to, one of ours; without, it is made
    #[arg(long, value_name = "DID", conflicts_with = "token")]
    to: Option<String>,
    /// The token in which the new keys are made, by its name in the configuration; may be given several times
    #[arg(long, value_name = "NAME")]
    token: Vec<String>,
    /// The old DID is read for so many days more
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(0..=3650))]
    overlap: u16,
}

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let client = Client::new(config)?;
    // Before keys are made: without an agent nobody would be told.
    wait(client.get::<Value>("/v1/status"))?;
    let old = own(config, &args.did)?;
    let new = match &args.to {
        Some(did) => own(config, did)?,
        None => create::make(&create::Args::following(&old, &args.token)?, config, out)?.document,
    };
    let from_prior = sign(config, &FromPrior::rotation(old.id(), new.id(), now()))?;
    let moved = wait(async {
        client.post::<Value>("/v1/dids/reload", &Value::Null).await?;
        let rotate =
            json!({ "from": old.id(), "to": new.id(), "from_prior": from_prior, "overlap_days": args.overlap });
        client.post::<Value>("/v1/dids/rotate", &rotate).await
    });
    let moved = moved.map_err(|failure| {
        let again = format!("nothing has moved; again: claviger did rotate {} --to {}", old.id(), new.id());
        failure.hint(again)
    })?;
    let peers = moved["peers"].as_array().map_or(0, Vec::len);
    out.say(&format!("{} is told that {} has moved.", count(peers, "peer"), short(old.id())));
    if out.json {
        return out
            .document(&json!({ "from": old.id(), "to": new.id(), "peers": moved["peers"], "until": moved["until"] }));
    }
    out.line(new.id())
}

/// The document of a DID of ours.
pub fn own(config: &Config, did: &str) -> Result<Document, Failure> {
    let documents = Own::load(config)?.documents;
    documents.into_iter().find(|document| document.names(did)).ok_or_else(|| {
        Failure::new("not-ours", format!("{} is none of our DIDs", short(did)))
            .hint("`claviger key list` shows the DIDs that use our keys")
    })
}

/// Has the token sign, as its custodian: an agent may not.
pub fn sign(config: &Config, claims: &FromPrior) -> Result<String, Failure> {
    let own = Own::load(config)?;
    let supervisor = match config.in_process() {
        true => None,
        false => Some(keeper::supervisor(config, Role::Custodian)?),
    };
    wait(async {
        let keys = own.keys(&claims.iss, claviger::did::Relationship::Authentication).await?;
        let enough = |secrets: &dyn claviger::secrets::Secrets| {
            let held = secrets.keys().borrow().clone();
            keys.iter().any(|key| held.get(key).is_some())
        };
        let secrets = tokens::secrets(config, supervisor.as_ref(), enough).await?;
        let (me, _) = Identities::partial(secrets, own.documents.clone());
        Ok(claims.pack(None, &me).await?.0)
    })
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX))
}
