//! `claviger mediator`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Client;
use crate::cli::{
    config::Config,
    did::create::{self, Method},
    failure::Failure,
    output::{DIM, NAME, Out, count, short},
    own::check_did,
    wait,
};

/// Mediators, which take messages for an agent that nobody can connect to: use, list, leave
#[derive(clap::Subcommand)]
pub enum Command {
    Use(UseArgs),
    List(ListArgs),
    Leave(LeaveArgs),
}

/// Has a mediator take messages for this agent
///
/// The mediator is asked, and a DID of ours is made whose service leads there: that one is for others. Further DIDs with the
/// mediator's routing DID as --service are told it by themselves. Messages are fetched from then on as they come.
#[derive(clap::Args)]
pub struct UseArgs {
    /// The mediator's DID
    did: String,
    /// Our DID that the mediator is to know; without, the newest without a service, or a new one
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// Makes no DID that leads to the mediator
    #[arg(long)]
    no_did: bool,
    /// The token in which keys are made, by its name in the configuration; may be given several times
    #[arg(long, value_name = "NAME")]
    token: Vec<String>,
}

/// Shows the mediators, and how it stands with each
#[derive(clap::Args)]
pub struct ListArgs {}

/// Leaves a mediator: what waits there is fetched, and it takes no more
#[derive(clap::Args)]
pub struct LeaveArgs {
    /// The mediator's DID
    did: String,
    /// Forgets it also if it cannot be told
    #[arg(long)]
    force: bool,
}

/// How long it may take until the mediator knows a new DID.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(50);

pub fn run(command: &Command, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = Client::new(config)?;
    match command {
        Command::Use(args) => adopt(args, &client, config, out),
        Command::List(_) => list(&client, out),
        Command::Leave(args) => leave(args, &client, out),
    }
}

fn adopt(args: &UseArgs, client: &Client, config: &Config, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let ours: Value = wait(client.get("/v1/dids"))?;
    let from = match &args.from {
        Some(did) => {
            check_did(did)?;
            did.clone()
        }
        None => match ours.as_array().into_iter().flatten().find(|it| services(it).next().is_none()) {
            Some(own) => own["did"].as_str().unwrap_or_default().to_owned(),
            None => make(None, args, client, config, out)?,
        },
    };
    let mediator: Value = wait(client.post("/v1/mediators", &json!({ "did": args.did, "from": from })))?;
    let routing: Vec<&str> =
        mediator["routing_dids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    out.say(&format!("{} takes messages for this agent.", short(&args.did)));
    let leads = |own: &&Value| services(own).any(|uri| routing.contains(&uri));
    let known = ours.as_array().into_iter().flatten().find(leads).and_then(|own| own["did"].as_str());
    let did = match (known, routing.first()) {
        _ if args.no_did => None,
        (Some(did), _) => Some(did.to_owned()),
        (None, Some(routing)) => Some(make(Some(routing), args, client, config, out)?),
        (None, None) => None,
    };
    let mediator = wait(registered(client, &args.did, did.as_deref()))?;
    if out.json {
        return out.document(&json!({ "mediator": mediator, "did": did }));
    }
    match did {
        Some(did) => out.line(&did),
        None => routing.iter().try_for_each(|routing| out.line(routing)),
    }
}

/// A new DID of ours, which the agent serves from now on.
fn make(routing: Option<&str>, args: &UseArgs, client: &Client, config: &Config, out: &Out) -> Result<String, Failure> {
    let services: Vec<String> = routing.iter().map(|&did| did.to_owned()).collect();
    let made = create::make(&create::Args::plain(Method::Peer2, &args.token, services), config, out)?;
    wait(client.post::<Value>("/v1/dids/reload", &Value::Null))?;
    Ok(made.document.id().to_owned())
}

/// Waits until the mediator takes messages for a DID of ours.
async fn registered(client: &Client, mediator: &str, did: Option<&str>) -> Result<Value, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let all: Value = client.get("/v1/mediators").await?;
        let found = all.as_array().into_iter().flatten().find(|it| it["did"] == mediator).cloned().unwrap_or_default();
        let has = |did: &str| found["registered"].as_array().is_some_and(|all| all.iter().any(|it| it == did));
        if did.is_none_or(has) {
            return Ok(found);
        }
        if Instant::now() > until {
            let why = found["problem"].as_str().unwrap_or("it does not say why");
            let said = format!("the mediator takes no messages for {} yet: {why}", did.map(short).unwrap_or_default());
            return Err(Failure::new("mediator-away", said).hint("the agent goes on asking: `claviger mediator list`"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn list(client: &Client, out: &Out) -> Result<(), Failure> {
    let all: Value = wait(client.get("/v1/mediators"))?;
    if out.json {
        return out.document(&json!({ "mediators": all }));
    }
    let mediators = all.as_array().cloned().unwrap_or_default();
    for mediator in &mediators {
        let text = |name: &str| mediator[name].as_str().unwrap_or_default();
        let how = match text("state") {
            "live" => "messages come at once".to_owned(),
            "polling" => "messages are asked for now and then".to_owned(),
            "connecting" => "it is being asked".to_owned(),
            _ => format!("away: {}", text("problem")),
        };
        out.line(&format!("{NAME}{}{NAME:#}, as {}: {how}", short(text("did")), short(text("ours"))))?;
        for (name, what) in [("registered", "takes messages for"), ("missing", "does not yet for")] {
            for did in mediator[name].as_array().into_iter().flatten().filter_map(Value::as_str) {
                out.line(&format!("  {DIM}{what}{DIM:#} {}", short(did)))?;
            }
        }
    }
    out.say(&count(mediators.len(), "mediator"));
    Ok(())
}

fn leave(args: &LeaveArgs, client: &Client, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let left: Value = wait(client.post("/v1/mediators/leave", &json!({ "did": args.did, "force": args.force })))
        .map_err(|failure| match failure.code {
            "mediator-away" | "mediator-denied" | "mediator-unusable" => {
                failure.hint("--force forgets it all the same; what waits there is lost then")
            }
            _ => failure,
        })?;
    out.say(&format!("{} takes no more messages for this agent.", short(&args.did)));
    let led: Vec<&str> = left["registered"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for did in &led {
        out.warn(&format!("who writes to {} still leaves messages there: `claviger did rotate` moves it", short(did)));
    }
    if out.json { out.document(&json!({ "did": args.did, "registered": led })) } else { Ok(()) }
}

/// The URIs that the services of a DID of ours name.
fn services(own: &Value) -> impl Iterator<Item = &str> {
    let services = own["document"]["service"].as_array().into_iter().flatten();
    services.flat_map(|service| match &service["serviceEndpoint"] {
        Value::Array(all) => all.iter().filter_map(|it| it["uri"].as_str()).collect::<Vec<_>>(),
        Value::String(uri) => vec![uri.as_str()],
        one => one["uri"].as_str().into_iter().collect(),
    })
}
