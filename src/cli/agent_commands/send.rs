//! `claviger send`: sends a message through the running agent.

use std::time::Duration;

use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::{
    choose_did::{explain_refusal, set_sender},
    peer::Peer,
};
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    failure::Failure,
    input::Input,
    output::{Out, printable, with_short_dids},
};

/// Sends a message through the running agent
///
/// Sends a basic message with the text, or with --type a message of any type whose body is the JSON object in the text.
/// When the command ends, the agent has stored the message, and sends it as soon as it can: `claviger outbox` tells whether it
/// waits, and why. With --within the command waits until the message is sent. Prints the message's ID in the outbox.
#[derive(clap::Args)]
pub struct Args {
    /// The recipient: its label, its DID, or the short name of its DID
    #[arg(long, value_name = "PEER")]
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
    /// Accepts a message for a recipient that has neither an endpoint nor a connection with us: it waits until the recipient
    /// connects
    #[arg(long)]
    hold: bool,
    /// The message's ID, for a command that is repeated: the message is sent once; if not given, a new ID
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The text, or with --type the body as a JSON object; read from stdin if not given
    text: Option<String>,
    #[command(flatten)]
    within: Within,
}

/// How long a command waits for its message.
#[derive(clap::Args)]
pub struct Within {
    /// Waits until the message is sent, this many seconds at most
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
}

/// The type of a message that is a text for a person.
pub const BASIC_MESSAGE: &str = "https://didcomm.org/basicmessage/2.0/message";
/// After this time, a person is told why a message is not sent yet.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two requests for the state of a message.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = Peer::find(client, &args.to).await?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => Input::Stdin.read_message(out, "the message")?,
    };
    let (kind, body) = match &args.kind {
        None if text.trim().is_empty() => return Err(no_text()),
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
    let mut message = json!({ "id": id, "to": peer.did, "type": kind, "body": body, "sign": args.sign });
    match args.anonymous {
        true => message["anonymous"] = true.into(),
        false => set_sender(client, &mut message, args.from.as_deref()).await?,
    }
    if args.hold {
        message["hold"] = true.into();
    }
    if let Some(thid) = &args.thid {
        message["headers"] = json!({ "thid": thid });
    }
    if args.id.is_some() {
        let accepted = client.post_repeatable("/v1/messages", &message).await;
        let accepted = accepted.map_err(|failure| explain_refusal_of(&peer.shown(), failure))?;
        return conclude(client, &accepted, &peer.shown(), &args.within, out).await;
    }
    queue(client, message, &peer.shown(), &args.within, out).await
}

/// The failure for a message without a text, which is a mistake of a script more often than meant.
pub fn no_text() -> Failure {
    Failure::usage("bad-message", "the text is empty").hint("give it as the last argument, or on stdin")
}

/// Puts a message with an id of ours into the outbox, and tells what became of it. `peer` is the recipient for a person.
pub async fn queue(
    client: &AgentClient,
    mut message: Value,
    peer: &str,
    within: &Within,
    out: &Out,
) -> Result<(), Failure> {
    let accepted: Value = match client.post_repeatable("/v1/messages", &message).await {
        // An agent of an older version knows no ids of ours.
        Err(failure) if failure.message.contains("unknown field `id`") => {
            message.as_object_mut().map(|message| message.remove("id"));
            client.post("/v1/messages", &message).await.map_err(explain_refusal)?
        }
        accepted => accepted.map_err(|failure| explain_refusal_of(peer, failure))?,
    };
    conclude(client, &accepted, peer, within, out).await
}

/// Like [`explain_refusal`], with the name of a blocked peer that the person knows.
fn explain_refusal_of(peer: &str, failure: Failure) -> Failure {
    match failure.code {
        "peer-blocked" => Failure { message: format!("{peer} is blocked: its answers would be dropped"), ..failure },
        _ => explain_refusal(failure),
    }
}

async fn conclude(
    client: &AgentClient,
    accepted: &Value,
    peer: &str,
    within: &Within,
    out: &Out,
) -> Result<(), Failure> {
    let id = accepted["id"].as_str().unwrap_or_default();
    let Some(seconds) = within.within else {
        out.say(&format!("Stored for {peer}; if it waits, `claviger outbox` tells why."));
        return if out.json { out.document(accepted) } else { out.line(id) };
    };
    let sent = wait_until_sent(client, id, Duration::from_secs(seconds), out).await?;
    out.say(&format!("Sent to {peer}."));
    if out.json { out.document(&sent) } else { out.line(id) }
}

/// Waits until a message is sent, and returns its state in the outbox. If that takes long, the person learns why.
pub async fn wait_until_sent(client: &AgentClient, id: &str, within: Duration, out: &Out) -> Result<Value, Failure> {
    let start = tokio::time::Instant::now();
    let until = start + within;
    let mut is_silent = true;
    loop {
        let status: Value = client.get(&format!("/v1/messages/{}", percent_encoded(id))).await?;
        let problem = status["problem"].as_str();
        if let Some(problem) = problem.filter(|_| is_silent && start.elapsed() > PATIENCE) {
            out.say(&format!("Not sent yet: {}.", shown(problem)));
            is_silent = false;
        }
        match status["state"].as_str() {
            Some("sent") => return Ok(status),
            Some("waiting") if tokio::time::Instant::now() < until => tokio::time::sleep(POLL_INTERVAL).await,
            Some("waiting") => {
                let problem = problem.unwrap_or("the agent has not tried yet");
                let message = format!("the message is not sent yet: {}", shown(problem));
                return Err(Failure::new("not-sent-yet", message).hint("the agent keeps the message, and tries again"));
            }
            _ => {
                let problem = problem.unwrap_or("the agent has no reason on record");
                return Err(Failure::new("not-sent", format!("the message was not sent: {}", shown(problem))));
            }
        }
    }
}

/// A problem for a person. A server of the peer may have written a part of it.
fn shown(problem: &str) -> String {
    printable(&with_short_dids(problem))
}
