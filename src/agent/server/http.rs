//! Messages over HTTP (DIDComm v2.1 "HTTPS"): a POST gets 202, and a body only if the sender asked for replies on the
//! same connection.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};

use super::{admission::ByteReservation, context::PeerConnection, cors, pages, websocket, written::ReplyBody};
use crate::{
    agent::{
        inbox::{Refusal, ReturnRouteRequest},
        outbox::RouteCapacity,
        return_routes::ReturnMessage,
    },
    didcomm::ENCRYPTED,
};

/// The seconds after which a peer may retry a message that was refused for now.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// Returns the routes of one connection. Each connection has its own router, which knows the peer's address.
pub fn router(connection: PeerConnection) -> Router {
    let methods = get(handle_get).post(handle_post).options(cors::preflight);
    Router::new().fallback(methods).layer(map_response(cors::allow_any_origin)).with_state(connection)
}

/// Answers a GET with a page, a DID document of ours, or a WebSocket.
async fn handle_get(State(connection): State<PeerConnection>, request: Request) -> Response {
    if websocket::is_upgrade(request.headers()) {
        return websocket::upgrade(connection, request);
    }
    let (head, _) = request.into_parts();
    pages::respond(&connection, &head).await
}

async fn handle_post(State(connection): State<PeerConnection>, request: Request) -> Response {
    let context = &connection.context;
    let response = match accept_message(&connection, request).await {
        Ok(return_route) => respond(&connection, return_route).await,
        Err(refused) => refused,
    };
    context.metrics.post_answered(response.status().as_u16());
    response
}

async fn accept_message(
    connection: &PeerConnection,
    request: Request,
) -> Result<oneshot::Receiver<ReturnRouteRequest>, Response> {
    let context = &connection.context;
    if !is_encrypted(request.headers()) {
        let text = format!("POST a message with the media type {ENCRYPTED}\n");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response());
    }
    if !context.limits.message_rate.allows(connection.address, context.options().max_messages_per_second) {
        return Err(retry_later(StatusCode::TOO_MANY_REQUESTS, "too many messages from this address\n"));
    }
    let (packed, _reservation) = read_body(connection, request).await?;
    context.inbox.accept(packed).await.map_err(|refusal| refusal_response(&refusal))
}

/// Reads the body within the limits of time and size. The caller holds the returned reservation until the message is in
/// the store. The error is the response to the peer.
async fn read_body(connection: &PeerConnection, request: Request) -> Result<(Vec<u8>, ByteReservation), Response> {
    let PeerConnection { context, address, .. } = connection;
    let limit = context.max_message_bytes;
    let too_large =
        || (StatusCode::PAYLOAD_TOO_LARGE, format!("a message may have at most {limit} bytes\n")).into_response();
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let collected = collect(request.into_body(), limit, context.limits.bytes.reserve(*address));
    match tokio::time::timeout(context.options().body_timeout, collected).await {
        Ok(Ok(packed)) => Ok(packed),
        Ok(Err(BodyError::TooLarge)) => Err(too_large()),
        Ok(Err(BodyError::NoRoom)) => {
            Err(retry_later(StatusCode::SERVICE_UNAVAILABLE, "too many bytes are being received at once\n"))
        }
        Ok(Err(BodyError::Incomplete)) => {
            Err((StatusCode::BAD_REQUEST, "the body did not arrive completely\n").into_response())
        }
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n").into_response()),
    }
}

/// Why a body was not received.
enum BodyError {
    TooLarge,
    NoRoom,
    Incomplete,
}

async fn collect(
    mut body: Body,
    limit: usize,
    mut reservation: ByteReservation,
) -> Result<(Vec<u8>, ByteReservation), BodyError> {
    let mut packed = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Incomplete)?;
        let Some(data) = frame.data_ref() else { continue };
        if packed.len() + data.len() > limit {
            return Err(BodyError::TooLarge);
        }
        if !reservation.try_grow(data.len()) {
            return Err(BodyError::NoRoom);
        }
        packed.extend_from_slice(data);
    }
    Ok((packed, reservation))
}

/// Whether the media type is that of an encrypted message. Its parameters are ignored.
fn is_encrypted(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(ENCRYPTED)
}

/// The response to a refused message. It does not reveal whether a token can open the envelope, because that is not
/// known yet.
fn refusal_response(refusal: &Refusal) -> Response {
    tracing::debug!(reason = %refusal, "message not accepted");
    match refusal {
        Refusal::Malformed(_) | Refusal::NotEncrypted => {
            (StatusCode::BAD_REQUEST, format!("{refusal}\n")).into_response()
        }
        Refusal::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, format!("{refusal}\n")).into_response(),
        Refusal::NotForUs { may_be_own: true } => {
            retry_later(StatusCode::SERVICE_UNAVAILABLE, "this DID is not ready yet\n")
        }
        Refusal::NotForUs { may_be_own: false } => (StatusCode::NOT_FOUND, format!("{refusal}\n")).into_response(),
        Refusal::Store(error) => {
            tracing::warn!(reason = %error, "message not accepted");
            retry_later(StatusCode::SERVICE_UNAVAILABLE, "messages cannot be stored now\n")
        }
    }
}

fn retry_later(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::RETRY_AFTER, RETRY_AFTER)], text).into_response()
}

/// Responds with 202; or with the first reply, if the sender asked for replies on this connection (extension
/// `return_route`: an HTTP response holds one message).
async fn respond(connection: &PeerConnection, return_route: oneshot::Receiver<ReturnRouteRequest>) -> Response {
    let context = &connection.context;
    let accepted = || StatusCode::ACCEPTED.into_response();
    // While the token is unavailable, or the queue is long, the message is not opened soon.
    if !context.inbox.opens_soon() {
        return accepted();
    }
    let timeout = context.options().return_route_timeout;
    let Ok(Ok(request)) = tokio::time::timeout(timeout, return_route).await else { return accepted() };
    let (replies, mut messages) = mpsc::channel(1);
    let route = context.routes.reserve(&request.sender, request.return_route, replies);
    let _ = request.reserved.send(());
    // Without an answer, the message was not handled, or is a repetition.
    let Ok(Ok(has_replies)) = tokio::time::timeout(timeout, request.replied).await else { return accepted() };
    route.open();
    context.outbox.retry_now(&request.sender, RouteCapacity::One);
    // Without a reply, a message that already waited for the sender may be sent.
    if !has_replies && !context.outbox.has_waiting(&request.sender) {
        return accepted();
    }
    let message = tokio::time::timeout(timeout, messages.recv()).await;
    drop(route);
    match message {
        Ok(Some(ReturnMessage { packed, written })) => {
            let body = Body::new(ReplyBody::new(packed, written, connection.unwritten.clone()));
            ([(header::CONTENT_TYPE, HeaderValue::from_static(ENCRYPTED))], body).into_response()
        }
        _ => accepted(),
    }
}
