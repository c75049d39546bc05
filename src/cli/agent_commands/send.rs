//! `claviger send`: sends a message through the running agent.

use std::time::Duration;

use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::choose_did::choose_own_did;
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    arguments::check_did,
    failure::Failure,
    input,
    output::{Out, short},
};

/// Sends a message through the running agent
///
/// Sends a basic message with the text, or with --type a message of any type whose body is the JSON object in the text.
/// When the command ends, the agent has stored the message, and sends it as soon as the peer can be reached. With
/// --within the command waits until the message is sent. Prints the message's ID in the outbox.
#[derive(clap::Args)]
pub struct Args {
    /// The recipient's DID
    #[arg(long, value_name = "DID")]
    to: String,
    /// Our DID that sends; if not given, the one in the connection with the peer, or the newest
    #[arg(long, value_name = "DID", conflicts_with = "anonymous")]
    from: Option<String>,
    /// Does not tell the recipient who sent the message (anoncrypt)
    #[arg(long)]
    anonymous: bool,
    /// The message type; a basic message if not given
    #[arg(long = "type", value_name = "URI")]
    kind: Option<String>,
    /// The thread that the message belongs to
    #[arg(long, value_name = "ID")]
    thid: Option<String>,
    /// Signs the message, so that the recipient can prove to others who wrote it
    #[arg(long, conflicts_with = "anonymous")]
    sign: bool,
    /// The message's ID, for a command that is repeated: the message is sent once; if not given, a new ID
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The text, or with --type the body as a JSON object; read from stdin if not given
    text: Option<String>,
    /// Waits until the message is sent, this many seconds at most
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
}

const BASIC_MESSAGE: &str = "https://didcomm.org/basicmessage/2.0/message";
/// The pause between two requests for the state of a message.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    check_did(&args.to)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => input::read_message(out, "the message")?,
    };
    let (kind, body) = match &args.kind {
        None => (BASIC_MESSAGE, json!({ "content": text.trim_end_matches('\n') })),
        Some(kind) => {
            let body: Value = serde_json::from_str(&text)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| Failure::usage("bad-message", "the body is not a JSON object"))?;
            (kind.as_str(), body)
        }
    };
    let id = args.id.clone().unwrap_or_else(Message::new_id);
    let mut message = json!({ "id": id, "to": args.to, "type": kind, "body": body, "sign": args.sign });
    if !args.anonymous {
        message["from"] = choose_own_did(client, args.from.as_deref(), Some(&args.to)).await?.into();
    }
    if let Some(thid) = &args.thid {
        message["headers"] = json!({ "thid": thid });
    }
    let accepted: Value = match client.post_repeatable("/v1/messages", &message).await {
        // An agent of an older version knows no ids of ours.
        Err(failure) if args.id.is_none() && failure.message.contains("unknown field `id`") => {
            message.as_object_mut().map(|message| message.remove("id"));
            client.post("/v1/messages", &message).await?
        }
        accepted => accepted?,
    };
    let id = accepted["id"].as_str().unwrap_or_default();
    let Some(seconds) = args.within else {
        out.say(&format!("Stored. The agent sends it as soon as {} can be reached.", short(&args.to)));
        return out.document(&accepted);
    };
    let sent = wait_until_sent(client, id, Duration::from_secs(seconds)).await?;
    out.say(&format!("Sent to {}.", short(&args.to)));
    out.document(&sent)
}

/// Waits until a message is sent, and returns its state in the outbox.
pub async fn wait_until_sent(client: &AgentClient, id: &str, within: Duration) -> Result<Value, Failure> {
    let until = tokio::time::Instant::now() + within;
    loop {
        let status: Value = client.get(&format!("/v1/messages/{}", percent_encoded(id))).await?;
        let problem = status["problem"].as_str();
        match status["state"].as_str() {
            Some("sent") => return Ok(status),
            Some("waiting") if tokio::time::Instant::now() < until => tokio::time::sleep(POLL_INTERVAL).await,
            Some("waiting") => {
                let problem = problem.unwrap_or("the agent has not tried yet");
                return Err(Failure::new("not-sent-yet", format!("the message is not sent yet: {problem}"))
                    .hint("the agent keeps the message, and tries again"));
            }
            _ => {
                let problem = problem.unwrap_or("the agent has no reason on record");
                return Err(Failure::new("not-sent", format!("the message was not sent: {problem}")));
            }
        }
    }
}
