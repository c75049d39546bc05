//! Limits against flooding (`docs/security-model.md`, "a full queue"): for the bytes that wait, and for the rate of
//! an address.

use std::{io::Write, thread};

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, TIMEOUT, status_of},
    peer::Peer,
    websocket_client::{WebSocketClient, closed_within, connect_from},
};

const LIMIT: usize = 200_000;

/// Without the token no message is opened, so the messages fill the store up to its limit.
#[test]
fn waiting_bytes_are_limited() {
    // Strangers may use all of the room here. Half of it is the default.
    let store = format!("[store]\nmax_waiting_bytes = {LIMIT}\nstrangers_percent = 100\n");
    let Some(mut daemon) = Daemon::new(&store) else { return };
    daemon.disconnect_token();
    daemon.start_without_token();
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    let mut packed = Vec::new();
    let refused = loop {
        let one = flooding.pack_text(&daemon.did, &format!("{} {}", packed.len(), "x".repeat(10_000)));
        let answer = daemon.post(one.as_bytes());
        if !answer.starts_with("HTTP/1.1 202") {
            break answer;
        }
        packed.push(one);
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "), "{refused}");
    let stored: usize = packed.iter().map(String::len).sum();
    assert!(stored <= LIMIT && stored + packed[0].len() > LIMIT - 100, "{stored} bytes");
    // A repeated message that is stored already gets 202, so that its sender stops.
    assert_eq!(daemon.post_status(&packed[0]), 202);
    let mut socket = WebSocketClient::open(daemon.port);
    socket.send(&flooding.pack_text(&daemon.did, &"x".repeat(10_000))).unwrap();
    assert_eq!(socket.close_code(), Some(CloseCode::Again));
    assert!(daemon.is_live());
    daemon.reconnect_token();
    daemon.wait_until("all messages are opened", |daemon| daemon.unread_texts().len() == packed.len());
    assert_eq!(daemon.post_status(honest.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().contains(&"lunch?".to_owned()));
}

/// Posts a message from this address. Returns the status, and whether the response has `Retry-After`.
fn post_from(address: [u8; 4], daemon: &Daemon, packed: &str) -> (u16, bool) {
    let mut stream = connect_from(address, daemon.port).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{packed}",
        packed.len()
    );
    // The connection may be closed before the message is written.
    let _ = stream.write_all(head.as_bytes());
    let answer = String::from_utf8(closed_within(&mut stream, TIMEOUT).expect("an answer")).unwrap();
    (status_of(&answer), answer.contains("retry-after: "))
}

/// The sender is unknown until its message is opened, which takes time of the token. So the limit is for the
/// sender's address.
#[test]
fn the_rate_per_address_is_limited() {
    let net = "[net]\nallow_private = [\"127.0.0.0/8\"]\n";
    let Some(mut daemon) = Daemon::with_config("rate_per_address = 2", net) else { return };
    daemon.start();
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    let packed: Vec<String> = (0..30).map(|number| flooding.pack_text(&daemon.did, &number.to_string())).collect();
    // All at once: one after the other they may be slower than the rate, since a message is stored before its response.
    let answers: Vec<(u16, bool)> = thread::scope(|scope| {
        let daemon = &daemon;
        let posts: Vec<_> =
            packed.iter().map(|one| scope.spawn(move || post_from([127, 0, 0, 2], daemon, one))).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    let count = |wanted: (u16, bool)| answers.iter().filter(|answer| **answer == wanted).count();
    let (accepted, refused) = (count((202, false)), count((429, true)));
    assert!(accepted >= 2 && refused >= 5 && accepted + refused == 30, "{answers:?}");
    assert_eq!(post_from([127, 0, 0, 3], &daemon, &honest.pack_text(&daemon.did, "lunch?")), (202, false));
    let mut socket = WebSocketClient::over(connect_from([127, 0, 0, 4], daemon.port).unwrap(), daemon.port);
    let _ = packed.iter().try_for_each(|one| socket.send(one));
    assert_eq!(socket.close_code(), Some(CloseCode::Again));
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts().contains(&"lunch?".to_owned()));
    daemon.wait_until_all_opened();
    // Refused messages were not stored. The WebSocket may have brought up to 30 more.
    assert!(daemon.unread_texts().len() <= accepted + 1 + 30);
    let status = ApiClient::new(&daemon).get("/v1/status").json(200);
    assert_eq!(status["waiting"]["envelopes"], json!(0), "{status}");
}
