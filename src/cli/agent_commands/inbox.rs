//! `claviger inbox`: shows and acknowledges received messages.

use serde_json::{Value, json};

use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    failure::Failure,
    output::{DIM, NAME, Out, count, short},
};

/// Shows the received messages
///
/// A message stays in the inbox until it is acknowledged.
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
    /// Only messages of this sender
    #[arg(long, value_name = "DID", conflicts_with = "follow")]
    sender: Option<String>,
    /// Shows this many messages at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    if args.follow {
        return follow(args, client, out).await;
    }
    let mut filter = String::new();
    for (name, value) in [("thread", &args.thread), ("sender", &args.sender)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", percent_encoded(value)));
        }
    }
    let (mut messages, mut cursor) = (Vec::new(), Value::from(0));
    // A page of large messages has fewer than the limit.
    while messages.len() < usize::from(args.limit) {
        let path = format!("/v1/inbox?limit={}&after={cursor}{filter}", usize::from(args.limit) - messages.len());
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
    if args.acknowledge && !messages.is_empty() {
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
    let mut left = u32::from(args.limit);
    let limited = args.limit != 100;
    let events = async {
        let ended = client.events("/v1/events", |message| {
            show(&message, out)?;
            if args.acknowledge {
                let _ = shown.send(message["id"].clone());
            }
            left = left.saturating_sub(1);
            Ok(!limited || left > 0)
        });
        let ended = ended.await;
        drop(shown);
        ended
    };
    let (ended, acknowledged): (Result<(), Failure>, Result<(), Failure>) = tokio::join!(events, acknowledge);
    ended.and(acknowledged)
}

/// Prints a message: the sender and the text for a person, the whole message on one line for a program.
fn show(message: &Value, out: &Out) -> Result<(), Failure> {
    if out.json {
        return out.json_line(message);
    }
    let sender = message["sender"].as_str().map_or_else(|| "someone unknown".to_owned(), short);
    let kind = message["type"].as_str().unwrap_or_default();
    let body = &message["message"]["body"];
    let message = match body["content"].as_str() {
        Some(content) => printable(content),
        None => body.to_string(),
    };
    let kind = kind.strip_prefix("https://didcomm.org/").unwrap_or(kind);
    out.line(&format!("{NAME}{sender}{NAME:#} {DIM}{}{DIM:#} {message}", printable(kind)))
}

/// Replaces control characters, because a message from a stranger must not move the cursor of the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter }).collect()
}
