//! Redirects: only 307, not for ever, and to nowhere that would not be asked itself. conformance.md, 79.

use claviger::agent::net::{Answer, HttpClient, Limits, NetError};
use http_body_util::BodyExt;
use hyper::body::Bytes;

use crate::net::server::{Authority, Server, answer, redirect};

async fn post(client: &HttpClient, url: &str) -> Result<Answer, NetError> {
    client.post(url, "application/didcomm-encrypted+json", Bytes::from_static(b"{\"a\":1}"), Limits::default()).await
}

/// One that redirects `/n` to `/n-1` with a 307, and says at `/0` what was posted.
async fn countdown() -> Server {
    Server::http(|request| async move {
        match request.uri().path()[1..].parse::<u8>().unwrap() {
            0 => answer(202, request.into_body().collect().await.unwrap().to_bytes()),
            n => redirect(307, &format!("/{}", n - 1)),
        }
    })
    .await
}

#[tokio::test]
async fn a_307_is_followed_with_the_message() {
    let there = countdown().await;
    let to = there.url("/0");
    let here = Server::http(move |_| {
        let to = to.clone();
        async move { redirect(307, &to) }
    })
    .await;
    let answer = post(&Authority::new().client(), &here.url("/")).await.unwrap();
    assert_eq!((answer.status, answer.body.unwrap()), (202, Bytes::from_static(b"{\"a\":1}")));
    assert_eq!((here.asked(), there.asked()), (1, 1));
}

#[tokio::test]
async fn five_are_followed_and_no_more() {
    let server = countdown().await;
    let client = Authority::new().client();
    assert_eq!(post(&client, &server.url("/5")).await.unwrap().status, 202);
    assert_eq!(server.asked(), 6);
    let error = post(&client, &server.url("/100")).await.unwrap_err();
    assert!(matches!(error, NetError::Redirect { .. }), "{error}");
    assert_eq!(server.asked(), 12);
}

#[tokio::test]
async fn no_other_is_followed() {
    let there = countdown().await;
    for status in [300, 301, 302, 303, 305, 308] {
        let to = there.url("/0");
        let here = Server::http(move |_| {
            let to = to.clone();
            async move { redirect(status, &to) }
        })
        .await;
        let answer = post(&Authority::new().client(), &here.url("/")).await.unwrap();
        assert_eq!(answer.status, status);
        assert!(!answer.is_success());
    }
    assert_eq!(there.connected(), 0);
}

/// threats.md, "SSRF": each redirect is judged as if it had been asked for.
#[tokio::test]
async fn the_guard_judges_each_hop() {
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
async fn tls_is_not_left() {
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
    assert_eq!(there.connected(), 0);
    let nowhere = Server::http(|_| async { answer(307, "") }).await;
    let error = post(&authority.client(), &nowhere.url("/")).await.unwrap_err();
    assert!(matches!(error, NetError::Redirect { .. }), "{error}");
}
