//! `claviger connections`: lists the agent's connections, or ends one of them.

use serde_json::{Value, json};

use claviger::didcomm::FromPrior;

use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    arguments::check_did,
    config::Config,
    failure::Failure,
    output::{NAME, Out, count, short},
    own_dids::sign_from_prior,
    runtime::block_on,
    unix_time::unix_time,
};

/// How many connections the agent is asked for at once.
const PAGE_SIZE: usize = 1000;

/// Lists the agent's connections, or ends one
#[derive(clap::Args)]
pub struct Args {
    /// Ends the connection with this DID: notifies the peer, and sends nothing more to it
    #[arg(long, value_name = "DID")]
    end: Option<String>,
    /// Our DID in the connection to end, if there are several with that peer
    #[arg(long, value_name = "DID", requires = "end")]
    from: Option<String>,
}

pub fn run(args: &Args, client: &AgentClient, config: &Config, out: &Out) -> Result<(), Failure> {
    let (connections, cursor) = block_on(all(client))?;
    if let Some(theirs) = &args.end {
        return end(theirs, args.from.as_deref(), &connections, client, config, out);
    }
    if out.json {
        return out.document(&json!({ "connections": connections, "cursor": cursor }));
    }
    for connection in &connections {
        let text = |name: &str| connection[name].as_str().unwrap_or_default().to_owned();
        let label = connection["label"].as_str().map_or(String::new(), |label| format!(" ({label})"));
        let stranger = if connection["stranger"] == true { ", a stranger" } else { "" };
        let ended = if connection["ended"].is_null() { "" } else { ", ended" };
        let (theirs, ours) = (text("theirs"), text("ours"));
        out.line(&format!("{NAME}{}{NAME:#}{label}, as {}{stranger}{ended}", short(&theirs), short(&ours)))?;
    }
    out.say(&count(connections.len(), "connection"));
    Ok(())
}

/// Returns all connections, and the cursor of the last page.
async fn all(client: &AgentClient) -> Result<(Vec<Value>, String), Failure> {
    let (mut connections, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/connections?limit={PAGE_SIZE}&after={}", percent_encoded(&cursor));
        let page: Value = client.get(&path).await?;
        let found = page["connections"].as_array().cloned().unwrap_or_default();
        let is_last_page = found.len() < PAGE_SIZE;
        connections.extend(found);
        cursor = page["cursor"].as_str().unwrap_or_default().to_owned();
        if is_last_page {
            return Ok((connections, cursor));
        }
    }
}

/// Ends a connection: our DID's key signs a `from_prior` in its token, and the agent sends the `from_prior` to the
/// peer.
fn end(
    theirs: &str,
    ours: Option<&str>,
    connections: &[Value],
    client: &AgentClient,
    config: &Config,
    out: &Out,
) -> Result<(), Failure> {
    check_did(theirs)?;
    let open = connections.iter().filter(|it| it["theirs"] == theirs && it["ended"].is_null());
    let mut open: Vec<&str> = open.filter_map(|it| it["ours"].as_str()).collect();
    open.retain(|did| ours.is_none_or(|ours| ours == *did));
    let ours = match open.as_slice() {
        [] => return Err(Failure::new("not-found", format!("there is no connection with {}", short(theirs)))),
        [only] => *only,
        [..] => {
            let message = format!("there are {} connections with {}", open.len(), short(theirs));
            return Err(Failure::usage("bad-arguments", message).hint("--from names our DID in the connection to end"));
        }
    };
    let from_prior = sign_from_prior(config, &FromPrior::ending(ours, unix_time()))?;
    let ended = json!({ "ours": ours, "theirs": theirs, "from_prior": from_prior });
    block_on(client.post::<Value>("/v1/connections/end", &ended))?;
    out.say(&format!("Ended the connection with {}. The agent notifies the peer.", short(theirs)));
    if out.json { out.document(&json!({ "ours": ours, "theirs": theirs })) } else { Ok(()) }
}
