//! The channel to a mediator, on which the mediator answers: a WebSocket, or a series of HTTP POSTs.

use std::{collections::VecDeque, time::Duration};

use hyper::body::Bytes;

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

/// An open channel to a mediator.
pub(super) enum Channel {
    /// The mediator may send messages at any time.
    WebSocket { sender: Box<WebSocketSender>, receiver: Box<WebSocketReceiver> },
    /// The mediator sends messages in the responses to POSTs only.
    Http { client: Box<HttpClient>, url: String, max_bytes: usize, responses: VecDeque<Bytes> },
}

impl Channel {
    /// Opens a channel to the first usable endpoint of a mediator's document: those for WebSocket first, if `websocket`
    /// is set, then those for HTTP, each in the order of the document. `max_bytes` limits each WebSocket message or
    /// response body of the mediator.
    pub async fn open(
        parts: &MediationParts,
        document: &Document,
        websocket: bool,
        max_bytes: usize,
    ) -> Result<Self, MediationError> {
        let endpoints = || document.didcomm_services().flat_map(|service| &service.endpoints).map(|it| it.uri.as_str());
        let with_scheme = |schemes: [&'static str; 2]| {
            endpoints().filter(move |uri| uri.split_once(':').is_some_and(|(scheme, _)| schemes.contains(&scheme)))
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
                    return Err(MediationError::Unreachable(format!("{url} answers with status {}", response.status)));
                }
                responses.extend(Some(response.body?).filter(|body| !body.is_empty()));
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
