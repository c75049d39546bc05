//! `claviger inbox`.

use serde_json::{Value, json};

use super::{Client, quoted};
use crate::cli::{
    failure::Failure,
    output::{DIM, NAME, Out, count, short},
};

/// Shows the messages that came; each stays until it is acknowledged
#[derive(clap::Args)]
pub struct Args {
    /// Goes on, and shows messages as they come
    #[arg(long)]
    follow: bool,
    /// Acknowledges those that are shown: the agent forgets them
    #[arg(long)]
    acknowledge: bool,
    /// Those of one thread
    #[arg(long, value_name = "ID", conflicts_with = "follow")]
    thread: Option<String>,
    /// Those of one sender
    #[arg(long, value_name = "DID", conflicts_with = "follow")]
    sender: Option<String>,
    /// Ends after so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub async fn run(args: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    if args.follow {
        return follow(args, client, out).await;
    }
    let mut question = format!("/v1/inbox?limit={}", args.limit);
    for (name, value) in [("thread", &args.thread), ("sender", &args.sender)] {
        if let Some(value) = value {
            question.push_str(&format!("&{name}={}", quoted(value)));
        }
    }
    let page: Value = client.get(&question).await?;
    let messages = page["messages"].as_array().cloned().unwrap_or_default();
    if out.json {
        out.document(&page)?;
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

async fn follow(args: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    let (shown, mut seen) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let acknowledge = async {
        while let Some(id) = seen.recv().await {
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

/// A message: for a person who wrote what, for a program all of it in one line.
fn show(message: &Value, out: &Out) -> Result<(), Failure> {
    if out.json {
        return out.json_line(message);
    }
    let sender = message["sender"].as_str().map_or_else(|| "someone unknown".to_owned(), short);
    let kind = message["type"].as_str().unwrap_or_default();
    let body = &message["message"]["body"];
    let said = match body["content"].as_str() {
        Some(content) => printable(content),
        None => body.to_string(),
    };
    let kind = kind.strip_prefix("https://didcomm.org/").unwrap_or(kind);
    out.line(&format!("{NAME}{sender}{NAME:#} {DIM}{}{DIM:#} {said}", printable(kind)))
}

/// A stranger wrote it: nothing of it moves a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter }).collect()
}
