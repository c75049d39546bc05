//! Our invitations with their QR codes, and the invitation of somebody else that a person accepts.

use std::sync::Arc;

use axum::extract::{Query, State};
use claviger::agent::protocol::out_of_band::qr_svg;
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::{
    super::{
        app::App,
        frame::{self, Answer, form, next_page},
        show::{copy_button, did, member, text, time},
    },
    PageQuery, list, notice,
};
use crate::cli::unix_time::unix_time;

pub async fn page(State(app): State<Arc<App>>, Query(query): Query<PageQuery>) -> Answer {
    let (mut invitations, next) = list(&app, "/v1/invitations", "invitations", &query.after, "").await?;
    // The API lists them by id, which is random.
    invitations.sort_by_key(|invitation| -invitation["created"].as_i64().unwrap_or_default());
    let body = html! {
        (notice(&query))
        (make(&app))
        (accept(&app))
        h2 { "Our invitations" }
        @if invitations.is_empty() { p { "There is none." } }
        ul.list { @for invitation in &invitations { (card(&app, invitation)) } }
        (next_page("/invitations", next.as_deref()))
    };
    Ok(frame::page("/invitations", "Invitations", &body))
}

fn make(app: &App) -> Markup {
    html! {
        details {
            summary { "Invite somebody" }
            (form(app, "/invitations/create", &[], &html! {
                label { "Goal: what the other person reads" input name="goal" maxlength="1000" autocomplete="off"; }
                label { "Valid for hours" input name="hours" type="number" min="1" max="87600" value="168" required; }
                label { input name="multi_use" type="checkbox" value="yes"; " More than one person may accept it" }
                p { button.main type="submit" { "Make the invitation" } }
            }))
        }
    }
}

fn accept(app: &App) -> Markup {
    html! {
        details {
            summary { "Accept an invitation" }
            (form(app, "/invitations/accept", &[], &html! {
                label { "The link of the invitation" input name="invitation" required autocomplete="off"; }
                label { "Your name for the inviter, which only you see" input name="label" maxlength="64" autocomplete="off"; }
                p { button.main type="submit" { "Accept" } }
            }))
        }
    }
}

/// Whether a peer may still accept an invitation, in words.
fn state(invitation: &Value) -> Result<&'static str, &'static str> {
    let is_multi_use = invitation["multi_use"] == true;
    if !is_multi_use && !invitation["used_by"].is_null() {
        return Err("used");
    }
    match invitation["expires"].as_i64() {
        Some(expires) if expires / 1000 <= unix_time() => Err("expired"),
        _ if is_multi_use => Ok("open, for any number of people"),
        _ => Ok("open, for one person"),
    }
}

fn card(app: &App, invitation: &Value) -> Markup {
    let state = state(invitation);
    let link = invitation["short_url"].as_str().unwrap_or(member(invitation, "url"));
    let goal = invitation["invitation"]["body"]["goal"].as_str();
    html! {
        li {
            h3 dir="auto" { (text(goal.unwrap_or("No goal"), 1000)) }
            p.(if state.is_ok() { "good" } else { "soft" }) { (state.unwrap_or_else(|ended| ended)) }
            @if state.is_ok() {
                @if let Ok(svg) = qr_svg(link) {
                    // Within a page, SVG has no XML declaration.
                    figure role="img" aria-label="QR code of this invitation" {
                        (PreEscaped(svg.split_once("?>").map_or(svg.as_str(), |(_, element)| element)))
                    }
                }
                p { code { (text(link, 2000)) } " " (copy_button(link)) }
            }
            dl {
                @if let Some(created) = invitation["created"].as_i64() { dt { "Made" } dd { (time(created)) } }
                @if let Some(expires) = invitation["expires"].as_i64() { dt { "Expires" } dd { (time(expires)) } }
                dt { "From" } dd { (did(member(&invitation["invitation"], "from"))) }
                @if let Some(used_by) = invitation["used_by"].as_str() { dt { "Used by" } dd { (did(used_by)) } }
            }
            (form(app, "/invitations/revoke", &[("id", member(invitation, "id"))], &html! {
                button type="submit" { (if state.is_ok() { "Revoke" } else { "Delete" }) }
            }))
        }
    }
}
