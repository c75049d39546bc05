//! Our contacts: the connections, with the labels that a person has given.

use std::sync::Arc;

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    super::{
        app::App,
        frame::{self, Answer, form, next_page},
        show::{MAX_NAME, did, member, text, time, whole_did},
    },
    PageQuery, list, notice,
};

pub async fn page(State(app): State<Arc<App>>, Query(query): Query<PageQuery>) -> Answer {
    let (connections, next) = list(&app, "/v1/connections", "connections", &query.after, "").await?;
    let body = html! {
        (notice(&query))
        @if connections.is_empty() { p { "There is none. " a href="/invitations" { "Invite somebody." } } }
        ul.list { @for connection in &connections { (card(&app, connection)) } }
        (next_page("/contacts", next.as_deref()))
    };
    Ok(frame::page("/contacts", "Contacts", &body))
}

fn card(app: &App, connection: &Value) -> Markup {
    let theirs = member(connection, "theirs");
    let is_blocked = connection["blocked"] == true;
    html! {
        li {
            @if let Some(label) = connection["label"].as_str() { h2 { bdi { (text(label, MAX_NAME)) } } }
            (whole_did(theirs))
            dl {
                @if let Some(name) = connection["calls_itself"].as_str() {
                    dt { "Calls itself" } dd { "“" bdi { (text(name, MAX_NAME)) } "”, which nobody has checked" }
                }
                dt { "As" } dd { (did(member(connection, "ours"))) }
                @if let Some(since) = connection["since"].as_i64() { dt { "Since" } dd { (time(since)) } }
                @if let Some(ended) = connection["ended"].as_i64() {
                    dt { "Ended" }
                    dd { (time(ended)) " by " (if member(connection, "ended_by") == "peer" { "the peer" } else { "us" }) }
                }
                @if connection["stranger"] == true { dt { "Stranger" } dd { "we have not written to it yet" } }
                @if is_blocked { dt { "Blocked" } dd { "its messages are dropped, and nothing is sent to it" } }
            }
            @if connection["ended"].is_null() && !is_blocked {
                details {
                    summary { "Write" }
                    (form(app, "/contacts/send", &[("to", theirs), ("from", member(connection, "ours"))], &html! {
                        label { "Message" textarea name="text" required {} }
                        p { button.main type="submit" { "Send" } }
                    }))
                }
            }
            details {
                summary { "Change" }
                (form(app, "/contacts/label", &[("peer", theirs)], &html! {
                    label {
                        "Label, which only you see; empty removes it"
                        input name="label" maxlength="64" value=(member(connection, "label")) autocomplete="off";
                    }
                    p { button type="submit" { "Set the label" } }
                }))
                (form(app, "/contacts/block", &[("peer", theirs), ("blocked", if is_blocked { "no" } else { "yes" })], &html! {
                    button type="submit" { (if is_blocked { "Unblock" } else { "Block" }) }
                    @if !is_blocked { span.soft { " The peer is not told." } }
                }))
            }
        }
    }
}
