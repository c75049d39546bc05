//! `claviger connections`.

use serde_json::{Value, json};

use claviger::didcomm::FromPrior;

use super::Client;
use crate::cli::{
    config::Config,
    did::{now, sign},
    failure::Failure,
    output::{NAME, Out, count, short},
    own::check_did,
    wait,
};

/// Shows with whom the agent talks, and ends a relationship
#[derive(clap::Args)]
pub struct Args {
    /// Ends the relationship with this DID: it is told, and nothing is sent to it from then on
    #[arg(long, value_name = "DID")]
    end: Option<String>,
    /// Our DID in it, if there are several
    #[arg(long, value_name = "DID", requires = "end")]
    from: Option<String>,
}

pub fn run(args: &Args, client: &Client, config: &Config, out: &Out) -> Result<(), Failure> {
    let found: Value = wait(client.get("/v1/connections?limit=1000"))?;
    let connections = found["connections"].as_array().cloned().unwrap_or_default();
    if let Some(theirs) = &args.end {
        return end(theirs, args.from.as_deref(), &connections, client, config, out);
    }
    if out.json {
        return out.document(&found);
    }
    for connection in &connections {
        let text = |name: &str| connection[name].as_str().unwrap_or_default().to_owned();
        let label = connection["label"].as_str().map_or(String::new(), |label| format!(" ({label})"));
        let ended = if connection["ended"].is_null() { "" } else { ", ended" };
        out.line(&format!("{NAME}{}{NAME:#}{label}, as {}{ended}", short(&text("theirs")), short(&text("ours"))))?;
    }
    out.say(&count(connections.len(), "connection"));
    Ok(())
}

/// Our DID signs in its token that it ends, and the agent tells the other.
fn end(
    theirs: &str,
    ours: Option<&str>,
    connections: &[Value],
    client: &Client,
    config: &Config,
    out: &Out,
) -> Result<(), Failure> {
    check_did(theirs)?;
    let open = connections.iter().filter(|it| it["theirs"] == theirs && it["ended"].is_null());
    let mut open: Vec<&str> = open.filter_map(|it| it["ours"].as_str()).collect();
    open.retain(|did| ours.is_none_or(|ours| ours == *did));
    let ours = match open.as_slice() {
        [] => return Err(Failure::new("not-found", format!("there is no relationship with {}", short(theirs)))),
        [only] => *only,
        [..] => {
            let said = format!("there are {} relationships with {}", open.len(), short(theirs));
            return Err(Failure::words("bad-arguments", said).hint("--from names our DID in the one that ends"));
        }
    };
    let from_prior = sign(config, &FromPrior::ending(ours, now()))?;
    let ended = json!({ "ours": ours, "theirs": theirs, "from_prior": from_prior });
    wait(client.post::<Value>("/v1/connections/end", &ended))?;
    out.say(&format!("The relationship with {} has ended; it is told.", short(theirs)));
    if out.json { out.document(&json!({ "ours": ours, "theirs": theirs })) } else { Ok(()) }
}
