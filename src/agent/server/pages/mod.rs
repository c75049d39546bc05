//! The answers to GET: web pages for people, redirects of short invitation URLs, and the documents of our DIDs that
//! this server publishes (did:web, did:webvh).

mod frame;
mod invitation;
mod text;

use axum::{
    http::{HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use maud::html;

use super::context::{PeerConnection, ServerContext};
use crate::agent::{
    protocol::out_of_band::{Invitation, InvitationError, ParsedInvitation},
    published::PublishedContent,
};
use frame::page;

/// Answers a GET: with the invitation that the URL contains or names, a document of ours, or a page about this agent.
pub async fn respond(connection: &PeerConnection, request: &Parts) -> Response {
    let context = &connection.context;
    let uri = &request.uri;
    match Invitation::parse(&full_url(context, request)) {
        Ok(ParsedInvitation::Invitation(it)) => return invitation::of_url(connection, &it).await,
        Ok(ParsedInvitation::Url(_)) => return invitation::of_short_url(connection, oob_id(uri)).await,
        Err(InvitationError::NotFound) => {}
        Err(_) => return invitation::damaged(),
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

/// The host of a request, perhaps with a port: of its URL if that is whole, else from `Host` (RFC 9112 section 3.2.2).
fn host(request: &Parts) -> &str {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str();
    }
    request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost")
}

/// The id of the invitation that a short URL names.
fn oob_id(uri: &Uri) -> &str {
    uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("_oobid=")).unwrap_or_default()
}

/// The document of a did:web of ours, or the log of a did:webvh of ours.
fn document(published: PublishedContent) -> Response {
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static(published.media_type))];
    (media_type, published.text).into_response()
}

/// The page at `/`. It tells a stranger neither which release runs here nor where its keys are.
fn about_page() -> Response {
    let body = html! {
        h1 { "There is a DIDComm agent here" }
        p {
            "It receives messages for its owner, end-to-end encrypted, from other agents and from wallets. There is nothing to see in \
             a browser."
        }
        p { "If someone gave you a link that begins with this address, open it with your wallet, or scan its code." }
    };
    page(StatusCode::OK, "A DIDComm agent", &body)
}
