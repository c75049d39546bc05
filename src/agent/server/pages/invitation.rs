//! The pages of out-of-band URLs. They tell a person without a wallet at hand what the URL is (out-of-band 2.0 "Standard
//! Message Encoding").
//!
//! Only an invitation that this agent has issued has a page: a stranger must not have us draw pictures, or show his words
//! under our name.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{Markup, PreEscaped, html};

use super::{
    super::context::{PeerConnection, ServerContext},
    frame::page,
    text::{shown, time},
};
use crate::agent::{
    clock::now,
    protocol::{issued_invitation::IssuedInvitation, out_of_band::Invitation},
    store::StoreError,
};

/// The most characters that a page shows of a name, of a goal, and of a DID.
const MAX_NAME_CHARS: usize = 64;
const MAX_GOAL_CHARS: usize = 1000;
const MAX_DID_CHARS: usize = 100;
/// A wallet that reads the invitation in the URL has registered this scheme.
const WALLET: &str = "didcomm://invite";

/// The page of a URL that contains an invitation.
pub async fn of_url(connection: &PeerConnection, requested: &Invitation) -> Response {
    let PeerConnection { context, address, .. } = connection;
    if !context.limits.message_rate.allows(*address, context.options().max_messages_per_second) {
        return too_many_requests();
    }
    match context.invitations.find(&requested.id).await {
        Ok(Some(issued)) if issued.invitation.from != requested.from => unknown(),
        Ok(Some(issued)) if issued.is_open(now()) => open(context, &issued).await,
        Ok(Some(issued)) => ended(context, &issued),
        Ok(None) => unknown(),
        Err(error) => unavailable(&error),
    }
}

/// Redirects a short URL to the URL that contains the invitation. A program follows the redirect, and a browser then
/// shows the page of the invitation (out-of-band 2.0 "Short URL Message Retrieval").
pub async fn of_short_url(connection: &PeerConnection, id: &str) -> Response {
    let context = &connection.context;
    match context.invitations.find(id).await {
        Ok(Some(issued)) if issued.has_expired(now()) => ended(context, &issued),
        Ok(Some(issued)) => {
            let (url, _) = context.invitations.urls(&issued.invitation);
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response()
        }
        Ok(None) => unknown(),
        Err(error) => unavailable(&error),
    }
}

/// The page of a URL whose invitation cannot be read.
pub fn damaged() -> Response {
    let body = html! {
        h1 { "This link is damaged" }
        p { "It should contain an invitation, and does not. Ask for it again, and copy all of it." }
    };
    page(StatusCode::BAD_REQUEST, "A damaged invitation", &body)
}

async fn open(context: &ServerContext, issued: &IssuedInvitation) -> Response {
    let invitation = &issued.invitation;
    let (url, short_url) = context.invitations.urls(invitation);
    // The code of the short URL is a quarter as large, so that its modules are twice as wide.
    let link = short_url.unwrap_or(url);
    let qr_code = context.qr_codes.svg(&link).await;
    let body = html! {
        h1 {
            @match inviter(context) {
                Some(name) => { bdi { (name) } " invites you to talk" },
                None => "You are invited to talk",
            }
        }
        @if let Some(goal) = &invitation.goal {
            blockquote dir="auto" { (shown(goal, MAX_GOAL_CHARS)) }
        }
        p.soft { (validity(issued)) }
        @if let Some(svg) = qr_code {
            figure role="img" aria-label="QR code of this invitation" { (PreEscaped(&svg)) }
            p { "Scan it with your wallet, or open it on this device:" }
        }
        p { a.button href=(invitation.to_url(WALLET)) { "Open in a wallet" } }
        div.link {
            input id="link" type="text" readonly value=(link) aria-label="The link of this invitation" spellcheck="false";
            button id="copy" type="button" hidden { "Copy" }
        }
        output id="copied" for="link" {}
        details {
            summary { "What is a wallet?" }
            p {
                "An app that sends and receives encrypted messages, under an identity that belongs to you and not to a company. For \
                 this invitation it must speak DIDComm v2. If you have none, ask whoever invited you which one they use, install it, \
                 and open this page again."
            }
            p { "If your wallet does not open by itself, copy the link and paste it into the wallet." }
        }
        p.small {
            "From " code { (shown(&invitation.from, MAX_DID_CHARS)) } ". Nobody has checked who that is: accept only \
             invitations that you expect."
        }
    };
    page(StatusCode::OK, "An invitation to talk", &body)
}

/// What limits the invitation: its end, and how many may accept it.
fn validity(issued: &IssuedInvitation) -> Markup {
    html! {
        @match issued.expires {
            Some(expires) => { "Valid until " (time(expires)) },
            None => { "Valid until it is withdrawn" },
        }
        @if !issued.multi_use { ", for one person" }
        "."
    }
}

/// The page of an invitation that was used or has expired.
fn ended(context: &ServerContext, issued: &IssuedInvitation) -> Response {
    let who = inviter(context).unwrap_or_else(|| "whoever invited you".to_owned());
    let (title, reason) = match issued.used_by {
        Some(_) if !issued.multi_use => {
            ("This invitation was used", html! { "It was for one person, who has accepted it." })
        }
        _ => (
            "This invitation has expired",
            html! {
                @if let Some(expires) = issued.expires { "It was valid until " (time(expires)) "." }
            },
        ),
    };
    let body = html! {
        h1 { (title) }
        p.soft { (reason) }
        p { "Ask " bdi { (who) } " for a new one." }
        p { "If it was you who accepted it, look into your wallet: the conversation is there, and needs no invitation." }
    };
    page(StatusCode::GONE, title, &body)
}

fn unknown() -> Response {
    let body = html! {
        h1 { "This agent has no such invitation" }
        p.soft { "It was withdrawn, or is from somebody else." }
        p { "Check that you have copied the whole link, or ask for a new one." }
    };
    page(StatusCode::NOT_FOUND, "An unknown invitation", &body)
}

fn unavailable(error: &StoreError) -> Response {
    tracing::warn!(%error, "invitation not read");
    let body = html! {
        h1 { "This invitation cannot be read now" }
        p { "Nothing is wrong with the link. Try again in a minute." }
    };
    page(StatusCode::SERVICE_UNAVAILABLE, "Invitations cannot be read now", &body)
}

fn too_many_requests() -> Response {
    let body = html! {
        h1 { "Too many requests from your network" }
        p { "Nothing is wrong with the link. Try again in a minute." }
    };
    page(StatusCode::TOO_MANY_REQUESTS, "Too many requests", &body)
}

/// The name of this agent's owner, from the configuration.
fn inviter(context: &ServerContext) -> Option<String> {
    let name = shown(context.options().name.as_deref()?, MAX_NAME_CHARS);
    Some(name).filter(|name| !name.is_empty())
}
