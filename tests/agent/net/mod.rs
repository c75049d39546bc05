//! How strangers' servers are asked: by real servers on this machine, which the guard has to be opened for.

mod did_web;
mod did_webvh;
mod http;
mod redirects;
mod server;
mod tls;
mod websocket;
