//! The peers in Rust, as drivers of the others answer.

use serde_json::{Value, json};

mod didcomm;
mod josekit;
mod webvh;

/// What the peer of the request returns, or its error.
pub fn answer(request: &Value) -> Result<Value, String> {
    match (text(request, "peer"), text(request, "do")) {
        ("didcomm", "pack") => didcomm::pack(request).map(Value::from),
        ("didcomm", "open") => didcomm::open(request),
        ("josekit", "pack") => josekit::pack(request).map(Value::from),
        ("josekit", "open") => josekit::open(request),
        ("webvh", "create") => webvh::create(request).map(|(did, log)| json!({ "did": did, "log": log })),
        ("webvh", "resolve") => webvh::resolve(request),
        (peer, action) => panic!("{peer} has no {action}"),
    }
}

fn text<'a>(request: &'a Value, name: &str) -> &'a str {
    request[name].as_str().unwrap_or_else(|| panic!("no {name} in {request}"))
}

fn list<'a>(request: &'a Value, name: &str) -> &'a [Value] {
    request[name].as_array().unwrap_or_else(|| panic!("no {name} in {request}"))
}

/// Runs the asynchronous function of a peer.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
