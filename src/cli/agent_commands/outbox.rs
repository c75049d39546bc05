//! `claviger outbox`: lists, cancels and retries messages that the agent sends.

use serde_json::{Value, json};

use super::peer::Peer;
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    config::Config,
    confirm::confirm_that,
    failure::Failure,
    output::{DIM, NAME, Out, count, printable, short, with_short_dids},
    runtime::block_on,
    unix_time::{date_and_minute, unix_time},
};

/// Lists the messages in the outbox; cancels them, tries them now
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    List(ListArgs),
    Cancel(CancelArgs),
    Retry(RetryArgs),
}

/// Lists the messages in the outbox, and tells why each waits and when it is tried next
///
/// A line has the message's ID, when it was put into the outbox, its recipient, its type and its state.
#[derive(clap::Args)]
struct ListArgs {
    /// The messages in this state
    #[arg(long, value_enum, default_value_t = State::Waiting)]
    state: State,
    /// Only messages for this peer: its label, its DID, or the short name of its DID
    #[arg(long, value_name = "PEER")]
    to: Option<String>,
    /// Shows this many messages at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Cancels messages that wait: they are not sent, and their content is deleted
///
/// An attempt that is under way may still send a message.
#[derive(clap::Args)]
struct CancelArgs {
    /// The IDs of the messages in the outbox, or the beginnings of them, of at least 4 characters
    #[arg(required_unless_present = "to", value_name = "ID")]
    ids: Vec<String>,
    /// All messages that wait for this peer: its label, its DID, or the short name of its DID
    #[arg(long, value_name = "PEER", conflicts_with = "ids")]
    to: Option<String>,
    /// Does not ask for confirmation, with --to
    #[arg(long, short)]
    yes: bool,
}

/// Tries messages now, without waiting for the next attempt
///
/// The other messages for the same peer follow if the message is sent.
#[derive(clap::Args)]
struct RetryArgs {
    /// The IDs of the messages in the outbox, or the beginnings of them, of at least 4 characters
    #[arg(required_unless_present = "to", value_name = "ID")]
    ids: Vec<String>,
    /// The oldest message that waits for this peer, which the others follow: its label, its DID, or the short name of its DID
    #[arg(long, value_name = "PEER", conflicts_with = "ids")]
    to: Option<String>,
}

/// Which messages to list.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum State {
    Waiting,
    Sent,
    Failed,
    Expired,
    Cancelled,
    All,
}

/// The fewest characters of the beginning of an id that name a message.
const SHORTEST_BEGINNING: usize = 4;

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = AgentClient::new(config)?;
    block_on(async {
        match &args.command {
            None => list(&args.list, &client, out).await,
            Some(Command::List(args)) => list(args, &client, out).await,
            Some(Command::Cancel(args)) => cancel(args, &client, out).await,
            Some(Command::Retry(args)) => retry(args, &client, out).await,
        }
    })
}

async fn list(args: &ListArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let mut filter = match args.state {
        State::All => String::new(),
        State::Waiting => WAITING.to_owned(),
        State::Sent => "&state=sent".to_owned(),
        State::Failed => "&state=failed".to_owned(),
        State::Expired => "&state=expired".to_owned(),
        State::Cancelled => "&state=cancelled".to_owned(),
    };
    if let Some(name) = &args.to {
        filter.push_str(&to(&Peer::find(client, name).await?));
    }
    let (messages, cursor) = messages(client, &filter, args.limit as usize).await?;
    if out.json {
        return out.document(&json!({ "messages": messages, "cursor": cursor }));
    }
    messages.iter().try_for_each(|message| show(message, out))?;
    out.say(&count(messages.len(), "message"));
    Ok(())
}

const WAITING: &str = "&state=waiting";

/// The part of a query that selects the messages for a peer.
fn to(peer: &Peer) -> String {
    format!("&to={}", percent_encoded(&peer.did))
}

/// The oldest messages that a query selects, and the cursor behind them.
async fn messages(client: &AgentClient, filter: &str, limit: usize) -> Result<(Vec<Value>, String), Failure> {
    client.get_pages("/v1/messages", filter, "messages", limit).await
}

/// Prints a message: its id, its time, its recipient and its state on one line, and below why it waits or was given up.
fn show(message: &Value, out: &Out) -> Result<(), Failure> {
    let text = |name: &str| message[name].as_str().unwrap_or_default();
    let state = match (text("state"), text("waits_for")) {
        ("waiting", "token") => "waits for a token",
        ("waiting", "peer") => "waits for the peer",
        ("waiting", "other-node") => "is sent by another node",
        ("waiting", _) => "waits for its turn",
        (state, _) => state,
    };
    let next = message["next_try"].as_i64().map_or(String::new(), |time| {
        let seconds = (time / 1000).saturating_sub(unix_time()).max(0);
        format!(", next try in {seconds} s")
    });
    let kind = text("type").strip_prefix("https://didcomm.org/").unwrap_or(text("type"));
    let (id, to) = (text("id"), message["label"].as_str().map_or_else(|| short(text("to")), printable));
    let created = date_and_minute(message["created"].as_i64().unwrap_or_default());
    out.line(&format!("{NAME}{id}{NAME:#}  {DIM}{created}{DIM:#}  to {to} {DIM}{kind}{DIM:#} {state}{next}"))?;
    // A message that was sent or cancelled has the problem of an attempt before that.
    match message["problem"].as_str().filter(|_| !matches!(text("state"), "sent" | "cancelled")) {
        // A server of the peer may have written a part of it.
        Some(problem) => out.line(&format!("  {}", printable(&with_short_dids(problem)))),
        None => Ok(()),
    }
}

async fn cancel(args: &CancelArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let ids = match &args.to {
        None => args.ids.clone(),
        Some(name) => {
            let peer = Peer::find(client, name).await?;
            let ids = ids(&messages(client, &format!("{WAITING}{}", to(&peer)), usize::MAX).await?.0);
            if !args.yes && !ids.is_empty() {
                let question = format!("Cancel {} to {}?", count(ids.len(), "message"), peer.shown());
                confirm_that(&question, "not confirmed: nothing was cancelled", "--yes cancels without asking")?;
            }
            ids
        }
    };
    each(&ids, "cancel", "Cancelled", client, out).await
}

async fn retry(args: &RetryArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let ids = match &args.to {
        None => args.ids.clone(),
        Some(name) => {
            let peer = Peer::find(client, name).await?;
            ids(&messages(client, &format!("{WAITING}{}", to(&peer)), 1).await?.0)
        }
    };
    each(&ids, "retry", "Trying", client, out).await
}

fn ids(messages: &[Value]) -> Vec<String> {
    messages.iter().filter_map(|message| message["id"].as_str().map(str::to_owned)).collect()
}

/// Makes the same request for each message. Stops at the first that is refused.
async fn each(ids: &[String], action: &str, done: &str, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let mut changed = Vec::new();
    for named in ids {
        let message = match change(named, action, client).await {
            Err(failure) if failure.code == "not-found" => match find(named, client).await? {
                Some(id) => change(&id, action, client).await,
                None => Err(failure.hint("`claviger outbox list --state all` shows the messages and their IDs")),
            },
            changed => changed,
        };
        let message =
            message.map_err(|failure| Failure { message: format!("{named}: {}", failure.message), ..failure })?;
        if !out.json {
            out.line(message["id"].as_str().unwrap_or(named))?;
        }
        changed.push(message);
    }
    out.say(&format!("{done} {}.", count(changed.len(), "message")));
    if out.json { out.document(&json!({ "messages": changed })) } else { Ok(()) }
}

async fn change(id: &str, action: &str, client: &AgentClient) -> Result<Value, Failure> {
    client.post(&format!("/v1/messages/{}/{action}", percent_encoded(id)), &json!({})).await
}

/// The id of the waiting message whose id begins so. None if no message is meant.
async fn find(beginning: &str, client: &AgentClient) -> Result<Option<String>, Failure> {
    if beginning.len() < SHORTEST_BEGINNING {
        return Ok(None);
    }
    let mut found = ids(&messages(client, WAITING, usize::MAX).await?.0);
    found.retain(|id| id.starts_with(beginning));
    match found.len() {
        0 | 1 => Ok(found.pop()),
        number => {
            Err(Failure::usage("name-ambiguous", format!("the IDs of {number} messages begin with {beginning:?}"))
                .hint("more of the ID names one message"))
        }
    }
}
