//! What all public pages have in common: the style, the script, and what a browser may do with them.

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::encoding::to_base64url;

const STYLE: &str = include_str!("page.css");
/// A page is whole without its script, which shows the button that copies, and times in the zone of the browser.
const SCRIPT: &str = include_str!("page.js");

/// Lets the browser apply this style and run this script, and nothing else: it loads nothing, submits no form, and shows the
/// page in no frame (CSP Level 3).
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    // In standard base64 with padding, which every browser reads.
    let hash = |text: &str| to_base64url(Sha256::digest(text.as_bytes())).replace('-', "+").replace('_', "/") + "=";
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    HeaderValue::try_from(policy).expect("base64 is valid in a header")
});

/// A page with this title and body. The template escapes every value in it, since strangers write some of them.
pub fn page(status: StatusCode, title: &str, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    ];
    (status, headers, Html(page.into_string())).into_response()
}
