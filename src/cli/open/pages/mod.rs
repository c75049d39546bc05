//! The pages in the navigation: a file for each.

pub mod contacts;
pub mod dids;
pub mod inbox;
pub mod invitations;
pub mod outbox;
pub mod overview;
pub mod tokens;

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::{app::App, frame::PageFailure, show};
use crate::cli::agent_client::percent_encoded;

/// What a page is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PageQuery {
    /// The cursor of the page before, as the API gave it.
    after: String,
    /// The messages in this state, in the outbox.
    state: String,
    /// What was just done: one of [`DONE`].
    done: String,
}

/// How many items a page has.
const PAGE_SIZE: usize = 25;

/// What an action has done, by the name in the address of the page that it leads back to.
const DONE: [(&str, &str); 10] = [
    ("acknowledged", "The message is deleted."),
    ("queued", "The message is in the outbox."),
    ("cancelled", "The message is cancelled."),
    ("retried", "The message is tried now."),
    ("labelled", "The label is changed."),
    ("blocked", "The peer is blocked."),
    ("unblocked", "The peer is no longer blocked."),
    ("invited", "The invitation is made."),
    ("revoked", "The invitation is revoked."),
    ("accepted", "The invitation is accepted. A ping tells the inviter."),
];

/// Says what was just done. The reader of a screen reader hears it first.
fn notice(query: &PageQuery) -> Markup {
    let done = DONE.iter().find(|(name, _)| *name == query.done);
    html! { @if let Some((_, text)) = done { p.notice role="status" { (text) } } }
}

/// Asks the API for a page of a list. `filter` is empty, or begins with `&`. Returns the answer, and the cursor of the next page
/// if there may be one.
async fn list(
    app: &App,
    path: &str,
    name: &str,
    after: &str,
    filter: &str,
) -> Result<(Vec<Value>, Option<String>), PageFailure> {
    let path = format!("{path}?limit={PAGE_SIZE}&after={}{filter}", percent_encoded(after));
    let mut answer: Value = app.client.get(&path).await?;
    let cursor = match &answer["cursor"] {
        Value::String(cursor) => cursor.clone(),
        cursor => cursor.to_string(),
    };
    let items = match answer[name].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let may_go_on = items.len() == PAGE_SIZE;
    Ok((items, may_go_on.then_some(cursor)))
}

/// Returns the labels of peers.
async fn labels<'a>(app: &App, dids: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, Value> {
    let mut labels = BTreeMap::new();
    for did in dids {
        if labels.contains_key(did) {
            continue;
        }
        let found: Result<Value, _> =
            app.client.get(&format!("/v1/connections?limit=1&peer={}", percent_encoded(did))).await;
        // A name is not worth a page without its content.
        labels.insert(did, found.unwrap_or_default()["connections"][0]["label"].clone());
    }
    labels
}

/// The name of a peer: its label, else the short name of its DID.
fn peer(label: &Value, did: &str) -> Markup {
    match label.as_str() {
        Some(label) => html! { bdi { (show::text(label, show::MAX_NAME)) } " " (show::did(did)) },
        None => show::did(did),
    }
}
