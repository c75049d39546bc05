//! POST: what is sent, what comes back, and what is bounded.

use std::time::Duration;

use claviger::agent::net::{Dialer, Guard, HttpClient, HttpOptions, Limits, NetError};
use http_body_util::BodyExt;
use hyper::{Response, body::Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::server::{Authority, Server, answer, listen, nobody, redirect, silent};

const TYPE: &str = "application/didcomm-encrypted+json";

async fn post(client: &HttpClient, url: &str) -> Result<claviger::agent::net::Answer, NetError> {
    client.post(url, TYPE, Bytes::from_static(b"{}"), Limits::default()).await
}

/// conformance.md, 78.
#[tokio::test]
async fn a_message_is_posted_and_nothing_else_is_told() {
    let server = Server::http(|request| async move {
        let (head, body) = request.into_parts();
        let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "content-type", "host", "user-agent"]);
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/didcomm?a=b"));
        assert_eq!(head.headers["content-type"], TYPE);
        assert_eq!(head.headers["user-agent"], concat!("claviger/", env!("CARGO_PKG_VERSION")));
        let body = body.collect().await.unwrap().to_bytes();
        let answer = Response::builder().status(202).header("content-type", "text/plain").header("retry-after", "7");
        answer.body(body.into()).unwrap()
    })
    .await;
    let client = Authority::new().client();
    let answer = post(&client, &server.url("/didcomm?a=b")).await.unwrap();
    assert!(answer.is_success());
    assert_eq!((answer.status, answer.content_type.as_deref()), (202, Some("text/plain")));
    assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(answer.body.unwrap(), "{}");
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::http(|_| async { answer(202, "") }).await;
    let client = Authority::new().client();
    for _ in 0..10 {
        post(&client, &server.url("/")).await.unwrap();
    }
    assert_eq!((server.asked(), server.connected()), (10, 1));
}

/// threats.md, "SSRF": each way to write this machine's address is refused, unless an operator opens it.
#[tokio::test]
async fn this_machine_is_not_asked_under_any_name() {
    let server = Server::http(|_| async { answer(202, "") }).await;
    let authority = Authority::new();
    let tls = claviger::agent::net::client_config(Some(&authority.roots)).unwrap();
    let closed = HttpClient::new(Dialer::new(Guard::default(), tls), HttpOptions::default());
    let open = authority.client();
    for host in
        ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]"]
    {
        let url = format!("http://{host}:{}/", server.port);
        let error = post(&closed, &url).await.unwrap_err();
        assert!(matches!(&error, NetError::Refused { source, .. } if source.why == "loopback"), "{host}: {error}");
        assert!(!error.passes());
        assert!(error.to_string().contains(host.trim_matches(['[', ']'])), "{error}");
        assert_eq!(server.connected(), 0, "{host}");
    }
    // The same names, opened: it is by the address alone.
    for host in ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"] {
        post(&open, &format!("http://{host}:{}/", server.port)).await.unwrap();
    }
    for host in ["[::1]", "10.0.0.1", "169.254.169.254", "[fe80::1]", "[64:ff9b::10.0.0.1]", "0.0.0.0", "0"] {
        let error = post(&open, &format!("http://{host}:{}/", server.port)).await.unwrap_err();
        assert!(matches!(error, NetError::Refused { .. }), "{host}: {error}");
    }
}

#[tokio::test]
async fn plain_http_can_be_refused() {
    let server = Server::http(|_| async { answer(202, "") }).await;
    let options = HttpOptions { refuse_plain_http: true, ..HttpOptions::default() };
    let client = HttpClient::new(Authority::new().dialer(), options);
    assert!(matches!(post(&client, &server.url("/")).await, Err(NetError::Url { .. })));
    assert_eq!(server.connected(), 0);
}

#[tokio::test]
async fn to_get_takes_tls_and_follows_nothing() {
    let authority = Authority::new();
    let plain = Server::http(|_| async { answer(200, "") }).await;
    let to = plain.url("/");
    let secure = Server::https(authority.localhost(), move |request| {
        assert_eq!(
            (request.method().as_str(), &request.headers()["accept"]),
            ("GET", &"application/json".parse().unwrap())
        );
        let to = to.clone();
        async move { if request.uri().path() == "/307" { redirect(307, &to) } else { answer(200, "{}") } }
    })
    .await;
    let client = authority.client();
    let get = async |url: &str| client.get(url, "application/json", Limits::default()).await;
    assert_eq!(get(&secure.secure_url("/?_oobid=a")).await.unwrap().body.unwrap(), "{}");
    assert_eq!(get(&secure.secure_url("/307")).await.unwrap().status, 307);
    assert!(matches!(get(&plain.url("/")).await, Err(NetError::Url { .. })));
    assert_eq!(plain.connected(), 0);
}

/// A large answer is not read; that the message was taken is known all the same.
#[tokio::test]
async fn a_large_answer_is_not_read() {
    let told = Server::http(|_| async { answer(202, vec![b'a'; 2000]) }).await;
    // Without a length, for ever.
    let (untold, _) = listen(None, |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let head = "HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(b"4\r\nabcd\r\n").await.is_ok() {}
    })
    .await;
    let client = Authority::new().client();
    let limits = Limits { answer: 1000, ..Limits::default() };
    for url in [told.url("/"), format!("http://127.0.0.1:{untold}/")] {
        let answer = client.post(&url, TYPE, Bytes::new(), limits).await.unwrap();
        assert_eq!(answer.status, 202);
        assert!(matches!(answer.body, Err(NetError::TooLarge { limit: 1000, .. })), "{:?}", answer.body);
    }
    let limits = Limits { answer: 2000, ..Limits::default() };
    assert_eq!(client.post(&told.url("/"), TYPE, Bytes::new(), limits).await.unwrap().body.unwrap().len(), 2000);
}

#[tokio::test]
async fn an_endless_head_is_not_read() {
    let (port, _) = listen(None, |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
        while stream.write_all(&[b'a'; 1000]).await.is_ok() {}
    })
    .await;
    let error = post(&Authority::new().client(), &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(error, NetError::Broken { .. }) && error.passes(), "{error}");
}

#[tokio::test]
async fn a_slow_server_is_not_waited_for() {
    let client = HttpClient::new(Authority::new().dialer().within(Duration::from_millis(200)), HttpOptions::default());
    let short = Limits { within: Duration::from_millis(400), ..Limits::default() };
    // It says nothing, by HTTP and by TLS.
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://localhost:{}/", silent().await);
        let error = client.post(&url, TYPE, Bytes::new(), short).await.unwrap_err();
        assert!(matches!(error, NetError::Timeout { .. }) && error.passes(), "{error}");
    }
    // It says one byte at a time.
    let (port, _) = listen(None, |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 1000\r\n\r\n").await;
        while stream.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let answer = client.post(&format!("http://127.0.0.1:{port}/"), TYPE, Bytes::new(), short).await.unwrap();
    assert_eq!(answer.status, 202);
    assert!(matches!(answer.body, Err(NetError::Timeout { .. })), "{:?}", answer.body);
}

#[tokio::test]
async fn who_is_to_blame_is_told() {
    let client = Authority::new().client();
    let error = post(&client, &format!("http://127.0.0.1:{}/", nobody().await)).await.unwrap_err();
    assert!(matches!(error, NetError::Connect { .. }) && error.passes(), "{error}");
    // RFC 6761: there is no such name.
    let error = post(&client, "http://claviger.invalid/").await.unwrap_err();
    // Where there is no DNS, it takes its time to say so.
    assert!(matches!(error, NetError::Resolve { .. } | NetError::Timeout { .. }) && error.passes(), "{error}");
    assert!(error.to_string().contains("claviger.invalid"), "{error}");
    let (hangs_up, _) = listen(None, |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let (talks_nonsense, _) = listen(None, |mut stream| async move {
        let _ = stream.write_all(b"220 smtp.example ESMTP\r\n").await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    for port in [hangs_up, talks_nonsense] {
        let error = post(&client, &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
        assert!(matches!(error, NetError::Broken { .. }) && error.passes(), "{error}");
    }
}
