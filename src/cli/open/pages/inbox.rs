//! The received messages.

use std::sync::Arc;

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    super::{
        app::App,
        frame::{self, Answer, form, next_page},
        show::{MAX_TEXT, did, items, kind, member, text, time},
    },
    PageQuery, list, notice, peer,
};

pub async fn page(State(app): State<Arc<App>>, Query(query): Query<PageQuery>) -> Answer {
    let after = if query.after.is_empty() { "0" } else { &query.after };
    let (messages, _) = list(&app, "/v1/inbox", "messages", after, "").await?;
    // A page of large messages is shorter than others. Only an empty page is behind the last one.
    let next = match messages.last().map(|message| message["cursor"].to_string()) {
        Some(cursor) => {
            let behind: Value = app.client.get(&format!("/v1/inbox?limit=1&after={cursor}")).await?;
            Some(cursor).filter(|_| !items(&behind, "messages").is_empty())
        }
        None => None,
    };
    let body = html! {
        (notice(&query))
        p.soft { "The oldest first. A message stays until it is deleted here or acknowledged by an application." }
        @if messages.is_empty() { p { "There is no message" @if after != "0" { " behind these" } "." } }
        ul.list { @for message in &messages { (card(&app, message)) } }
        (next_page("/inbox", next.as_deref()))
    };
    Ok(frame::page("/inbox", "Inbox", &body))
}

fn card(app: &App, message: &Value) -> Markup {
    let id = member(message, "id");
    let body = &message["message"]["body"];
    let sender = message["sender"].as_str();
    html! {
        li {
            h2 {
                @match sender {
                    Some(sender) => (peer(&message["label"], sender)),
                    None => "Someone unknown: anyone may have written this",
                }
            }
            @match body["content"].as_str() {
                Some(content) => p.text dir="auto" { (text(content, MAX_TEXT)) },
                None => pre.text { (text(&serde_json::to_string_pretty(body).unwrap_or_default(), MAX_TEXT)) },
            }
            dl {
                @if let Some(received) = message["received"].as_i64() { dt { "Received" } dd { (time(received)) } }
                dt { "For" } dd { (did(member(message, "recipient"))) }
                dt { "Type" } dd { (kind(member(message, "type"))) }
                @for note in items(&message["provenance"], "attachment_notes") {
                    dt { "Attachment " (note["attachment"].as_u64().unwrap_or_default() + 1) }
                    dd { (text(member(note, "problem"), 500)) }
                }
            }
            @if sender.is_some() {
                details {
                    summary { "Reply" }
                    (form(app, "/inbox/reply", &[("id", id)], &html! {
                        label { "Message" textarea name="text" required {} }
                        p { button.main type="submit" { "Send" } }
                    }))
                }
            }
            (form(app, "/inbox/acknowledge", &[("id", id)], &html! { button type="submit" { "Delete" } }))
        }
    }
}
