//! What all pages have in common: navigation, style, script, and what a browser may do with them.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{
    app::App,
    guard::FORM_TOKEN,
    show::{MAX_TEXT, text},
};
use crate::cli::failure::Failure;

const STYLE: &str = include_str!("page.css");
/// Where the style is. Also who may not use the page gets it.
pub const STYLE_PATH: &str = "/page.css";
/// The pages are whole without their script, which shows buttons that copy, and times in the zone of the browser.
const SCRIPT: &str = include_str!("page.js");

/// The pages in the navigation.
const PAGES: [(&str, &str); 7] = [
    ("/", "Overview"),
    ("/inbox", "Inbox"),
    ("/outbox", "Outbox"),
    ("/contacts", "Contacts"),
    ("/invitations", "Invitations"),
    ("/dids", "DIDs"),
    ("/tokens", "Tokens"),
];

/// Lets the browser apply our style, run our script and send our forms to us, and nothing else (CSP Level 3).
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);

/// A page in the navigation, or the failure to make it.
pub type Answer = Result<Response, PageFailure>;

/// A failure that a page shows.
pub struct PageFailure(Failure);

impl From<Failure> for PageFailure {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for PageFailure {
    fn into_response(self) -> Response {
        let Failure { code, message, hint, .. } = self.0;
        let status = if code == "agent-away" { StatusCode::BAD_GATEWAY } else { StatusCode::BAD_REQUEST };
        let body = html! {
            p.problem role="alert" { (text(&message, MAX_TEXT)) }
            @if let Some(hint) = hint { p { (text(&hint, MAX_TEXT)) } }
            p { "Go back, or read the " a href="/" { "overview" } "." }
        };
        let title = if code == "agent-away" { "The agent does not answer" } else { "The agent has refused this" };
        (status, document(title, Some(""), &body)).into_response()
    }
}

/// A page with this path in the navigation.
pub fn page(path: &str, title: &str, body: &Markup) -> Response {
    document(title, Some(path), body).into_response()
}

/// A form that posts to a path, with hidden fields.
pub fn form(app: &App, action: &str, hidden: &[(&str, &str)], fields: &Markup) -> Markup {
    html! {
        form method="post" action=(action) {
            input type="hidden" name=(FORM_TOKEN) value=(app.guard.form_token());
            @for (name, value) in hidden { input type="hidden" name=(name) value=(value); }
            (fields)
        }
    }
}

/// A link to the next page of a list, if the list may go on.
pub fn next_page(path: &str, cursor: Option<&str>) -> Markup {
    let separator = if path.contains('?') { '&' } else { '?' };
    html! {
        @if let Some(cursor) = cursor {
            p { a href={ (path) (separator) "after=" (crate::cli::agent_client::percent_encoded(cursor)) } { "Next page" } }
        }
    }
}

/// The page behind the one-time link. It leads on by itself: after a redirect, a browser would not send the cookie if the link
/// was opened from another site.
pub fn opened() -> Response {
    let body = html! { p { a href="/" { "Open the page of the agent" } } };
    let mut response = document("Claviger", None, &body).into_response();
    response.headers_mut().insert(HeaderName::from_static("refresh"), HeaderValue::from_static("0; url=/"));
    response
}

/// The answer to somebody who may not use the page.
pub fn refused(why: &str) -> Response {
    let body = html! {
        p { (why) }
        p { "Run " code { "claviger open" } " for a new link." }
    };
    (StatusCode::FORBIDDEN, document("No access", None, &body)).into_response()
}

pub async fn unknown_page() -> Response {
    let body = html! { p { "There is no such page. Read the " a href="/" { "overview" } "." } };
    (StatusCode::NOT_FOUND, document("Not found", Some(""), &body)).into_response()
}

pub async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], STYLE)
}

pub async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"))], SCRIPT)
}

/// Adds the headers that every answer has. Nothing is kept on the disk of the browser.
pub async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // With `no-referrer` a browser would not name the origin of a form.
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    response
}

/// An HTML document; with the navigation if the reader may use the page.
fn document(title: &str, path: Option<&str>, body: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) @if title != "Claviger" { " – Claviger" } }
                link rel="stylesheet" href=(STYLE_PATH);
                script src="/page.js" defer {}
            }
            body {
                a.skip href="#content" { "To the content" }
                @if let Some(path) = path {
                    nav aria-label="Pages" {
                        ul {
                            @for (href, name) in PAGES {
                                li { a href=(href) aria-current=[(href == path).then_some("page")] { (name) } }
                            }
                        }
                    }
                }
                main id="content" {
                    h1 { (title) }
                    (body)
                }
            }
        }
    };
    Html(page.into_string())
}
