//! Refuses requests of others, as [`guard`](super::guard) describes.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{app::App, frame, guard::OPEN, local_user};

/// Refuses requests of others.
pub async fn check(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let guard = &app.guard;
    let headers = request.headers();
    if local_user::is_another_users(peer, guard.address()) {
        tracing::warn!("connection of another user refused");
        return frame::refused("This page belongs to another user of this machine.");
    }
    if !guard.is_our_host(headers) {
        return frame::refused("This page has another address.");
    }
    if request.method() == Method::GET && request.uri().path() == OPEN {
        if !guard.take_link(request.uri().query().unwrap_or_default()) {
            return frame::refused("This link was used before, or belongs to a run of the command that has ended.");
        }
        return ([(header::SET_COOKIE, guard.set_cookie())], frame::opened()).into_response();
    }
    if !guard.has_cookie(headers) && request.uri().path() != frame::STYLE_PATH {
        return frame::refused("This browser was not let in.");
    }
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_reading && !guard.is_same_origin(headers) {
        return frame::refused("Another page has sent this request.");
    }
    guard.used();
    next.run(request).await
}
