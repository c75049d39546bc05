//! `claviger connections`: lists the agent's connections, labels and blocks peers, and ends, resumes and deletes connections.

mod contact;
mod end;
mod pages;

use serde_json::{Value, json};

use self::pages::all;
use super::peer::Peer;
use crate::cli::{
    agent_client::AgentClient,
    config::Config,
    failure::Failure,
    output::{DIM, NAME, Out, count, printable, short},
    runtime::block_on,
};

/// Lists the agent's connections; labels, blocks, ends, resumes, deletes
///
/// A line has the label of the peer or the short name of its DID, and the short names of both DIDs. Commands understand labels
/// and short names, as long as one peer has them.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Only the connections with this peer: its label, the short name of its DID, or its DID in any form, also one from which
    /// the peer has rotated
    #[arg(long, value_name = "PEER", conflicts_with = "end")]
    peer: Option<String>,
    /// The same as `connections end PEER`
    #[arg(long, value_name = "PEER")]
    end: Option<String>,
    /// Our DID in the connection to end, if there are several with that peer
    #[arg(long, value_name = "DID", requires = "end")]
    from: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    List(ListArgs),
    Label(contact::LabelArgs),
    Block(contact::BlockArgs),
    Unblock(contact::UnblockArgs),
    Blocked(contact::BlockedArgs),
    End(end::EndArgs),
    Resume(end::ResumeArgs),
    Delete(contact::DeleteArgs),
}

/// Lists the connections, as `claviger connections` does
#[derive(clap::Args)]
struct ListArgs {
    /// Only the connections with this peer
    #[arg(long, value_name = "PEER")]
    peer: Option<String>,
}

pub fn run(args: &Args, client: &AgentClient, config: &Config, out: &Out) -> Result<(), Failure> {
    match &args.command {
        None => {}
        Some(Command::List(args)) => return block_on(list(args.peer.as_deref(), client, out)),
        Some(Command::Label(args)) => return block_on(contact::label(args, client, out)),
        Some(Command::Block(args)) => return block_on(contact::block(args, client, out)),
        Some(Command::Unblock(args)) => return block_on(contact::unblock(args, client, out)),
        Some(Command::Blocked(args)) => return block_on(contact::blocked(args, client, out)),
        Some(Command::End(args)) => return end::end(args, client, config, out),
        Some(Command::Resume(args)) => return block_on(end::resume(args, client, out)),
        Some(Command::Delete(args)) => return block_on(contact::delete(args, client, out)),
    }
    if let Some(peer) = &args.end {
        return end::end(&end::EndArgs::told(peer, args.from.as_deref()), client, config, out);
    }
    block_on(list(args.peer.as_deref(), client, out))
}

async fn list(peer: Option<&str>, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = match peer {
        Some(name) => Some(Peer::find(client, name).await?.did),
        None => None,
    };
    let (connections, cursor) = all(client, peer.as_deref()).await?;
    if out.json {
        return out.document(&json!({ "connections": connections, "cursor": cursor }));
    }
    let ours = client.get_all("/v1/dids", "dids").await?;
    connections.iter().try_for_each(|connection| out.line(&line(connection, &ours)))?;
    out.say(&count(connections.len(), "connection"));
    Ok(())
}

/// A connection in one line. `all_ours` are our DIDs that the agent serves.
fn line(connection: &Value, all_ours: &[Value]) -> String {
    let text = |name: &str| connection[name].as_str();
    let (theirs, ours) = (short(text("theirs").unwrap_or_default()), short(text("ours").unwrap_or_default()));
    // What a person has written comes first. What the peer calls itself is in quotation marks, behind its DID.
    let peer = match (text("label"), text("calls_itself")) {
        (Some(label), _) => format!("{NAME}{}{NAME:#} {DIM}{theirs}{DIM:#}", printable(label)),
        (None, Some(name)) => {
            let name: String = name.chars().take(MAX_NAME).collect();
            format!("{NAME}{theirs}{NAME:#} (calls itself {:?})", printable(&name))
        }
        (None, None) => format!("{NAME}{theirs}{NAME:#}"),
    };
    let ended = match (connection["ended"].is_null(), text("ended_by"), connection["peer_told"] == true) {
        (true, ..) => "",
        (false, Some("peer"), _) => ", ended by the peer",
        (false, Some("us"), true) => ", ended, and the peer was told",
        (false, ..) => ", ended",
    };
    let flag = |name: &str, shown: &'static str| if connection[name] == true { shown } else { "" };
    let (stranger, blocked) = (flag("stranger", ", a stranger"), flag("blocked", ", blocked"));
    let own = all_ours.iter().find(|own| own["did"] == connection["ours"]);
    let replaced = match own.map(|own| own["rotated_to"].as_str()) {
        Some(None) => String::new(),
        Some(Some(successor)) => format!(", which has rotated to {}", short(successor)),
        None => ", which is not served any more".to_owned(),
    };
    format!("{peer}, as {ours}{replaced}{stranger}{blocked}{ended}")
}

/// How many characters are shown of what a peer calls itself.
const MAX_NAME: usize = 64;
