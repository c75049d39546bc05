//! The HTTP client: requests, responses, and limits.

use std::time::Duration;

use claviger::net::{AddressGuard, Dialer, HttpClient, HttpOptions, NetError, RequestLimits};
use http_body_util::BodyExt;
use hyper::{Response, body::Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::server::{Authority, Server, closed_port, listen, redirect, response, silent_port};

const TYPE: &str = "application/didcomm-encrypted+json";

async fn post(client: &HttpClient, url: &str) -> Result<claviger::net::HttpResponse, NetError> {
    client.post(url, TYPE, Bytes::from_static(b"{}"), RequestLimits::default()).await
}

/// conformance.md, 78.
#[tokio::test]
async fn post_sends_the_message_and_no_other_headers() {
    let server = Server::http(|request| async move {
        let (head, body) = request.into_parts();
        let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "content-type", "host", "user-agent"]);
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/didcomm?a=b"));
        assert_eq!(head.headers["content-type"], TYPE);
        assert_eq!(head.headers["user-agent"], concat!("claviger/", env!("CARGO_PKG_VERSION")));
        let body = body.collect().await.unwrap().to_bytes();
        let accepted = Response::builder().status(202).header("content-type", "text/plain").header("retry-after", "7");
        accepted.body(body.into()).unwrap()
    })
    .await;
    let client = Authority::new().client();
    let response = post(&client, &server.url("/didcomm?a=b")).await.unwrap();
    assert!(response.is_success());
    assert_eq!((response.status, response.content_type.as_deref()), (202, Some("text/plain")));
    assert_eq!(response.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(response.body.unwrap(), "{}");
}

#[tokio::test]
async fn connections_are_reused() {
    let server = Server::http(|_| async { response(202, "") }).await;
    let client = Authority::new().client();
    for _ in 0..10 {
        post(&client, &server.url("/")).await.unwrap();
    }
    assert_eq!((server.request_count(), server.connection_count()), (10, 1));
}

/// Each notation of the loopback address is refused, unless the operator allows it.
#[tokio::test]
async fn loopback_is_refused_in_every_notation() {
    let server = Server::http(|_| async { response(202, "") }).await;
    let authority = Authority::new();
    let tls = claviger::net::client_config(Some(&authority.roots)).unwrap();
    let closed = HttpClient::new(Dialer::new(AddressGuard::default(), tls), HttpOptions::default());
    let open = authority.client();
    for host in
        ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]"]
    {
        let url = format!("http://{host}:{}/", server.port);
        let error = post(&closed, &url).await.unwrap_err();
        assert!(matches!(&error, NetError::Refused { source, .. } if source.kind == "loopback"), "{host}: {error}");
        assert!(!error.is_retryable());
        assert!(error.to_string().contains(host.trim_matches(['[', ']'])), "{error}");
        assert_eq!(server.connection_count(), 0, "{host}");
    }
    // The same names are accepted if the address is allowed.
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
    let server = Server::http(|_| async { response(202, "") }).await;
    let options = HttpOptions { refuse_plain_http: true, ..HttpOptions::default() };
    let client = HttpClient::new(Authority::new().dialer(), options);
    assert!(matches!(post(&client, &server.url("/")).await, Err(NetError::Url { .. })));
    assert_eq!(server.connection_count(), 0);
}

#[tokio::test]
async fn get_requires_tls_and_follows_no_redirect() {
    let authority = Authority::new();
    let plain = Server::http(|_| async { response(200, "") }).await;
    let to = plain.url("/");
    let secure = Server::https(authority.localhost(), move |request| {
        assert_eq!(
            (request.method().as_str(), &request.headers()["accept"]),
            ("GET", &"application/json".parse().unwrap())
        );
        let to = to.clone();
        async move { if request.uri().path() == "/307" { redirect(307, &to) } else { response(200, "{}") } }
    })
    .await;
    let client = authority.client();
    let get = async |url: &str| client.get(url, "application/json", RequestLimits::default()).await;
    assert_eq!(get(&secure.secure_url("/?_oobid=a")).await.unwrap().body.unwrap(), "{}");
    assert_eq!(get(&secure.secure_url("/307")).await.unwrap().status, 307);
    assert!(matches!(get(&plain.url("/")).await, Err(NetError::Url { .. })));
    assert_eq!(plain.connection_count(), 0);
}

/// The body of a large response is not read. Its status tells whether the message was accepted.
#[tokio::test]
async fn a_large_response_is_not_read() {
    let with_length = Server::http(|_| async { response(202, vec![b'a'; 2000]) }).await;
    // An endless body without an announced length.
    let (without_length, _) = listen(None, |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let head = "HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(b"4\r\nabcd\r\n").await.is_ok() {}
    })
    .await;
    let client = Authority::new().client();
    let limits = RequestLimits { max_response_bytes: 1000, ..RequestLimits::default() };
    for url in [with_length.url("/"), format!("http://127.0.0.1:{without_length}/")] {
        let response = client.post(&url, TYPE, Bytes::new(), limits).await.unwrap();
        assert_eq!(response.status, 202);
        assert!(matches!(response.body, Err(NetError::TooLarge { limit: 1000, .. })), "{:?}", response.body);
    }
    let limits = RequestLimits { max_response_bytes: 2000, ..RequestLimits::default() };
    assert_eq!(client.post(&with_length.url("/"), TYPE, Bytes::new(), limits).await.unwrap().body.unwrap().len(), 2000);
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
    assert!(matches!(error, NetError::Broken { .. }) && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_slow_server_times_out() {
    let client =
        HttpClient::new(Authority::new().dialer().with_timeout(Duration::from_millis(200)), HttpOptions::default());
    let short = RequestLimits { timeout: Duration::from_millis(400), ..RequestLimits::default() };
    // The server sends nothing, with HTTP and with TLS.
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://localhost:{}/", silent_port().await);
        let error = client.post(&url, TYPE, Bytes::new(), short).await.unwrap_err();
        assert!(matches!(error, NetError::Timeout { .. }) && error.is_retryable(), "{error}");
    }
    // The server sends one byte at a time.
    let (port, _) = listen(None, |mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 1000\r\n\r\n").await;
        while stream.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let response = client.post(&format!("http://127.0.0.1:{port}/"), TYPE, Bytes::new(), short).await.unwrap();
    assert_eq!(response.status, 202);
    assert!(matches!(response.body, Err(NetError::Timeout { .. })), "{:?}", response.body);
}

#[tokio::test]
async fn errors_name_the_host_at_fault() {
    let client = Authority::new().client();
    let error = post(&client, &format!("http://127.0.0.1:{}/", closed_port().await)).await.unwrap_err();
    assert!(matches!(error, NetError::Connect { .. }) && error.is_retryable(), "{error}");
    // RFC 6761: the name does not exist.
    let error = post(&client, "http://claviger.invalid/").await.unwrap_err();
    // Without DNS the lookup may time out.
    assert!(matches!(error, NetError::Resolve { .. } | NetError::Timeout { .. }) && error.is_retryable(), "{error}");
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
        assert!(matches!(error, NetError::Broken { .. }) && error.is_retryable(), "{error}");
    }
}
