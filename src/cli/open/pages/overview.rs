//! The overview: whether messages are opened, what waits and how old it is, and the limits that were reached.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};
use serde_json::Value;

use super::super::{
    app::App,
    frame::{self, Answer},
    plot::Samples,
    show::{age, bytes, did, items, member, text, time},
};
use crate::cli::{output::count, unix_time::unix_time};

/// The queues: the member of `waiting` with their length, with the time of the oldest, the words for them, and their page.
const QUEUES: [(&str, &str, &str, Option<&str>); 3] = [
    ("deliveries", "oldest_delivery", "to be read", Some("/inbox")),
    ("outgoing", "oldest_outgoing", "to be sent", Some("/outbox")),
    ("envelopes", "oldest_envelope", "to be opened", None),
];

pub async fn page(State(app): State<Arc<App>>) -> Answer {
    let status: Value = app.client.get("/v1/status").await?;
    let tokens: Value = app.client.get("/v1/tokens/status").await?;
    let samples = Samples::parse(&app.client.get_text("/v1/metrics").await?);
    let waiting = &status["waiting"];
    let number = |name: &str| waiting[name].as_u64().unwrap_or(0);
    let body = html! {
        (readiness(&status, &tokens))
        h2 { "What waits" }
        @if status["store_problem"].is_string() { p.problem { (text(member(&status, "store_problem"), 500)) } }
        ul.cards hidden[!waiting.is_object()] {
            @for (name, oldest, words, page) in QUEUES {
                li {
                    div.number { (number(name)) }
                    div { @match page { Some(page) => a href=(page) { (words) }, None => (words) } }
                    @if let Some(time) = waiting[oldest].as_i64() { div.soft { "the oldest for " (age(time)) } }
                }
            }
            li {
                div.number { (bytes(number("bytes"))) }
                div { "in the store" }
                div.soft { (bytes(number("delivery_bytes"))) " unread, " (bytes(number("stranger_delivery_bytes"))) " of it from strangers" }
            }
        }
        h2 { "Limits that were reached" }
        (limits(&samples))
        p.soft {
            "Read at " (time(unix_time() * 1000)) ". Limits count from the start of claviger " (member(&status, "version")) "."
        }
    };
    Ok(frame::page("/", "Overview", &body))
}

/// Whether received messages are opened, and which of our DIDs are refused.
fn readiness(status: &Value, tokens: &Value) -> Markup {
    let ready = items(tokens, "tokens").iter().filter(|token| token["state"] == "ready").count();

    html! {
        p {
            a href="/tokens" { (ready) " of " (count(items(tokens, "tokens").len(), "token")) } " ready. "
            @match tokens["waits_for"].as_str() {
                None => span.good { "Received messages are opened." },
                Some("did") => span.bad { "Messages are not accepted: the agent serves no DID." },
                Some("store") => span.bad { "Received messages wait: no token has opened the store yet." },
                Some(_) => span.bad { "Received messages wait: no ready token has a key of our DIDs." },
            }
        }
        @for refused in items(status, "refused") {
            @for key in items(refused, "keys") {
                p.problem {
                    (did(member(refused, "did"))) " is refused: its key " (did(member(key, "key"))) " is not proved: "
                    (text(member(key, "why"), 500))
                }
            }
        }
    }
}

fn limits(samples: &Samples) -> Markup {
    let reached = samples.limits();
    html! {
        @if reached.is_empty() { p { "None." } }
        ul.cards {
            @for (what, count) in &reached { li { div.number { (count) } div { (what) } } }
        }
        @if !reached.is_empty() {
            p.soft { "docs/operations.md, “Sizes and limits”, says which setting is behind each." }
        }
    }
}
