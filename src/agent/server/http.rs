//! Messages by HTTP (DIDComm v2.1 "HTTPS"): POST, 202, and a body only where the sender has asked for replies on the same
//! connection.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};

use super::{Shared, doors::Entered, hall::Burden, page, websocket};
use crate::{
    agent::{
        inbox::{Fate, Refusal},
        routes::Returning,
    },
    didcomm::ENCRYPTED,
};

/// After so many seconds a peer whose message was not taken may come again.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("10");

/// A connection's routes. A router for each connection tells the handlers whose it is.
pub(super) fn router(shared: Arc<Shared>, address: IpAddr, entered: Entered) -> Router {
    let connection = Connection { shared, address, _entered: Arc::new(entered) };
    Router::new().fallback(get(look).post(post)).with_state(connection)
}

#[derive(Clone)]
pub(super) struct Connection {
    pub shared: Arc<Shared>,
    pub address: IpAddr,
    /// It counts as long as anyone serves it, a WebSocket too.
    _entered: Arc<Entered>,
}

/// A page, a document of ours, or a WebSocket.
async fn look(State(connection): State<Connection>, request: Request) -> Response {
    if websocket::is_asked_for(request.headers()) {
        return websocket::answer(connection, request);
    }
    let (head, _) = request.into_parts();
    page::answer(&connection.shared, &head).await
}

async fn post(State(connection): State<Connection>, request: Request) -> Response {
    let shared = &connection.shared;
    let response = match take(&connection, request).await {
        Ok(told) => replies(shared, told).await,
        Err(refused) => refused,
    };
    shared.metrics.answered(response.status().as_u16());
    response
}

async fn take(connection: &Connection, request: Request) -> Result<oneshot::Receiver<Fate>, Response> {
    let shared = &connection.shared;
    if !is_encrypted(request.headers()) {
        let said = format!("a message is POSTed as {ENCRYPTED}\n");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, said).into_response());
    }
    if !shared.budget.allows(connection.address, shared.options().rate_per_address) {
        return Err(later(StatusCode::TOO_MANY_REQUESTS, "too many messages from one address\n"));
    }
    let (packed, _burden) = body(connection, request).await?;
    shared.inbox.take(packed).await.map_err(|refusal| refused(&refusal))
}

/// The body, within its time and its size, and what it weighs until it is kept.
async fn body(connection: &Connection, request: Request) -> Result<(Vec<u8>, Burden), Response> {
    let Connection { shared, address, .. } = connection;
    let limit = shared.max_bytes;
    let too_large =
        || (StatusCode::PAYLOAD_TOO_LARGE, format!("a message has at most {limit} bytes\n")).into_response();
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let collected = collect(request.into_body(), limit, shared.hall.enter(*address));
    match tokio::time::timeout(shared.options().body_time, collected).await {
        Ok(Ok(packed)) => Ok(packed),
        Ok(Err(Broken::TooLarge)) => Err(too_large()),
        Ok(Err(Broken::NoRoom)) => Err(later(StatusCode::SERVICE_UNAVAILABLE, "too much comes in at once\n")),
        Ok(Err(Broken::Off)) => Err((StatusCode::BAD_REQUEST, "the body did not arrive whole\n").into_response()),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n").into_response()),
    }
}

/// Why a body did not come.
enum Broken {
    TooLarge,
    NoRoom,
    Off,
}

async fn collect(mut body: Body, limit: usize, mut burden: Burden) -> Result<(Vec<u8>, Burden), Broken> {
    let mut packed = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Broken::Off)?;
        let Some(data) = frame.data_ref() else { continue };
        if packed.len() + data.len() > limit {
            return Err(Broken::TooLarge);
        }
        if !burden.grows(data.len()) {
            return Err(Broken::NoRoom);
        }
        packed.extend_from_slice(data);
    }
    Ok((packed, burden))
}

/// Whether the media type is that of an encrypted message; parameters do not matter.
fn is_encrypted(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(ENCRYPTED)
}

/// What a peer is told: not why an envelope does not open, as it is not opened yet.
fn refused(refusal: &Refusal) -> Response {
    tracing::debug!(%refusal, "a message is not taken");
    match refusal {
        Refusal::Malformed(_) | Refusal::NotEncrypted => {
            (StatusCode::BAD_REQUEST, format!("{refusal}\n")).into_response()
        }
        Refusal::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, format!("{refusal}\n")).into_response(),
        Refusal::NotForUs { .. } => (StatusCode::NOT_FOUND, format!("{refusal}\n")).into_response(),
        Refusal::Store(error) => {
            tracing::warn!(%error, "a message is refused");
            later(StatusCode::SERVICE_UNAVAILABLE, "messages cannot be kept now\n")
        }
    }
}

fn later(status: StatusCode, said: &'static str) -> Response {
    (status, [(header::RETRY_AFTER, COME_AGAIN)], said).into_response()
}

/// 202; or, where the sender has asked for it, the first reply to it (extension `return_route`: HTTP takes one).
async fn replies(shared: &Shared, told: oneshot::Receiver<Fate>) -> Response {
    let accepted = || StatusCode::ACCEPTED.into_response();
    // With the token away nothing becomes of it soon, nor behind many others.
    if !shared.inbox.is_quick() {
        return accepted();
    }
    let time = shared.options().return_time;
    let Ok(Ok(fate)) = tokio::time::timeout(time, told).await else { return accepted() };
    let (back, mut returning) = mpsc::channel(1);
    let route = shared.routes.open(&fate.sender, fate.return_route, back);
    let _ = fate.go.send(());
    shared.outbox.wake_waiting(&fate.sender);
    let message = tokio::time::timeout(time, async {
        tokio::select! {
            message = returning.recv() => message,
            // Handled without a reply: only what waited for the sender before can come now.
            Ok(false) = fate.replied => match shared.outbox.serves(&fate.sender) {
                true => returning.recv().await,
                false => None,
            },
        }
    });
    let message = message.await;
    drop(route);
    match message {
        Ok(Some(Returning { packed, written })) => {
            let _ = written.send(true);
            ([(header::CONTENT_TYPE, HeaderValue::from_static(ENCRYPTED))], packed).into_response()
        }
        _ => accepted(),
    }
}
