//! `claviger send`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Client, from, quoted};
use crate::cli::{
    failure::Failure,
    input,
    output::{Out, short},
    own::check_did,
};

/// Sends a message by way of the running agent
///
/// It is a text, or with --type a message of any type. It is kept when this ends, and sent as soon as the peer can be reached;
/// with --within it is waited for until it was sent.
#[derive(clap::Args)]
pub struct Args {
    /// The DID that it is for
    #[arg(long, value_name = "DID")]
    to: String,
    /// Our DID that it is from; without, the one that the peer knows, or the newest
    #[arg(long, value_name = "DID", conflicts_with = "anonymous")]
    from: Option<String>,
    /// Does not say who it is from
    #[arg(long)]
    anonymous: bool,
    /// Its type; without, a basic message
    #[arg(long = "type", value_name = "URI")]
    kind: Option<String>,
    /// The thread that it belongs to
    #[arg(long, value_name = "ID")]
    thid: Option<String>,
    /// Signs it, so that others can be shown who wrote it
    #[arg(long, conflicts_with = "anonymous")]
    sign: bool,
    /// The text; with --type the body, a JSON object. Without, it is read from stdin
    text: Option<String>,
    /// Waits until it was sent, so many seconds at most
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
}

const BASIC_MESSAGE: &str = "https://didcomm.org/basicmessage/2.0/message";
const LOOK: Duration = Duration::from_millis(100);

pub async fn run(args: &Args, client: &Client, out: &Out) -> Result<(), Failure> {
    check_did(&args.to)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => input::message(out, "what is to be sent")?,
    };
    let (kind, body) = match &args.kind {
        None => (BASIC_MESSAGE, json!({ "content": text.trim_end_matches('\n') })),
        Some(kind) => {
            let body: Value = serde_json::from_str(&text)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| Failure::words("bad-message", "the body is no JSON object"))?;
            (kind.as_str(), body)
        }
    };
    let mut message = json!({ "to": args.to, "type": kind, "body": body, "sign": args.sign });
    if !args.anonymous {
        message["from"] = from(client, args.from.as_deref(), Some(&args.to)).await?.into();
    }
    if let Some(thid) = &args.thid {
        message["headers"] = json!({ "thid": thid });
    }
    let taken: Value = client.post("/v1/messages", &message).await?;
    let id = taken["id"].as_str().unwrap_or_default();
    let Some(seconds) = args.within else {
        out.say(&format!("Kept, and sent to {} as soon as it can be reached.", short(&args.to)));
        return out.document(&taken);
    };
    let sent = sent(client, id, Duration::from_secs(seconds)).await?;
    out.say(&format!("Sent to {}.", short(&args.to)));
    out.document(&sent)
}

/// Waits until a message was sent.
pub async fn sent(client: &Client, id: &str, within: Duration) -> Result<Value, Failure> {
    let until = tokio::time::Instant::now() + within;
    loop {
        let status: Value = client.get(&format!("/v1/messages/{}", quoted(id))).await?;
        let problem = status["problem"].as_str().unwrap_or("nothing is known of it");
        match status["state"].as_str() {
            Some("sent") => return Ok(status),
            Some("waiting") if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
            Some("waiting") => {
                return Err(Failure::new("not-sent-yet", format!("it is not sent yet: {problem}"))
                    .hint("it is kept, and tried again"));
            }
            _ => return Err(Failure::new("not-sent", format!("it was not sent: {problem}"))),
        }
    }
}
