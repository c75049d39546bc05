//! The network clients, against real servers on the loopback interface, which the guard is configured to allow.

mod did_web;
mod did_webvh;
mod http;
mod redirects;
pub mod server;
mod tls;
mod websocket;
