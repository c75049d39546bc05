//! What a person or a script asks of a running agent, each by its API.

mod accept;
mod client;
mod connections;
mod inbox;
mod invite;
pub mod mediator;
mod ping;
mod send;
mod status;

pub use accept::Args as AcceptArgs;
pub use connections::Args as ConnectionsArgs;
pub use inbox::Args as InboxArgs;
pub use invite::Args as InviteArgs;
pub use ping::Args as PingArgs;
pub use send::Args as SendArgs;
pub use status::Args as StatusArgs;

use serde_json::Value;

use super::{config::Config, failure::Failure, output::Out, own::check_did, wait};
pub use client::Client;

/// One of them.
pub enum Words {
    Send(SendArgs),
    Ping(PingArgs),
    Inbox(InboxArgs),
    Invite(InviteArgs),
    Accept(AcceptArgs),
    Connections(ConnectionsArgs),
    Status(StatusArgs),
}

pub fn run(words: &Words, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = Client::new(config)?;
    // It may start what starts keepers, before there is a runtime.
    if let Words::Connections(args) = words {
        return connections::run(args, &client, config, out);
    }
    wait(async {
        match words {
            Words::Send(args) => send::run(args, &client, out).await,
            Words::Ping(args) => ping::run(args, &client, out).await,
            Words::Inbox(args) => inbox::run(args, &client, out).await,
            Words::Invite(args) => invite::run(args, &client, out).await,
            Words::Accept(args) => accept::run(args, &client, out).await,
            Words::Status(args) => status::run(args, &client, out).await,
            Words::Connections(_) => Ok(()),
        }
    })
}

/// Has an agent that runs serve a new DID; without one it does so when it starts.
pub fn tell_of_new_did(config: &Config) {
    let told = Client::new(config).and_then(|client| wait(client.post::<Value>("/v1/dids/reload", &Value::Null)));
    if let Err(failure) = told.map(drop) {
        tracing::debug!(why = failure.message, "no agent is told of the new DID");
    }
}

/// Our DID that is named; without one that under which the peer is known, or the newest.
async fn from(client: &Client, named: Option<&str>, peer: Option<&str>) -> Result<String, Failure> {
    if let Some(did) = named {
        check_did(did)?;
        return Ok(did.to_owned());
    }
    if let Some(peer) = peer {
        let known: Value = client.get("/v1/connections").await?;
        let ours = known["connections"].as_array().into_iter().flatten().find(|it| it["theirs"] == peer);
        if let Some(did) = ours.and_then(|it| it["ours"].as_str()) {
            return Ok(did.to_owned());
        }
    }
    let dids: Value = client.get("/v1/dids").await?;
    match dids[0]["did"].as_str() {
        Some(did) => Ok(did.to_owned()),
        None => Err(Failure::new("no-did", "the agent has no DID").hint("`claviger did create` makes one")),
    }
}

/// For a path or a query (RFC 3986): DIDs have colons, and percent signs.
fn quoted(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
