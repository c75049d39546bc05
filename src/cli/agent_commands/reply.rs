//! `claviger reply`: answers a received message.

use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::send::{BASIC_MESSAGE, Within, no_text, queue};
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    failure::Failure,
    input::Input,
    output::{Out, printable, short},
};

/// Answers a message of the inbox
///
/// Sends a basic message with the text to the sender of a received message, in its thread, from the DID that the message was
/// for. The message may be acknowledged. Prints the answer's ID in the outbox.
#[derive(clap::Args)]
pub struct Args {
    /// The message's ID in the inbox, or the beginning of it that `claviger inbox` prints
    id: String,
    /// The text; read from stdin if not given
    text: Option<String>,
    /// The answer's ID, for a command that is repeated: the answer is sent once; if not given, a new ID
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    #[command(flatten)]
    within: Within,
}

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let received: Value = client.get(&format!("/v1/inbox/{}", percent_encoded(&args.id))).await?;
    let Some(to) = recipient(&received) else {
        return Err(Failure::new("not-sent", NO_SENDER));
    };
    let text = match &args.text {
        Some(text) => text.clone(),
        None => Input::Stdin.read_message(out, "the answer")?,
    };
    if text.trim().is_empty() {
        return Err(no_text());
    }
    let id = args.message_id.clone().unwrap_or_else(Message::new_id);
    let message = answer(&received, to, &id, text.trim_end_matches('\n'));
    let shown = received["label"].as_str().map_or_else(|| short(to), printable);
    queue(client, message, &shown, &args.within, out).await
}

/// Why a message cannot be answered that has no [`recipient`] for the answer.
pub const NO_SENDER: &str = "the message has no proved sender, so nobody can be answered";

/// The DID that an answer to a received message is sent to; none if the message has no proved sender.
pub fn recipient(received: &Value) -> Option<&str> {
    let sender = received["sender"].as_str()?;
    // The long form of a did:peer:4 contains its document. It is in the message, until the message is acknowledged.
    let from = received["message"]["from"].as_str().filter(|from| short(from) == short(sender));
    Some(from.unwrap_or(sender))
}

/// A basic message in the thread of a received message, from the DID that the message was for.
pub fn answer(received: &Value, to: &str, id: &str, text: &str) -> Value {
    json!({
        "id": id,
        "to": to,
        "from": received["recipient"],
        "type": BASIC_MESSAGE,
        "body": { "content": text },
        "headers": { "thid": received["thread"] },
    })
}
