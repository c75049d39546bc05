//! The answers to GET: web pages for people, redirects of short invitation URLs, and the documents of our DIDs that
//! this server publishes (did:web, did:webvh).

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::context::{PeerConnection, ServerContext};
use crate::agent::{
    protocol::out_of_band::{Invitation, InvitationError, ParsedInvitation},
    published::PublishedContent,
    store::StoreError,
};

const STYLE: &str = include_str!("page.css");

/// Makes the browser load nothing from other servers, run no script, and show the page in no frame.
const CONTENT_SECURITY_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'");

/// The most characters of an invitation's goal, and of its DID, that a page shows.
const MAX_GOAL_CHARS: usize = 1000;
const MAX_DID_CHARS: usize = 100;

/// Answers a GET: with the invitation that the URL contains or names, a document of ours, or a page about this agent.
pub async fn respond(connection: &PeerConnection, request: &Parts) -> Response {
    let context = &connection.context;
    let uri = &request.uri;
    let url = full_url(context, request);
    match Invitation::parse(&url) {
        Ok(ParsedInvitation::Invitation(it)) => return invitation_page(connection, &it).await,
        Ok(ParsedInvitation::Url(_)) => return redirect_to_invitation(context, uri).await,
        Err(InvitationError::NotFound) => {}
        Err(_) => return damaged_invitation_page(),
    }
    if let Some(published) = context.own_dids.published(host(request), uri.path()) {
        return document(published);
    }
    match uri.path() {
        "/" => about_page(),
        _ => (StatusCode::NOT_FOUND, "there is nothing at this address\n").into_response(),
    }
}

/// Returns the URL that the browser's address bar shows.
fn full_url(context: &ServerContext, request: &Parts) -> String {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let options = context.options();
    let public = options.public_url.as_deref().and_then(|url| {
        let (scheme, rest) = url.split_once("://")?;
        Some(format!("{scheme}://{}", rest.split('/').next()?))
    });
    format!("{}{path}", public.unwrap_or_else(|| format!("http://{}", host(request))))
}

/// The `Host` of a request: a host, perhaps with a port.
fn host(request: &Parts) -> &str {
    request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost")
}

/// The document of a did:web of ours, or the log of a did:webvh of ours.
fn document(published: PublishedContent) -> Response {
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static(published.media_type))];
    // Anyone may read the document, including a wallet in a browser.
    let any_origin = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))];
    (media_type, any_origin, published.text).into_response()
}

/// Redirects a short URL to the URL that contains the invitation. A program follows the redirect, and a browser then
/// shows the page of the invitation (out-of-band 2.0 "Short URL Message Retrieval").
async fn redirect_to_invitation(context: &ServerContext, uri: &Uri) -> Response {
    let id = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("_oobid="));
    match context.invitations.long_url(id.unwrap_or_default()).await {
        Ok(Some(url)) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "there is no such invitation, or it has expired\n").into_response(),
        Err(error) => invitations_unavailable(&error),
    }
}

fn invitations_unavailable(error: &StoreError) -> Response {
    tracing::warn!(%error, "invitation not read");
    (StatusCode::SERVICE_UNAVAILABLE, "invitations cannot be read now\n").into_response()
}

fn about_page() -> Response {
    page(
        "A DIDComm agent",
        html! {
            h1 { "There is a DIDComm agent here" }
            p {
                "It receives messages for its owner, end-to-end encrypted, from other agents and from wallets. There is nothing \
                 to see in a browser."
            }
            p { "If someone gave you a link that begins with this address, open it with your wallet, or scan its code." }
            p { small { "Claviger " (env!("CARGO_PKG_VERSION")) ", a DIDComm v2.1 agent whose keys are in hardware." } }
        },
    )
}

/// The page of an out-of-band URL. It tells a person without a wallet at hand what the URL is (out-of-band 2.0
/// "Standard Message Encoding"). Only an invitation that this agent has issued has a page: a stranger must not have us
/// draw pictures, or show his words under our name.
async fn invitation_page(connection: &PeerConnection, requested: &Invitation) -> Response {
    let PeerConnection { context, address, .. } = connection;
    if !context.limits.message_rate.allows(*address, context.options().max_messages_per_second) {
        return (StatusCode::TOO_MANY_REQUESTS, "too many requests from this address\n").into_response();
    }
    let invitation = match context.invitations.find(&requested.id).await {
        Ok(Some(issued)) if issued.invitation.from == requested.from => issued.invitation,
        Ok(_) => return unknown_invitation_page(),
        Err(error) => return invitations_unavailable(&error),
    };
    let qr_code = context.qr_codes.svg(&context.invitations.urls(&invitation).0).await;
    page(
        "An invitation to talk",
        html! {
            h1 { "You are invited to talk" }
            @if let Some(goal) = &invitation.goal {
                p { "It says: " (shortened(goal, MAX_GOAL_CHARS)) }
            }
            p { "Scan this with a wallet that speaks DIDComm, or copy the address of this page into it." }
            @match qr_code {
                Some(svg) => figure { (PreEscaped(&svg)) },
                None => p { "It is too long for a picture: copy the address of this page into your wallet." },
            }
            p { small { "From " code { (shortened(&invitation.from, MAX_DID_CHARS)) } ". Nobody has checked who that is." } }
        },
    )
}

fn unknown_invitation_page() -> Response {
    let body = html! {
        h1 { "This agent has no such invitation" }
        p { "It has expired, was withdrawn, or is from somebody else. Ask for a new one." }
    };
    (StatusCode::NOT_FOUND, page("An unknown invitation", body)).into_response()
}

fn damaged_invitation_page() -> Response {
    let body = html! {
        h1 { "This link is damaged" }
        p { "It should contain an invitation, and does not. Ask for it again, and copy all of it." }
    };
    (StatusCode::BAD_REQUEST, page("A damaged invitation", body)).into_response()
}

/// A page with this title and body. The template escapes every value in it, since strangers write some of them.
fn page(title: &str, body: Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    ];
    (headers, Html(page.into_string())).into_response()
}

/// The first `max_chars` characters of a text, with an ellipsis if it is longer.
fn shortened(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
