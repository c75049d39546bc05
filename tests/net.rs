//! How strangers' servers are asked: by real servers on this machine, which the guard has to be opened for.

#[path = "net/did_web.rs"]
mod did_web;
#[path = "net/did_webvh.rs"]
mod did_webvh;
#[path = "net/http.rs"]
mod http;
#[path = "net/redirects.rs"]
mod redirects;
#[path = "net/server.rs"]
mod server;
#[path = "net/tls.rs"]
mod tls;
#[path = "net/websocket.rs"]
mod websocket;
#[path = "support/webvh.rs"]
#[allow(dead_code, reason = "the suite of did:webvh uses all of it")]
mod webvh;
