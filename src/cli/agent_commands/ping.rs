//! `claviger ping`: sends a trust ping, and waits for the answer.

use std::time::{Duration, Instant};

use claviger::didcomm::Message;
use serde_json::{Value, json};

use super::{
    choose_did::{explain_refusal, set_sender},
    peer::Peer,
    send::wait_until_sent,
};
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    failure::Failure,
    output::Out,
};

/// Sends a trust ping to another agent, and waits for the answer
///
/// Prints how long the answer took.
#[derive(clap::Args)]
pub struct Args {
    /// The other agent: its label, its DID, or the short name of its DID
    #[arg(value_name = "PEER")]
    peer: String,
    /// Our DID that sends the ping; if not given, the one in the connection with the peer, or the newest
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// Waits this many seconds at most
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    within: u64,
}

const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";
const RESPONSE: &str = "https://didcomm.org/trust-ping/2.0/ping-response";
/// The pause between two requests for the inbox.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub async fn run(args: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let peer = Peer::find(client, &args.peer).await?;
    let mut message =
        json!({ "id": Message::new_id(), "to": peer.did, "type": PING, "body": { "response_requested": true } });
    set_sender(client, &mut message, args.from.as_deref()).await?;
    let start = Instant::now();
    let within = Duration::from_secs(args.within);
    let accepted: Value = client.post_repeatable("/v1/messages", &message).await.map_err(explain_refusal)?;
    let text = |name: &str| accepted[name].as_str().unwrap_or_default().to_owned();
    let (id, thread) = (text("id"), text("thread"));
    wait_until_sent(client, &id, within, out).await?;
    let path = format!("/v1/inbox?thread={}&type={}", percent_encoded(&thread), percent_encoded(RESPONSE));
    loop {
        let page: Value = client.get(&path).await?;
        let took = start.elapsed();
        if let Some(answer) = page["messages"].as_array().and_then(|messages| messages.first()) {
            client.post::<Value>("/v1/inbox/acknowledge", &json!({ "ids": [answer["id"]] })).await?;
            let milliseconds = took.as_millis() as u64;
            if out.json {
                return out.document(&json!({ "did": peer.did, "thread": thread, "milliseconds": milliseconds }));
            }
            return out.line(&format!("{} answered after {milliseconds} ms.", peer.shown()));
        }
        if took > within {
            let message = format!("{} received the ping, and has not answered in {} s", peer.shown(), args.within);
            return Err(Failure::new("no-answer", message));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
