//! The channel to a mediator, on which the mediator answers: a WebSocket, or a series of HTTP POSTs.
//!
//! Mediators answer with other things than messages too: a login page, `null`, an error in JSON. The body of an error is
//! quoted, since it often says what the mediator wants. Another body that is no JSON object is no message.

use std::{collections::VecDeque, time::Duration};

use hyper::body::Bytes;
use serde_json::Value;

use super::{error::MediationError, parts::MediationParts};
use crate::{
    did::Document,
    didcomm::ENCRYPTED,
    net::{HttpClient, RequestLimits, WebSocketReceiver, WebSocketSender},
};

/// The time limit of a POST.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the mediator may take to close its side of a WebSocket.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most characters of an error's body in a message for people.
const MAX_QUOTED: usize = 150;

/// Which endpoint of the mediator is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// A WebSocket if the mediator has one, else HTTP.
    PreferWebSocket,
    /// HTTP if the mediator has it, else a WebSocket.
    PreferHttp,
    /// HTTP only.
    Http,
}

/// An open channel to a mediator.
pub(super) enum Channel {
    /// The mediator may send messages at any time.
    WebSocket { sender: Box<WebSocketSender>, receiver: Box<WebSocketReceiver> },
    /// The mediator sends messages in the responses to POSTs only.
    Http { client: Box<HttpClient>, url: String, max_bytes: usize, responses: VecDeque<Bytes> },
}

impl Channel {
    /// Opens a channel to the first usable endpoint of a mediator's document, in the order of `transport`, and for each
    /// kind in the order of the document. `max_bytes` limits each WebSocket message or response body of the mediator.
    pub async fn open(
        parts: &MediationParts,
        document: &Document,
        transport: Transport,
        max_bytes: usize,
    ) -> Result<Self, MediationError> {
        let endpoints = || document.didcomm_services().flat_map(|service| &service.endpoints).map(|it| it.uri.as_str());
        let with_scheme = |schemes: [&'static str; 2]| {
            endpoints().filter(move |uri| uri.split_once(':').is_some_and(|(scheme, _)| schemes.contains(&scheme)))
        };
        let has_http = parts.http.is_some() && with_scheme(["https", "http"]).next().is_some();
        let websocket = match transport {
            Transport::PreferWebSocket => true,
            Transport::PreferHttp => !has_http,
            Transport::Http => false,
        };
        let mut last_error = None;
        for uri in with_scheme(["wss", "ws"]).filter(|_| websocket) {
            let Some(client) = &parts.websockets else { break };
            match client.with_message_limit(max_bytes).connect(uri).await {
                Ok((sender, receiver)) => {
                    return Ok(Self::WebSocket { sender: Box::new(sender), receiver: Box::new(receiver) });
                }
                Err(error) => last_error = Some(MediationError::from(error)),
            }
        }
        if let (Some(uri), Some(client)) = (with_scheme(["https", "http"]).next(), &parts.http) {
            return Ok(Self::Http {
                client: Box::new(client.clone()),
                url: uri.to_owned(),
                max_bytes,
                responses: VecDeque::new(),
            });
        }
        Err(last_error.unwrap_or_else(|| {
            MediationError::Unusable(
                "its document has no HTTP or WebSocket endpoint that this agent can use".to_owned(),
            )
        }))
    }

    /// Whether the mediator may send messages without a request.
    pub fn is_websocket(&self) -> bool {
        matches!(self, Self::WebSocket { .. })
    }

    /// Sends a packed message. Over HTTP this waits for the response, and keeps its body for
    /// [`receive`](Self::receive).
    pub async fn send(&mut self, packed: String) -> Result<(), MediationError> {
        match self {
            Self::WebSocket { sender, .. } => Ok(sender.send(packed).await?),
            Self::Http { client, url, max_bytes, responses } => {
                let limits = RequestLimits { timeout: POST_TIMEOUT, max_response_bytes: *max_bytes };
                let response = client.post(url, ENCRYPTED, packed.into(), limits).await?;
                if !response.is_success() {
                    return Err(status_error(url, response.status, &response.body.unwrap_or_default()));
                }
                responses.extend(Some(response.body?).filter(|body| body.trim_ascii_start().starts_with(b"{")));
                Ok(())
            }
        }
    }

    /// Returns the next message of the mediator, still packed. `None` once the mediator has closed the WebSocket, or no
    /// HTTP response is left. The call may be cancelled and repeated.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, MediationError> {
        match self {
            Self::WebSocket { receiver, .. } => Ok(receiver.receive().await?),
            Self::Http { responses, .. } => Ok(responses.pop_front()),
        }
    }

    /// Closes a WebSocket, and waits for the mediator's close frame for up to two seconds.
    pub async fn close(self) {
        if let Self::WebSocket { sender, mut receiver } = self {
            let closed = async {
                sender.close().await;
                while let Ok(Some(_)) = receiver.receive().await {}
            };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        }
    }
}

/// The error of a POST that the server answered with this status.
fn status_error(url: &str, status: u16, body: &[u8]) -> MediationError {
    let said = quote(body);
    let text = format!("{url} answers with status {status}{said}");
    match status {
        401 | 407 => MediationError::Denied(format!(
            "{text}. It may want a login of its own before it reads a message, which this agent does not have"
        )),
        // The server may have an answer later.
        408 | 425 | 429 => MediationError::Unreachable(text),
        400..500 => MediationError::Denied(text),
        _ => MediationError::Unreachable(text),
    }
}

/// The text of an error's body, after a colon: the member `error` or `message` of a JSON object, or a short text.
fn quote(body: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let member = ["error", "message"].iter().find_map(|name| json.get(name)?.as_str());
    let text = member.or_else(|| std::str::from_utf8(body).ok()).unwrap_or_default().trim();
    let is_short = !text.is_empty() && text.chars().count() <= MAX_QUOTED;
    if !is_short || text.chars().any(char::is_control) || text.starts_with(['<', '{', '[']) {
        return String::new();
    }
    format!(": {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_body_is_quoted_if_it_is_a_short_text() {
        assert_eq!(quote(br#"{"error":"No client connection found"}"#), ": No client connection found");
        assert_eq!(quote(br#"{"httpCode":401,"message":"Missing credentials"}"#), ": Missing credentials");
        assert_eq!(quote(b"Unsupported didcomm message\n"), ": Unsupported didcomm message");
        for body in ["", " ", "<html>no</html>", "{}", "two\nlines", &"x".repeat(200), r#"{"error": 7}"#] {
            assert_eq!(quote(body.as_bytes()), "", "{body}");
        }
        assert_eq!(quote(b"\xff"), "");
    }

    #[test]
    fn a_status_says_whether_a_retry_helps() {
        let error = |status| status_error("https://mediator.example/", status, b"no");
        assert!(matches!(error(401), MediationError::Denied(text) if text.contains("login")));
        for status in [400, 403, 404, 422] {
            assert!(matches!(error(status), MediationError::Denied(text) if text.ends_with(": no")), "{status}");
        }
        for status in [301, 408, 429, 500, 503] {
            assert!(matches!(error(status), MediationError::Unreachable(_)), "{status}");
        }
    }
}
