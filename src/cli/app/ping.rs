//! `claviger ping`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, from, quoted, send::sent};
use crate::cli::{
    failure::Failure,
    output::{Out, short},
    own::check_did,
};

/// Asks another agent whether it is there, with a trust ping
#[derive(clap::Args)]
pub struct Args {
    /// The other's DID
    did: String,
    /// Our DID that asks; without, the one that the peer knows, or the newest
    #[arg(long, value_name = "DID")]
    from: Option<String>,
    /// Waits so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    within: u64,
}

const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";
const RESPONSE: &str = "https://didcomm.org/trust-ping/2.0/ping-response";
const LOOK: Duration = Duration::from_millis(20);

pub async fn run(args: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    check_did(&args.did)?;
    let from = from(client, args.from.as_deref(), Some(&args.did)).await?;
    let message = json!({ "to": args.did, "from": from, "type": PING, "body": { "response_requested": true } });
    let begun = Instant::now();
    let within = Duration::from_secs(args.within);
    let taken: Value = client.post("/v1/messages", &message).await?;
    let text = |name: &str| taken[name].as_str().unwrap_or_default().to_owned();
    let (id, thread) = (text("id"), text("thread"));
    sent(client, &id, within).await?;
    let question = format!("/v1/inbox?thread={}&type={}", quoted(&thread), quoted(RESPONSE));
    loop {
        let page: Value = client.get(&question).await?;
        let took = begun.elapsed();
        if let Some(answer) = page["messages"].as_array().and_then(|messages| messages.first()) {
            client.post::<Value>("/v1/inbox/acknowledge", &json!({ "ids": [answer["id"]] })).await?;
            out.say(&format!("{} is there: it answered after {} ms.", short(&args.did), took.as_millis()));
            return out
                .document(&json!({ "did": args.did, "thread": thread, "milliseconds": took.as_millis() as u64 }));
        }
        if took > within {
            let said = format!("{} took the ping, and has not answered in {} s", short(&args.did), args.within);
            return Err(Failure::new("no-answer", said));
        }
        tokio::time::sleep(LOOK).await;
    }
}
