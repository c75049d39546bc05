//! Our DIDs, their keys and what they publish; and the mediators.

use std::sync::Arc;

use axum::extract::{Query, State};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    super::{
        app::App,
        frame::{self, Answer, next_page},
        show::{MAX_NAME, did, items, member, text, whole_did},
    },
    PageQuery, list,
};

pub async fn page(State(app): State<Arc<App>>, Query(query): Query<PageQuery>) -> Answer {
    let (dids, next) = list(&app, "/v1/dids", "dids", &query.after, "").await?;
    let (mediators, _) = list(&app, "/v1/mediators", "mediators", "", "").await?;
    let body = html! {
        p.soft { "The newest first. " code { "claviger did" } " makes and changes them." }
        @if dids.is_empty() { p { "There is none." } }
        ul.list { @for did in &dids { (did_card(did)) } }
        (next_page("/dids", next.as_deref()))
        h2 { "Mediators" }
        @if mediators.is_empty() { p { "None: peers reach this agent themselves." } }
        ul.list { @for mediator in &mediators { (mediator_card(mediator)) } }
    };
    Ok(frame::page("/dids", "DIDs", &body))
}

fn did_card(own: &Value) -> Markup {
    let document = &own["document"];
    let missing: Vec<&str> = items(own, "missing").iter().filter_map(Value::as_str).collect();
    html! {
        li {
            (whole_did(member(own, "did")))
            dl {
                @for method in items(document, "verificationMethod") {
                    @let id = member(method, "id");
                    // A document may write the id with or without the DID.
                    @let fragment = id.rsplit('#').next().unwrap_or_default();
                    @let is_missing = missing.iter().any(|it| it.rsplit('#').next() == Some(fragment));
                    dt { "Key" }
                    dd {
                        code { "#" (text(fragment, MAX_NAME)) }
                        " " (uses(document, id))
                        @if is_missing { " " span.bad { "– no token has shown it" } }
                    }
                }
                @for service in items(document, "service") {
                    @let endpoint = &service["serviceEndpoint"];
                    @let uri = endpoint.as_str().or(endpoint["uri"].as_str()).or(endpoint[0]["uri"].as_str());
                    @if let Some(uri) = uri { dt { "Service" } dd { (text(uri, 500)) } }
                }
            }
        }
    }
}

/// What a key of a document is for.
fn uses(document: &Value, id: &str) -> &'static str {
    let fragment = id.rsplit('#').next();
    let is_for = |usage: &str| {
        items(document, usage).iter().any(|it| {
            let named = it.as_str().or(it["id"].as_str()).unwrap_or_default();
            named.rsplit('#').next() == fragment
        })
    };
    match (is_for("keyAgreement"), is_for("authentication")) {
        (true, true) => "encrypts and signs",
        (true, false) => "encrypts",
        (false, true) => "signs",
        (false, false) => "",
    }
}

fn mediator_card(mediator: &Value) -> Markup {
    let state = member(mediator, "state");
    html! {
        li {
            (did(member(mediator, "did")))
            p.(if state == "away" { "problem" } else { "good" }) {
                (text(state, MAX_NAME))
                @if let Some(problem) = mediator["problem"].as_str() { ": " (text(problem, 1000)) }
            }
        }
    }
}
