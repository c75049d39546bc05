//! `claviger connections end` and `resume`.

use serde_json::{Value, json};

use claviger::didcomm::FromPrior;

use super::{
    super::{choose_did::own_did, peer::Peer},
    pages::all,
};
use crate::cli::{
    agent_client::AgentClient,
    config::Config,
    failure::Failure,
    output::{Out, short},
    own_dids::sign_from_prior,
    runtime::block_on,
    unix_time::unix_time,
};

/// Ends a connection: nothing is sent to the peer, and its messages are ignored
///
/// Our DID's key signs the end in its token, and the agent tells the peer. The peer's agent then ignores our DID, even if we
/// resume. With --silent no key signs, and the peer is not told. `connections resume` takes the connection up again.
#[derive(clap::Args)]
pub struct EndArgs {
    /// The peer: its label, its DID, or the short name of its DID
    peer: String,
    /// Our DID in the connection, if there are several with that peer
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// Does not tell the peer
    #[arg(long)]
    silent: bool,
}

impl EndArgs {
    /// The arguments that end a connection and tell the peer.
    pub fn told(peer: &str, from: Option<&str>) -> Self {
        Self { peer: peer.to_owned(), from: from.map(str::to_owned), silent: false }
    }
}

pub fn end(args: &EndArgs, client: &AgentClient, config: &Config, out: &Out) -> Result<(), Failure> {
    let peer = block_on(Peer::find(client, &args.peer))?;
    let connection = block_on(choose(client, &peer, args.from.as_deref(), |it| it["ended"].is_null()))?;
    let (ours, theirs) = dids(&connection);
    let mut request = json!({ "ours": ours, "theirs": theirs });
    if !args.silent {
        request["from_prior"] = sign_from_prior(config, &FromPrior::ending(ours, unix_time()))?.into();
    }
    block_on(client.post::<Value>("/v1/connections/end", &request))?;
    let shown = peer.shown();
    let told = match args.silent {
        true => "The peer is not told.".to_owned(),
        false => format!("The agent tells the peer, whose agent ignores {} then.", short(ours)),
    };
    out.say(&format!(
        "Ended the connection with {shown}. {told}\nNothing is sent to {shown}, and its messages are ignored, until \
         `claviger connections resume`."
    ));
    if out.json { out.document(&json!({ "ours": ours, "theirs": theirs, "peer_told": !args.silent })) } else { Ok(()) }
}

/// Takes up a connection again that has ended
///
/// A peer that was told of the end ignores our DID until its person resumes as well. If it does not answer `claviger ping`,
/// begin a new connection with a new DID.
#[derive(clap::Args)]
pub struct ResumeArgs {
    /// The peer: its label, its DID, or the short name of its DID
    peer: String,
    /// Our DID in the connection, if several with that peer have ended
    #[arg(long, value_name = "DID")]
    from: Option<String>,
}

pub async fn resume(args: &ResumeArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = Peer::find(client, &args.peer).await?;
    let connection = choose(client, &peer, args.from.as_deref(), |it| !it["ended"].is_null()).await?;
    let (ours, theirs) = dids(&connection);
    let request = json!({ "ours": ours, "theirs": theirs });
    let resumed: Value = client.post("/v1/connections/resume", &request).await?;
    out.say(&format!("Resumed the connection with {}.", peer.shown()));
    if resumed["peer_told"] == true {
        out.warn(&format!(
            "the peer was told that the connection has ended: its agent ignores {} until its person resumes as well; \
             `claviger ping` shows whether it answers. If not, `claviger did create` makes a DID for a new connection",
            short(ours)
        ));
    }
    if out.json {
        out.document(&json!({ "ours": ours, "theirs": theirs, "peer_told": resumed["peer_told"] }))
    } else {
        Ok(())
    }
}

/// Returns the one connection with a peer that is in a state, of all or of one of our DIDs.
async fn choose(
    client: &AgentClient,
    peer: &Peer,
    ours: Option<&str>,
    is_in_state: impl Fn(&Value) -> bool,
) -> Result<Value, Failure> {
    let ours = match ours {
        Some(did) => Some(own_did(client, did).await?),
        None => None,
    };
    let (mut found, _) = all(client, Some(&peer.did)).await?;
    let are_some = !found.is_empty();
    found.retain(|it| is_in_state(it) && ours.as_ref().is_none_or(|ours| it["ours"] == **ours));
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let failure = Failure::new("not-found", format!("there is no such connection with {}", peer.shown()));
            Err(if are_some { failure.hint("`claviger connections` shows which have ended") } else { failure })
        }
        number => {
            let message = format!("there are {number} connections with {}", peer.shown());
            Err(Failure::usage("bad-arguments", message).hint("--from names our DID in the connection"))
        }
    }
}

fn dids(connection: &Value) -> (&str, &str) {
    let text = |name: &str| connection[name].as_str().unwrap_or_default();
    (text("ours"), text("theirs"))
}
