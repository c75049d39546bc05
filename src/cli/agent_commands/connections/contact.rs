//! `claviger connections label`, `block`, `unblock`, `blocked` and `delete`.

use serde_json::{Value, json};

use super::super::{choose_did::own_did, peer::Peer};
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    confirm::confirm,
    failure::Failure,
    output::{DIM, NAME, Out, count, printable, short},
    unix_time::date_and_minute,
};

/// Gives a peer a label: a name that commands understand, and that is never sent
///
/// A label has at most 64 characters. No two peers have the same one, whatever the case of its letters.
#[derive(clap::Args)]
pub struct LabelArgs {
    /// The peer: its present label, its DID, or the short name of its DID
    peer: String,
    /// The new label; without it, the peer loses its label
    #[arg(required_unless_present = "remove")]
    label: Option<String>,
    /// Removes the label
    #[arg(long, conflicts_with = "label")]
    remove: bool,
}

pub async fn label(args: &LabelArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = Peer::find(client, &args.peer).await?;
    let contact = change(client, &peer, &json!({ "label": args.label })).await?;
    match &args.label {
        Some(label) => out.say(&format!("{} is {} now.", short(&peer.did), printable(label))),
        None => out.say(&format!("{} has no label now.", short(&peer.did))),
    }
    if out.json { out.document(&contact) } else { Ok(()) }
}

/// Blocks a peer: its messages are dropped unread
///
/// Messages that name the peer as their sender are dropped on arrival; those that hide their sender are dropped once they are
/// opened. The peer is not told: it gets the same answer as for any other message, and no reply. Nothing is sent to it. The
/// connection stays as it is.
#[derive(clap::Args)]
pub struct BlockArgs {
    /// The peer: its label, its DID, or the short name of its DID
    peer: String,
}

pub async fn block(args: &BlockArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = Peer::find(client, &args.peer).await?;
    let contact = change(client, &peer, &json!({ "blocked": true })).await?;
    out.say(&format!("Blocked {}. Its messages are dropped unread, and it is not told.", peer.shown()));
    if out.json { out.document(&contact) } else { Ok(()) }
}

/// Unblocks a peer
///
/// Messages that were dropped are lost.
#[derive(clap::Args)]
pub struct UnblockArgs {
    /// The peer: its label, its DID, or the short name of its DID
    peer: String,
}

pub async fn unblock(args: &UnblockArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    // A blocked peer need not have a connection.
    let all = client.get_all("/v1/blocked", "blocked").await?;
    let mut blocked = all.iter().filter_map(|it| it["peer"].as_str());
    let peer = match blocked.find(|did| short(did) == args.peer) {
        Some(did) => Peer::of(did),
        None => Peer::find(client, &args.peer).await?,
    };
    let contact = change(client, &peer, &json!({ "blocked": false })).await?;
    out.say(&format!("Unblocked {}.", peer.shown()));
    if out.json { out.document(&contact) } else { Ok(()) }
}

/// Lists the blocked peers, with and without a connection
#[derive(clap::Args)]
pub struct BlockedArgs {}

pub async fn blocked(_: &BlockedArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let all = client.get_all("/v1/blocked", "blocked").await?;
    if out.json {
        return out.document(&json!({ "blocked": all }));
    }
    for blocked in &all {
        let did = blocked["peer"].as_str().unwrap_or_default();
        let since = date_and_minute(blocked["since"].as_i64().unwrap_or_default());
        let peer = match label_of(client, did).await? {
            Some(label) => format!("{NAME}{}{NAME:#} {DIM}{}{DIM:#}", printable(&label), short(did)),
            None => format!("{NAME}{}{NAME:#}", short(did)),
        };
        out.line(&format!("{peer}, since {since}"))?;
    }
    out.say(&count(all.len(), "blocked peer"));
    Ok(())
}

async fn label_of(client: &AgentClient, did: &str) -> Result<Option<String>, Failure> {
    let page: Value = client.get(&format!("/v1/connections?limit=1&peer={}", percent_encoded(did))).await?;
    Ok(page["connections"][0]["label"].as_str().map(str::to_owned))
}

/// Deletes the connections with a peer, and what is known of it
///
/// The peer is not told. If it writes again, it is a stranger. Messages in the inbox and in the outbox stay.
#[derive(clap::Args)]
pub struct DeleteArgs {
    /// The peer: its label, its DID, or the short name of its DID
    peer: String,
    /// Only the connection of this DID of ours
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// Does not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

pub async fn delete(args: &DeleteArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = Peer::find(client, &args.peer).await?;
    let mut path = format!("/v1/connections?peer={}", percent_encoded(&peer.did));
    if let Some(own) = &args.from {
        path.push_str(&format!("&ours={}", percent_encoded(&own_did(client, own).await?)));
    }
    if !args.yes {
        confirm(&format!("The label, the profile and the document of {} are deleted. Delete them?", peer.shown()))?;
    }
    let deleted: Value = client.delete(&path).await?;
    let number = deleted["deleted"].as_u64().unwrap_or_default();
    if number == 0 {
        return Err(Failure::new("not-found", format!("there is no connection with {}", peer.shown())));
    }
    out.say(&format!("Deleted {} with {}.", count(number as usize, "connection"), peer.shown()));
    if out.json { out.document(&deleted) } else { Ok(()) }
}

async fn change(client: &AgentClient, peer: &Peer, change: &Value) -> Result<Value, Failure> {
    client.patch(&format!("/v1/connections?peer={}", percent_encoded(&peer.did)), change).await
}
