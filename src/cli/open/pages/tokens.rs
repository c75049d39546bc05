//! The tokens: their state, their keys with the custody of each, and how long their operations take.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};
use serde_json::Value;

use super::super::{
    app::App,
    frame::{self, Answer},
    plot::Samples,
    show::{MAX_NAME, age, did, items, member, text},
};

/// The kinds of private-key operations.
const KINDS: [(&str, &str); 3] =
    [("unwrap", "Opening a message"), ("wrap", "Encrypting a message"), ("sign", "Signing a message")];

pub async fn page(State(app): State<Arc<App>>) -> Answer {
    let states: Value = app.client.get("/v1/tokens/status").await?;
    let keys = app.client.get_all("/v1/tokens", "keys").await?;
    let samples = Samples::parse(&app.client.get_text("/v1/metrics").await?);
    let body = html! {
        p { "Each token has a keeper: the process that has its module and its PIN. This page cannot use a key." }
        ul.list {
            @for token in items(&states, "tokens") {
                @let name = member(token, "name");
                @let held: Vec<&Value> = keys.iter().filter(|key| member(key, "token") == name).collect();
                li {
                    h2 { (text(name, MAX_NAME)) }
                    (token_state(token))
                    @if held.is_empty() { p.soft { "It has shown no key since the start." } }
                    ul.cards.wide { @for key in held { (key_card(key)) } }
                }
            }
        }
        h2 { "How long operations take" }
        p.soft { "Since the start, with the way to the keeper and the queue of the token. Bars count operations." }
        ul.cards.wide {
            @for (kind, words) in KINDS {
                li {
                    h3 { (words) }
                    @match samples.durations(kind) {
                        Some(durations) => (durations.plot()),
                        None => p.soft { "None yet." },
                    }
                }
            }
        }
    };
    Ok(frame::page("/tokens", "Tokens", &body))
}

fn token_state(state: &Value) -> Markup {
    let name = member(state, "state");
    html! {
        p.(if name == "ready" { "good" } else { "problem" }) {
            (text(name, MAX_NAME))
            @if let Some(since) = state["since"].as_i64() { " for " (age(since)) }
            @if let Some(reason) = state["reason"].as_str() { ": " (text(reason, 1000)) }
        }
        @if let Some(action) = state["action"].as_str() { p { (text(action, 1000)) } }
    }
}

fn key_card(key: &Value) -> Markup {
    html! {
        li {
            (did(member(key, "key")))
            dl {
                @if let Some(label) = key["label"].as_str() { dt { "Label" } dd { (text(label, MAX_NAME)) } }
                dt { "State" } dd { (text(member(key, "state"), MAX_NAME)) }
                @if let Some(custody) = key["custody"].as_str() { dt { "Custody" } dd { (text(custody, MAX_NAME)) } }
                @if key["asks_pin"] == true || key["asks_touch"] == true {
                    dt { "Asks" }
                    dd {
                        @if key["asks_pin"] == true { "for a PIN " }
                        @if key["asks_touch"] == true { "for a touch" }
                    }
                }
            }
        }
    }
}
