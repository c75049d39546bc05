//! `claviger status`: shows the state of the running agent.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::{
    agent_client::AgentClient,
    failure::Failure,
    output::{Out, count, printable, short},
    unix_time::date_and_minute,
};

/// Shows the state of the running agent: its tokens, and the messages that wait
///
/// Each token has a line: whether it is ready, since when, and if not, why and what to do. If the agent shares its store with
/// others (`node` in `[store]`), each of them has a line, too.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"status", "tokens", "keys"}, as the API has them (docs/api.md)."#)]
pub struct Args {}

pub async fn run(_: &Args, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let status: Value = client.get("/v1/status").await?;
    let keys = client.get_all("/v1/tokens", "keys").await?;
    let tokens: Value = client.get("/v1/tokens/status").await?;
    if out.json {
        return out.document(&json!({ "status": status, "tokens": tokens, "keys": keys }));
    }
    let Tokens { tokens, waits_for } = Tokens::deserialize(tokens).unwrap_or_default();
    let ready = tokens.iter().filter(|token| token.state == "ready").count();
    let version = status["version"].as_str().unwrap_or_default();
    let verb = if tokens.len() == 1 { "is" } else { "are" };
    out.line(&format!("claviger {version}: {ready} of {} {verb} ready", count(tokens.len(), "token")))?;
    for node in status["nodes"].as_array().into_iter().flatten() {
        out.line(&node_line(node))?;
    }
    for token in &tokens {
        out.line(&token.line())?;
        if let Some(action) = &token.action {
            out.line(&format!("  what to do: {action}"))?;
        }
    }
    match waits_for.as_deref() {
        None => out.line("received messages are opened")?,
        Some("did") => out.line("received messages are not accepted: the agent serves no DID")?,
        Some("token") => out.line("received messages wait: no ready token has a key agreement key of our DIDs")?,
        Some("store") => {
            out.line("received messages wait: the store is sealed, and no ready token has unwrapped its key yet")?;
        }
        Some(other) => out.line(&format!("received messages wait for: {other}"))?,
    }
    match status["store_problem"].as_str() {
        Some(problem) => out.warn(&printable(problem)),
        None => {
            let waiting = &status["waiting"];
            let messages =
                |name: &str| count(waiting[name].as_u64().unwrap_or(0).try_into().unwrap_or(usize::MAX), "message");
            out.line(&format!("{} to be unpacked", messages("envelopes")))?;
            out.line(&format!("{} to be read", messages("deliveries")))?;
            out.line(&format!("{} to be sent", messages("outgoing")))?;
        }
    }
    for refused in status["refused"].as_array().into_iter().flatten() {
        for key in refused["keys"].as_array().into_iter().flatten() {
            let text = |name: &str| key[name].as_str().unwrap_or_default();
            out.warn(&format!(
                "{} is refused: its key {} is not proved: {}",
                short(refused["did"].as_str().unwrap_or_default()),
                text("key"),
                text("why")
            ));
        }
    }
    if status["refused"].as_array().is_some_and(|refused| !refused.is_empty()) {
        out.say(
            "  what to do: restore these keys in their tokens; for keys that are lost for good, make another DID (`claviger did \
             create`), and move the document of the old one out of `documents` in the state folder",
        );
    }
    for key in &keys {
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
        out.line(&format!("{} in the token {:?}: {}", text("key"), text("token"), text("state")))?;
    }
    Ok(())
}

/// The line of an agent that shares the store.
fn node_line(node: &Value) -> String {
    let text = |name: &str| printable(node[name].as_str().unwrap_or_default());
    let this = if node["this"] == true { " (this one)" } else { "" };
    let leads = if node["leads"] == true { ", which leads" } else { "" };
    let since = date_and_minute(node["since"].as_i64().unwrap_or_default());
    format!("node {}{this}{leads}: claviger {}, since {since}", text("name"), text("version"))
}

/// The answer of `/v1/tokens/status`.
#[derive(Default, Deserialize)]
struct Tokens {
    tokens: Vec<Token>,
    waits_for: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    name: String,
    state: String,
    since: u64,
    reason: Option<String>,
    action: Option<String>,
}

impl Token {
    fn line(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = now.saturating_sub(Duration::from_millis(self.since)).as_secs();
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("token {:?} has been {} for {}{reason}", self.name, self.state, duration(time))
    }
}

/// A time in the largest unit of which it has two or more.
fn duration(seconds: u64) -> String {
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (size, unit) = units.into_iter().find(|(size, _)| seconds >= 2 * size).unwrap_or((1, "second"));
    count(usize::try_from(seconds / size).unwrap_or(usize::MAX), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_line() {
        let line = |this, leads| {
            node_line(&json!({ "name": "a", "version": "1.2.3", "since": 0, "leads": leads, "this": this }))
        };
        assert_eq!(line(true, false), "node a (this one): claviger 1.2.3, since 1970-01-01 00:00 UTC");
        assert_eq!(line(false, true), "node a, which leads: claviger 1.2.3, since 1970-01-01 00:00 UTC");
    }

    #[test]
    fn a_time_has_one_unit() {
        let times = [0, 1, 59, 119, 120, 7199, 7200, 172_799, 172_800].map(duration);
        let expected = [
            "0 seconds",
            "1 second",
            "59 seconds",
            "119 seconds",
            "2 minutes",
            "119 minutes",
            "2 hours",
            "47 hours",
            "2 days",
        ];
        assert_eq!(times, expected);
    }
}
