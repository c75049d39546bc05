//! The outgoing messages: what waits and why, and what was sent or given up.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    super::{
        app::App,
        frame::{self, Answer, form, next_page},
        show::{age, did, kind, member, text, time, until},
    },
    PageQuery, labels, list, notice, peer,
};

const STATES: [&str; 5] = ["waiting", "failed", "expired", "sent", "cancelled"];

pub async fn page(State(app): State<Arc<App>>, Query(query): Query<PageQuery>) -> Answer {
    let state = STATES.into_iter().find(|state| *state == query.state).unwrap_or(STATES[0]);
    let (messages, next) = list(&app, "/v1/messages", "messages", &query.after, &format!("&state={state}")).await?;
    let labels = labels(&app, messages.iter().map(|message| member(message, "to"))).await;
    let body = html! {
        (notice(&query))
        p.actions {
            @for it in STATES {
                a href={ "/outbox?state=" (it) } aria-current=[(it == state).then_some("true")] { (it) }
            }
        }
        @if messages.is_empty() { p { "No message is " (state) "." } }
        ul.list { @for message in &messages { (card(&app, message, &labels)) } }
        (next_page(&format!("/outbox?state={state}"), next.as_deref()))
    };
    Ok(frame::page("/outbox", "Outbox", &body))
}

fn card(app: &App, message: &Value, labels: &BTreeMap<&str, Value>) -> Markup {
    let to = member(message, "to");
    let id = member(message, "id");
    let is_waiting = member(message, "state") == "waiting";
    html! {
        li {
            h2 { "To " (peer(&labels[to], to)) }
            @if is_waiting {
                p {
                    @match member(message, "waits_for") {
                        "token" => "Waits for a token",
                        "peer" => "Waits for the peer",
                        "other-node" => "Is sent by another node",
                        _ => "Waits for its turn",
                    }
                    @if let Some(next) = message["next_try"].as_i64() { ", next try in " (until(next)) }
                    "."
                }
            }
            @if let Some(problem) = message["problem"].as_str() { p.problem { (text(problem, 1000)) } }
            dl {
                @if let Some(created) = message["created"].as_i64() {
                    dt { "Written" } dd { (time(created)) @if is_waiting { ", " (age(created)) " ago" } }
                }
                @if let Some(time_of) = message["time"].as_i64().filter(|_| !is_waiting) { dt { "Since" } dd { (time(time_of)) } }
                dt { "Attempts" } dd { (message["tries"].as_u64().unwrap_or_default()) }
                @if let Some(expires) = message["expires"].as_i64().filter(|_| is_waiting) {
                    dt { "Given up" } dd { (time(expires)) }
                }
                dt { "From" } dd { @match message["from"].as_str() { Some(from) => (did(from)), None => "nobody: it is anonymous" } }
                dt { "Type" } dd { (kind(member(message, "type"))) }
            }
            @if is_waiting {
                div.actions {
                    (form(app, "/outbox/retry", &[("id", id)], &html! { button type="submit" { "Try now" } }))
                    (form(app, "/outbox/cancel", &[("id", id)], &html! { button type="submit" { "Cancel" } }))
                }
            }
        }
    }
}
