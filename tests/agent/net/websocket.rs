//! The WebSocket client: messages in both directions, keep-alive, and limits. conformance.md, 81.

use std::time::Duration;

use claviger::net::{AddressGuard, Dialer, NetError, WebSocketClient, WebSocketOptions, client_config};
use futures_util::{SinkExt, StreamExt};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use crate::net::server::{Authority, Server, Stream, listen, response, silent_port};

fn client(options: WebSocketOptions) -> WebSocketClient {
    WebSocketClient::new(Authority::new().dialer().with_timeout(Duration::from_secs(2)), options)
}

fn url(port: u16) -> String {
    format!("ws://127.0.0.1:{port}/ws")
}

async fn echo(stream: Box<dyn Stream>) {
    let mut socket = accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() || message.is_binary() {
            socket.send(message).await.unwrap();
        }
    }
}

#[tokio::test]
async fn messages_go_both_ways_with_and_without_tls() {
    let authority = Authority::new();
    let (plain, _) = listen(None, echo).await;
    let (secure, _) = listen(Some(authority.localhost()), echo).await;
    let client = WebSocketClient::new(authority.dialer(), WebSocketOptions::default());
    for url in [url(plain), format!("wss://localhost:{secure}/")] {
        let (sender, mut receiver) = client.connect(&url).await.unwrap();
        for message in [&b"{}"[..], b"", b"\xff\x00", &[b'a'; 999_999]] {
            sender.send(Bytes::copy_from_slice(message)).await.unwrap();
            assert_eq!(receiver.receive().await.unwrap().unwrap(), message);
        }
        sender.close().await;
        assert_eq!(receiver.receive().await.unwrap(), None);
        assert!(matches!(sender.send("{}").await, Err(NetError::Closed { .. })));
    }
    let stranger = WebSocketClient::new(Authority::new().dialer(), WebSocketOptions::default());
    let error = stranger.connect(&format!("wss://localhost:{secure}/")).await.err().unwrap();
    assert!(matches!(error, NetError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn the_guard_checks_websockets() {
    let (port, connected) = listen(None, echo).await;
    let tls = client_config(Some(&Authority::new().roots)).unwrap();
    let closed = WebSocketClient::new(Dialer::new(AddressGuard::default(), tls), WebSocketOptions::default());
    for url in [url(port), format!("ws://localhost:{port}/"), format!("wss://localhost:{port}/")] {
        let error = closed.connect(&url).await.err().unwrap();
        assert!(matches!(error, NetError::Refused { .. }), "{url}: {error}");
    }
    let refusing = client(WebSocketOptions { refuse_plain: true, ..WebSocketOptions::default() });
    assert!(matches!(refusing.connect(&url(port)).await, Err(NetError::Url { .. })));
    assert!(matches!(refusing.connect("https://localhost/").await, Err(NetError::Url { .. })));
    assert_eq!(connected.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_refused_handshake_is_an_error() {
    for (status, is_retryable) in [(200, false), (302, false), (404, false), (503, true)] {
        let server = Server::http(move |_| async move { response(status, "no") }).await;
        let error = client(WebSocketOptions::default()).connect(&url(server.port)).await.err().unwrap();
        assert!(matches!(error, NetError::WebSocketRefused { status: s, .. } if s == status), "{error}");
        assert_eq!(error.is_retryable(), is_retryable);
    }
    let error = client(WebSocketOptions::default()).connect(&url(silent_port().await)).await.err().unwrap();
    assert!(matches!(error, NetError::Timeout { .. }), "{error}");
    let (endless, _) = listen(None, |mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nx: ").await;
        while stream.write_all(&[b'a'; 1000]).await.is_ok() {}
    })
    .await;
    let error = client(WebSocketOptions::default()).connect(&url(endless)).await.err().unwrap();
    assert!(matches!(error, NetError::Broken { .. }), "{error}");
}

#[tokio::test]
async fn a_large_message_is_not_read() {
    let (port, _) = listen(None, |stream| async move {
        let mut socket = accept_async(stream).await.unwrap();
        socket.send(Message::Binary(vec![0; 1000].into())).await.unwrap();
        let _ = socket.send(Message::Binary(vec![0; 1001].into())).await;
        let _ = socket.next().await;
    })
    .await;
    let client = client(WebSocketOptions { max_message_bytes: 1000, ..WebSocketOptions::default() });
    let (_sender, mut receiver) = client.connect(&url(port)).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap().unwrap().len(), 1000);
    let error = receiver.receive().await.unwrap_err();
    assert!(matches!(error, NetError::TooLarge { limit: 1000, .. }), "{error}");
    assert_eq!(receiver.receive().await.unwrap(), None);
}

/// Two sides that both write before they read must not wait for each other.
#[tokio::test]
async fn both_sides_may_write_at_once() {
    let (port, _) = listen(None, |stream| async move {
        let socket = accept_async(stream).await.unwrap();
        let (mut sink, mut stream) = socket.split();
        for _ in 0..30 {
            sink.send(Message::Binary(vec![1; 1_000_000].into())).await.unwrap();
        }
        for _ in 0..30 {
            stream.next().await.unwrap().unwrap();
        }
        sink.close().await.unwrap();
    })
    .await;
    let (sender, mut receiver) = client(WebSocketOptions::default()).connect(&url(port)).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..30 {
            sender.send(vec![b'a'; 1_000_000]).await.unwrap();
        }
        sender
    });
    let mut received = 0;
    while let Some(message) = receiver.receive().await.unwrap() {
        assert_eq!(message.len(), 1_000_000);
        received += 1;
    }
    assert_eq!(received, 30);
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn silent_peers_are_detected_by_pings() {
    let options = WebSocketOptions { ping_interval: Duration::from_millis(100), ..WebSocketOptions::default() };
    // The peer answers pings, and sends a message after ten of them.
    let (port, _) = listen(None, |stream| async move {
        let mut socket = accept_async(stream).await.unwrap();
        for _ in 0..10 {
            assert!(socket.next().await.unwrap().unwrap().is_ping());
        }
        socket.send(Message::text("late")).await.unwrap();
        let _ = socket.next().await;
    })
    .await;
    let (_sender, mut receiver) = client(options).connect(&url(port)).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap().unwrap(), "late");
    // The peer does not answer.
    let (port, _) = listen(None, |stream| async move {
        let socket = accept_async(stream).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(socket);
    })
    .await;
    let (_sender, mut receiver) = client(options).connect(&url(port)).await.unwrap();
    let error = receiver.receive().await.unwrap_err();
    assert!(matches!(error, NetError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_close_differs_from_a_broken_connection() {
    let (closing, _) = listen(None, |stream| async move {
        let mut socket = accept_async(stream).await.unwrap();
        socket.send(Message::text("last")).await.unwrap();
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let (_sender, mut receiver) = client(WebSocketOptions::default()).connect(&url(closing)).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap().unwrap(), "last");
    assert_eq!(receiver.receive().await.unwrap(), None);
    let (broken, _) = listen(None, |stream| async move {
        let socket = accept_async(stream).await.unwrap();
        drop(socket.into_inner());
    })
    .await;
    let (sender, mut receiver) = client(WebSocketOptions::default()).connect(&url(broken)).await.unwrap();
    let error = receiver.receive().await.unwrap_err();
    assert!(matches!(error, NetError::Broken { .. }), "{error}");
    assert!(sender.send("{}").await.is_err());
}

/// Dropping the sender or the receiver closes the WebSocket, after the messages that were sent.
#[tokio::test]
async fn dropping_either_half_closes_the_websocket() {
    for drops_sender in [true, false] {
        let (received_sender, mut received) = tokio::sync::mpsc::unbounded_channel();
        let (port, _) = listen(None, move |stream| {
            let received_sender = received_sender.clone();
            async move {
                let mut socket = accept_async(stream).await.unwrap();
                // A message to the client is in flight.
                socket.send(Message::text("unread")).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    received_sender.send(message).unwrap();
                }
            }
        })
        .await;
        let (sender, receiver) = client(WebSocketOptions::default()).connect(&url(port)).await.unwrap();
        sender.send("{}").await.unwrap();
        let (mut sender, mut receiver) = (Some(sender), Some(receiver));
        if drops_sender {
            sender = None;
        } else {
            receiver = None;
        }
        assert_eq!(received.recv().await.unwrap(), Message::text("{}"));
        assert!(received.recv().await.unwrap().is_close());
        drop((sender, receiver));
    }
}

/// A server that sends other bytes than WebSocket frames after the handshake.
#[tokio::test]
async fn invalid_frames_are_the_peers_fault() {
    let (port, _) = listen(None, |stream| async move {
        let socket = accept_async(stream).await.unwrap();
        let mut stream = socket.into_inner();
        let _ = stream.write_all(&[0xff; 64]).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let (_sender, mut receiver) = client(WebSocketOptions::default()).connect(&url(port)).await.unwrap();
    assert!(matches!(receiver.receive().await, Err(NetError::Broken { .. })));
}
