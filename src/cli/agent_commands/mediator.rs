//! `claviger mediator`: uses, lists and leaves mediators.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::{
    agent_client::AgentClient,
    arguments::check_did,
    config::Config,
    did::create::{self, Method},
    failure::Failure,
    output::{DIM, NAME, Out, count, short},
    runtime::block_on,
};

/// Lists the mediators, which receive messages for an agent without a reachable port; uses and leaves them
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    Use(UseArgs),
    List(ListArgs),
    Leave(LeaveArgs),
}

/// Asks a mediator to receive messages for this agent
///
/// If the mediator agrees, the command makes a DID whose service is the mediator, and prints that DID: give it to
/// peers. The mediator knows the agent by another DID. From then on the agent fetches its messages from the mediator,
/// and registers each further DID of ours whose --service is the mediator's routing DID. A second call with the same
/// mediator makes no new DID.
#[derive(clap::Args)]
struct UseArgs {
    /// The mediator's DID
    did: String,
    /// Our DID for the mediator; if not given, the newest without a service, or a new one
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// Makes no DID for peers, and prints the mediator's routing DIDs
    #[arg(long)]
    no_did: bool,
    /// The token in which keys are made, by its name in the configuration; may be given several times, as in `did
    /// create`
    #[arg(long, value_name = "NAME")]
    token: Vec<String>,
}

/// Lists the mediators, and the state of each
///
/// The state is `live` (the mediator delivers messages at once), `polling`, `connecting`, `away` or `other-node` (the node that
/// leads talks to the mediator). The list also shows
/// what the mediator lacks, the DIDs for which the mediator receives messages, and those that the mediator has not
/// registered yet.
#[derive(clap::Args)]
struct ListArgs {}

/// Leaves a mediator
///
/// The agent fetches the messages that wait at the mediator, and the mediator receives no more messages for it.
#[derive(clap::Args)]
struct LeaveArgs {
    /// The mediator's DID
    did: String,
    /// Leaves even if the mediator cannot be notified; messages that wait there are lost
    #[arg(long)]
    force: bool,
}

/// How long a mediator may take to register a new DID.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(40);
/// The pause between two requests for the mediator's state.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = AgentClient::new(config)?;
    match &args.command {
        Some(Command::Use(args)) => use_mediator(args, &client, config, out),
        None | Some(Command::List(_)) => list(&client, out),
        Some(Command::Leave(args)) => leave(args, &client, out),
    }
}

fn use_mediator(args: &UseArgs, client: &AgentClient, config: &Config, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let ours = block_on(client.get_all("/v1/dids", "dids"))?;
    let from = match &args.from {
        Some(did) => {
            check_did(did)?;
            did.clone()
        }
        None => match ours.iter().find(|it| services(it).next().is_none()) {
            Some(own) => own["did"].as_str().unwrap_or_default().to_owned(),
            None => create_did(None, args, client, config, out)?,
        },
    };
    let mediator: Value =
        block_on(client.post("/v1/mediators", &json!({ "did": args.did, "from": from }))).map_err(|failure| {
            match failure.message.contains("mediate-deny") {
                true => failure.hint("`claviger did create --method peer:2` makes a DID for --from"),
                false => failure,
            }
        })?;
    let routing: Vec<&str> =
        mediator["routing_dids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    out.say(&format!("{} receives messages for this agent.", short(&args.did)));
    let uses_mediator = |own: &&Value| services(own).any(|uri| routing.contains(&uri));
    let known = ours.iter().find(uses_mediator).and_then(|own| own["did"].as_str());
    let did = match (known, routing.first()) {
        _ if args.no_did => None,
        (Some(did), _) => Some(did.to_owned()),
        (None, Some(routing)) => Some(create_did(Some(routing), args, client, config, out)?),
        (None, None) => None,
    };
    let mediator = block_on(wait_until_registered(client, &args.did, did.as_deref()))?;
    if out.json {
        return out.document(&json!({ "mediator": mediator, "did": did }));
    }
    match did {
        Some(did) => out.line(&did),
        None => routing.iter().try_for_each(|routing| out.line(routing)),
    }
}

/// Makes a DID, and has the agent serve it. `routing` is the mediator's routing DID.
fn create_did(
    routing: Option<&str>,
    args: &UseArgs,
    client: &AgentClient,
    config: &Config,
    out: &Out,
) -> Result<String, Failure> {
    let services: Vec<String> = routing.iter().map(|&did| did.to_owned()).collect();
    let made = create::make(&create::Args::with_new_keys(Method::Peer2, &args.token, services), config, out)?;
    block_on(client.post::<Value>("/v1/dids/reload", &Value::Null))?;
    Ok(made.document.id().to_owned())
}

/// Waits until the mediator receives messages for one of our DIDs, and returns the mediator's state.
async fn wait_until_registered(client: &AgentClient, mediator: &str, did: Option<&str>) -> Result<Value, Failure> {
    let until = Instant::now() + REGISTRATION_TIMEOUT;
    loop {
        let all = client.get_all("/v1/mediators", "mediators").await?;
        let found = all.into_iter().find(|it| it["did"] == mediator).unwrap_or_default();
        let is_registered =
            |did: &str| found["registered"].as_array().is_some_and(|all| all.iter().any(|it| it == did));
        if did.is_none_or(is_registered) {
            return Ok(found);
        }
        if Instant::now() > until {
            let why = found["problem"].as_str().unwrap_or("no reason is known");
            let message =
                format!("the mediator receives no messages for {} yet: {why}", did.map(short).unwrap_or_default());
            return Err(Failure::new("mediator-away", message)
                .hint("the agent keeps trying; `claviger mediator list` shows the state"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn list(client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let mediators = block_on(client.get_all("/v1/mediators", "mediators"))?;
    if out.json {
        return out.document(&json!({ "mediators": mediators }));
    }
    for mediator in &mediators {
        let text = |name: &str| mediator[name].as_str().unwrap_or_default();
        let how = match text("state") {
            "live" => "messages are delivered at once".to_owned(),
            "polling" => "messages are fetched from time to time".to_owned(),
            "connecting" => "connecting".to_owned(),
            "other-node" => "the node that leads talks to it".to_owned(),
            _ => format!("away: {}", text("problem")),
        };
        let lacks = match (text("state"), text("problem")) {
            ("away", _) | (_, "") => String::new(),
            (_, problem) => format!(" ({problem})"),
        };
        out.line(&format!("{NAME}{}{NAME:#}, as {}: {how}{lacks}", short(text("did")), short(text("ours"))))?;
        for (name, what) in [("registered", "receives messages for"), ("missing", "not yet registered:")] {
            for did in mediator[name].as_array().into_iter().flatten().filter_map(Value::as_str) {
                out.line(&format!("  {DIM}{what}{DIM:#} {}", short(did)))?;
            }
        }
    }
    out.say(&count(mediators.len(), "mediator"));
    Ok(())
}

fn leave(args: &LeaveArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let left: Value = block_on(client.post("/v1/mediators/leave", &json!({ "did": args.did, "force": args.force })))
        .map_err(|failure| match failure.code {
            "mediator-away" | "mediator-denied" | "mediator-unusable" => {
                failure.hint("--force leaves anyway; messages that wait there are lost")
            }
            _ => failure,
        })?;
    out.say(&format!("{} receives no more messages for this agent.", short(&args.did)));
    let still_routed: Vec<&str> =
        left["registered"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for did in &still_routed {
        out.warn(&format!(
            "peers still send messages for {} to the mediator: `claviger did rotate` replaces it",
            short(did)
        ));
    }
    if out.json { out.document(&json!({ "did": args.did, "registered": still_routed })) } else { Ok(()) }
}

/// The endpoint URIs in the services of one of our DIDs.
fn services(own: &Value) -> impl Iterator<Item = &str> {
    let services = own["document"]["service"].as_array().into_iter().flatten();
    services.flat_map(|service| match &service["serviceEndpoint"] {
        Value::Array(all) => all.iter().filter_map(|it| it["uri"].as_str()).collect::<Vec<_>>(),
        Value::String(uri) => vec![uri.as_str()],
        endpoint => endpoint["uri"].as_str().into_iter().collect(),
    })
}
