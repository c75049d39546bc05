//! Redirects: only 307, at most five, and only to URLs that may be requested themselves. conformance.md, 79.

use claviger::net::{HttpClient, HttpResponse, NetError, RequestLimits};
use http_body_util::BodyExt;
use hyper::body::Bytes;

use crate::net::server::{Authority, Server, redirect, response};

async fn post(client: &HttpClient, url: &str) -> Result<HttpResponse, NetError> {
    client
        .post(url, "application/didcomm-encrypted+json", Bytes::from_static(b"{\"a\":1}"), RequestLimits::default())
        .await
}

/// A server that redirects `/n` to `/n-1` with status 307, and returns the posted body at `/0`.
async fn countdown() -> Server {
    Server::http(|request| async move {
        match request.uri().path()[1..].parse::<u8>().unwrap() {
            0 => response(202, request.into_body().collect().await.unwrap().to_bytes()),
            n => redirect(307, &format!("/{}", n - 1)),
        }
    })
    .await
}

#[tokio::test]
async fn a_307_redirect_is_followed_with_the_message() {
    let there = countdown().await;
    let to = there.url("/0");
    let here = Server::http(move |_| {
        let to = to.clone();
        async move { redirect(307, &to) }
    })
    .await;
    let response = post(&Authority::new().client(), &here.url("/")).await.unwrap();
    assert_eq!((response.status, response.body.unwrap()), (202, Bytes::from_static(b"{\"a\":1}")));
    assert_eq!((here.request_count(), there.request_count()), (1, 1));
}

#[tokio::test]
async fn at_most_five_redirects_are_followed() {
    let server = countdown().await;
    let client = Authority::new().client();
    assert_eq!(post(&client, &server.url("/5")).await.unwrap().status, 202);
    assert_eq!(server.request_count(), 6);
    let error = post(&client, &server.url("/100")).await.unwrap_err();
    assert!(matches!(error, NetError::Redirect { .. }), "{error}");
    assert_eq!(server.request_count(), 12);
}

#[tokio::test]
async fn other_redirects_are_not_followed() {
    let there = countdown().await;
    for status in [300, 301, 302, 303, 305, 308] {
        let to = there.url("/0");
        let here = Server::http(move |_| {
            let to = to.clone();
            async move { redirect(status, &to) }
        })
        .await;
        let response = post(&Authority::new().client(), &here.url("/")).await.unwrap();
        assert_eq!(response.status, status);
        assert!(!response.is_success());
    }
    assert_eq!(there.connection_count(), 0);
}

/// The URL of a redirect is checked like any other.
#[tokio::test]
async fn the_guard_checks_each_hop() {
    let client = Authority::new().client();
    for to in [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[fd00::1]/",
        "//192.168.1.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://0.0.0.0/",
    ] {
        let here = Server::http(move |_| async move { redirect(307, to) }).await;
        let error = post(&client, &here.url("/")).await.unwrap_err();
        assert!(matches!(error, NetError::Refused { .. }), "{to}: {error}");
    }
    for to in
        ["file:///etc/passwd", "gopher://127.0.0.1/", "http://user:password@127.0.0.1/", "http://", "ws://127.0.0.1/"]
    {
        let here = Server::http(move |_| async move { redirect(307, to) }).await;
        let error = post(&client, &here.url("/")).await.unwrap_err();
        assert!(matches!(error, NetError::Url { .. }), "{to}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_cannot_leave_tls() {
    let there = countdown().await;
    let to = there.url("/0");
    let authority = Authority::new();
    let here = Server::https(authority.localhost(), move |_| {
        let to = to.clone();
        async move { redirect(307, &to) }
    })
    .await;
    let error = post(&authority.client(), &here.secure_url("/")).await.unwrap_err();
    assert!(matches!(error, NetError::Redirect { .. }), "{error}");
    assert_eq!(there.connection_count(), 0);
    let nowhere = Server::http(|_| async { response(307, "") }).await;
    let error = post(&authority.client(), &nowhere.url("/")).await.unwrap_err();
    assert!(matches!(error, NetError::Redirect { .. }), "{error}");
}
