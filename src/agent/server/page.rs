//! What a browser is shown, and the documents of our DIDs that this server publishes (did:web, did:webvh).

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, Uri, header, request::Parts},
    response::{Html, IntoResponse, Response},
};

use super::Shared;
use crate::{
    agent::protocol::out_of_band::{Found, Invitation, InvitationError, qr_svg},
    did::web,
};

const PAGE: &str = include_str!("page.html");

/// Nothing is loaded from anywhere, no script runs, and nobody frames it.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'");

/// An invitation that the URL holds or names, a document of ours, or words about what this is.
pub(super) async fn answer(shared: &Shared, request: &Parts) -> Response {
    let uri = &request.uri;
    let whole = whole_url(shared, request);
    match Invitation::find(&whole) {
        Ok(Found::Invitation(it)) => return invitation(&whole, &it),
        Ok(Found::Fetch(_)) => return named(shared, uri).await,
        Err(InvitationError::NotFound) => {}
        Err(_) => return damaged(),
    }
    if let Some(document) = document(shared, uri.path()) {
        return document;
    }
    match uri.path() {
        "/" => page("A DIDComm agent", &about()),
        _ => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

/// What stands in the browser's address bar.
fn whole_url(shared: &Shared, request: &Parts) -> String {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let options = shared.options();
    let public = options.public_url.as_deref().and_then(|url| {
        let (scheme, rest) = url.split_once("://")?;
        Some(format!("{scheme}://{}", rest.split('/').next()?))
    });
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("{}{path}", public.unwrap_or_else(|| format!("http://{host}")))
}

/// The document of a did:web of ours, or the log of a did:webvh, that is looked for at this path.
fn document(shared: &Shared, path: &str) -> Option<Response> {
    let (kind, text) = match shared.ours.log(path) {
        Some(log) => ("text/jsonl", log),
        None => {
            let did = shared.ours.dids().into_iter().find(|did| web::path(did).is_some_and(|own| own == path))?;
            ("application/did+json", shared.ours.document(&did)?.as_value().to_string())
        }
    };
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
    // Anyone may read it, a wallet in a browser too.
    let anyone = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))];
    Some((kind, anyone, text).into_response())
}

/// An invitation by its name: where it is in full, which a program follows and a browser shows (out-of-band 2.0 "Short URL
/// Message Retrieval").
async fn named(shared: &Shared, uri: &Uri) -> Response {
    let id = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("_oobid="));
    match shared.invitations.long_url(id.unwrap_or_default()).await {
        Ok(Some(url)) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "there is no such invitation, or it is no longer good\n").into_response(),
        Err(error) => {
            tracing::warn!(%error, "an invitation cannot be read");
            (StatusCode::SERVICE_UNAVAILABLE, "invitations cannot be read now\n").into_response()
        }
    }
}

fn about() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<h1>There is a DIDComm agent here</h1>\
         <p>It receives messages for its owner, end to end encrypted, from other agents and from wallets. There is nothing to \
         see in a browser.</p>\
         <p>If someone gave you a link that begins with this address, open it with your wallet, or scan its code.</p>\
         <p><small>Claviger {version}, a DIDComm v2.1 agent whose keys are in hardware.</small></p>"
    )
}

/// The page of an out-of-band URL: a person without a wallet at hand learns what it is (out-of-band 2.0 "Standard Message
/// Encoding").
fn invitation(url: &str, invitation: &Invitation) -> Response {
    let goal = invitation.goal.as_deref();
    let goal = goal.map_or(String::new(), |goal| format!("<p>It says: {}</p>", escaped(&shortened(goal, 1000))));
    let from = escaped(&shortened(&invitation.from, 100));
    // The same as in the address bar: the picture is the URL, not what is read out of it.
    let picture = match qr_svg(url) {
        Ok(svg) => format!("<figure>{}</figure>", svg.split_once("?>").map_or(svg.as_str(), |(_, svg)| svg)),
        Err(_) => "<p>It is too long for a picture: copy the address of this page into your wallet.</p>".to_owned(),
    };
    page(
        "An invitation to talk",
        &format!(
            "<h1>You are invited to talk</h1>{goal}<p>Scan this with a wallet that speaks DIDComm, or copy the address of this \
             page into it.</p>{picture}<p><small>From <code>{from}</code>. Nobody has checked who that is.</small></p>"
        ),
    )
}

fn damaged() -> Response {
    let said = "<h1>This link is damaged</h1><p>It should hold an invitation, and does not. Ask for it again, and copy all of \
                it.</p>";
    (StatusCode::BAD_REQUEST, page("A damaged invitation", said)).into_response()
}

fn page(title: &str, body: &str) -> Response {
    let html = PAGE.replace("{{title}}", &escaped(title)).replace("{{body}}", body);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    ];
    (headers, Html(html)).into_response()
}

/// A stranger wrote it: it is text and nothing else.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
