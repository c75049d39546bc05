//! `claviger ping`: sends a trust ping, and waits for the answer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{choose_did::choose_own_did, send::wait_until_sent};
use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    arguments::check_did,
    failure::Failure,
    output::{Out, short},
};

/// Sends a trust ping to another agent, and waits for the answer
///
/// Prints how long the answer took.
#[derive(clap::Args)]
pub struct Args {
    /// The DID of the other agent
    did: String,
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
    check_did(&args.did)?;
    let from = choose_own_did(client, args.from.as_deref(), Some(&args.did)).await?;
    let message = json!({ "to": args.did, "from": from, "type": PING, "body": { "response_requested": true } });
    let start = Instant::now();
    let within = Duration::from_secs(args.within);
    let accepted: Value = client.post("/v1/messages", &message).await?;
    let text = |name: &str| accepted[name].as_str().unwrap_or_default().to_owned();
    let (id, thread) = (text("id"), text("thread"));
    wait_until_sent(client, &id, within).await?;
    let path = format!("/v1/inbox?thread={}&type={}", percent_encoded(&thread), percent_encoded(RESPONSE));
    loop {
        let page: Value = client.get(&path).await?;
        let took = start.elapsed();
        if let Some(answer) = page["messages"].as_array().and_then(|messages| messages.first()) {
            client.post::<Value>("/v1/inbox/acknowledge", &json!({ "ids": [answer["id"]] })).await?;
            out.say(&format!("{} answered after {} ms.", short(&args.did), took.as_millis()));
            return out
                .document(&json!({ "did": args.did, "thread": thread, "milliseconds": took.as_millis() as u64 }));
        }
        if took > within {
            let message = format!("{} received the ping, and has not answered in {} s", short(&args.did), args.within);
            return Err(Failure::new("no-answer", message));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
