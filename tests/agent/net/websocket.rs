//! WebSockets: messages both ways, kept alive, bounded. conformance.md, 81.

use std::time::Duration;

use claviger::agent::net::{Dialer, Guard, NetError, WebSocketClient, WebSocketOptions, client_config};
use futures_util::{SinkExt, StreamExt};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use crate::net::server::{Authority, Server, Stream, answer, listen, silent};

fn client(options: WebSocketOptions) -> WebSocketClient {
    WebSocketClient::new(Authority::new().dialer().within(Duration::from_secs(2)), options)
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
async fn messages_go_both_ways_in_the_clear_and_by_tls() {
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
async fn the_guard_judges_websockets_too() {
    let (port, connected) = listen(None, echo).await;
    let tls = client_config(Some(&Authority::new().roots)).unwrap();
    let closed = WebSocketClient::new(Dialer::new(Guard::default(), tls), WebSocketOptions::default());
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
async fn a_server_that_opens_none_is_told() {
    for (status, passes) in [(200, false), (302, false), (404, false), (503, true)] {
        let server = Server::http(move |_| async move { answer(status, "no") }).await;
        let error = client(WebSocketOptions::default()).connect(&url(server.port)).await.err().unwrap();
        assert!(matches!(error, NetError::NoWebSocket { status: s, .. } if s == status), "{error}");
        assert_eq!(error.passes(), passes);
    }
    let error = client(WebSocketOptions::default()).connect(&url(silent().await)).await.err().unwrap();
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
    let client = client(WebSocketOptions { message: 1000, ..WebSocketOptions::default() });
    let (_sender, mut receiver) = client.connect(&url(port)).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap().unwrap().len(), 1000);
    let error = receiver.receive().await.unwrap_err();
    assert!(matches!(error, NetError::TooLarge { limit: 1000, .. }), "{error}");
    assert_eq!(receiver.receive().await.unwrap(), None);
}

/// Two that both write before they read would wait for each other.
#[tokio::test]
async fn both_may_write_at_once() {
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
async fn the_peer_is_asked_whether_it_is_there() {
    let options = WebSocketOptions { keep_alive: Duration::from_millis(100), ..WebSocketOptions::default() };
    // It answers pings, and speaks after many of them.
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
    // It does not.
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
async fn an_end_is_told_as_it_was() {
    let (in_order, _) = listen(None, |stream| async move {
        let mut socket = accept_async(stream).await.unwrap();
        socket.send(Message::text("last")).await.unwrap();
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let (_sender, mut receiver) = client(WebSocketOptions::default()).connect(&url(in_order)).await.unwrap();
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

/// What is dropped is closed, after what was sent.
#[tokio::test]
async fn to_drop_either_half_closes_it() {
    for drops_sender in [true, false] {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let (port, _) = listen(None, move |stream| {
            let told = told.clone();
            async move {
                let mut socket = accept_async(stream).await.unwrap();
                // Something of ours is on its way.
                socket.send(Message::text("unread")).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    told.send(message).unwrap();
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
        assert_eq!(heard.recv().await.unwrap(), Message::text("{}"));
        assert!(heard.recv().await.unwrap().is_close());
        drop((sender, receiver));
    }
}

/// A server that speaks, but no WebSocket, after the handshake.
#[tokio::test]
async fn nonsense_after_the_handshake_is_the_peers_fault() {
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
