//! `claviger inbox`: shows and acknowledges received messages.

use serde_json::{Value, json};

use super::peer::Peer;
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    failure::Failure,
    output::{DIM, NAME, Out, count, printable, printable_lines, short},
    unix_time::date_and_minute,
};

/// Shows the received messages
///
/// A message stays in the inbox until it is acknowledged. A line has the beginning of the message's ID, the time in UTC, the
/// sender's label or the short name of its DID, and the text. `claviger reply ID TEXT` answers.
#[derive(clap::Args)]
pub struct Args {
    /// Keeps running, and shows messages as they arrive
    #[arg(long)]
    follow: bool,
    /// Acknowledges the messages that are shown: the agent deletes them
    #[arg(long)]
    acknowledge: bool,
    /// Only messages of this thread
    #[arg(long, value_name = "ID", conflicts_with = "follow")]
    thread: Option<String>,
    /// Only messages of this sender: its label, its DID, or the short name of its DID
    #[arg(long, value_name = "PEER", conflicts_with = "follow")]
    sender: Option<String>,
    /// Shows this many messages at most, and ends; if not given, 100, and with --follow no limit
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// The most messages that are shown without `--limit` and `--follow`.
const DEFAULT_LIMIT: u32 = 100;
/// How many characters of a message's id are shown. They name the message.
const SHOWN_ID: usize = 8;
/// The most messages that the agent returns, or acknowledges, at once.
const MAX_PAGE: usize = 1000;

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    if args.follow {
        return follow(args, client, out).await;
    }
    let sender = match &args.sender {
        Some(name) => Some(Peer::find(client, name).await?.did),
        None => None,
    };
    let mut filter = String::new();
    for (name, value) in [("thread", &args.thread), ("sender", &sender)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", percent_encoded(value)));
        }
    }
    let (mut messages, mut cursor) = (Vec::new(), Value::from(0));
    // A page of large messages has fewer than the limit.
    let limit = args.limit.unwrap_or(DEFAULT_LIMIT) as usize;
    while messages.len() < limit {
        let page = MAX_PAGE.min(limit - messages.len());
        let path = format!("/v1/inbox?limit={page}&after={cursor}{filter}");
        let mut page: Value = client.get(&path).await?;
        cursor = page["cursor"].take();
        match page["messages"].take() {
            Value::Array(found) if !found.is_empty() => messages.extend(found),
            _ => break,
        }
    }
    if out.json {
        out.document(&json!({ "messages": messages, "cursor": cursor }))?;
    } else {
        messages.iter().try_for_each(|message| show(message, out))?;
        out.say(&count(messages.len(), "message"));
    }
    for messages in messages.chunks(MAX_PAGE).filter(|_| args.acknowledge) {
        let ids: Vec<&Value> = messages.iter().map(|message| &message["id"]).collect();
        client.post::<Value>("/v1/inbox/acknowledge", &json!({ "ids": ids })).await?;
    }
    Ok(())
}

async fn follow(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let (shown, mut to_acknowledge) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let acknowledge = async {
        while let Some(id) = to_acknowledge.recv().await {
            client.post::<Value>("/v1/inbox/acknowledge", &json!({ "ids": [id] })).await?;
        }
        Ok(())
    };
    let mut left = args.limit;
    let events = async {
        let ended = client.events("/v1/events", |message| {
            show(&message, out)?;
            if args.acknowledge {
                let _ = shown.send(message["id"].clone());
            }
            left = left.map(|left| left - 1);
            Ok(left != Some(0))
        });
        let ended = ended.await;
        drop(shown);
        ended
    };
    let (ended, acknowledged): (Result<(), Failure>, Result<(), Failure>) = tokio::join!(events, acknowledge);
    ended.and(acknowledged)
}

/// Prints a message: for a person its id, its time, the sender and the text, for a program the whole message on one line.
fn show(message: &Value, out: &Out) -> Result<(), Failure> {
    if out.json {
        return out.json_line(message);
    }
    let text = |name: &str| message[name].as_str().unwrap_or_default();
    let sender = match (message["label"].as_str(), message["sender"].as_str()) {
        (Some(label), _) => printable(label),
        (None, Some(sender)) => short(sender),
        (None, None) => "someone unknown".to_owned(),
    };
    let body = &message["message"]["body"];
    let content = body["content"].as_str().map_or_else(|| body.to_string(), str::to_owned);
    let kind = text("type");
    // Most messages are of this type, and it says nothing.
    let kind = match kind.strip_prefix("https://didcomm.org/").unwrap_or(kind) {
        "basicmessage/2.0/message" => String::new(),
        kind => format!(" {DIM}{}{DIM:#}", printable(kind)),
    };
    let id: String = text("id").chars().take(SHOWN_ID).collect();
    let time = date_and_minute(message["received"].as_i64().unwrap_or_default());
    let content = printable_lines(&content);
    out.line(&format!("{DIM}{id}  {time}{DIM:#}  {NAME}{sender}{NAME:#}{kind} {content}"))?;
    for note in message["provenance"]["attachment_notes"].as_array().into_iter().flatten() {
        let number = note["attachment"].as_u64().unwrap_or_default() + 1;
        out.line(&format!("    attachment {number}: {}", printable(note["problem"].as_str().unwrap_or_default())))?;
    }
    Ok(())
}
