//! TLS to servers: trust, versions and cipher suites. conformance.md, 80.

use std::fs;

use claviger::net::{Dialer, HttpClient, HttpOptions, NetError, RequestLimits, TlsError, client_config};
use hyper::body::Bytes;
use rcgen::{CertificateParams, date_time_ymd};
use rustls::{
    ServerConfig,
    version::{TLS12, TLS13},
};

use crate::net::server::{Authority, Server, loopback_guard, response};

async fn status(client: &HttpClient, tls: ServerConfig) -> Result<u16, NetError> {
    let server = Server::https(tls, |_| async { response(202, "") }).await;
    let response = client.post(&server.secure_url("/"), "text/plain", Bytes::new(), RequestLimits::default()).await?;
    Ok(response.status)
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let (ours, others) = (Authority::new(), Authority::new());
    let client = ours.client();
    assert_eq!(status(&client, ours.localhost()).await.unwrap(), 202);
    let error = status(&client, others.localhost()).await.unwrap_err();
    assert!(matches!(error, NetError::Tls { .. }) && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("localhost"), "{error}");
    // With the system's roots alone, if the system has any.
    if let Ok(system) = client_config(None) {
        let client = HttpClient::new(Dialer::new(loopback_guard(), system), HttpOptions::default());
        assert!(matches!(status(&client, ours.localhost()).await, Err(NetError::Tls { .. })));
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_or_time_is_refused() {
    let authority = Authority::new();
    let client = authority.client();
    for name in ["example.com", "127.0.0.1", "a.localhost"] {
        let error = status(&client, authority.server(name, rustls::ALL_VERSIONS)).await.unwrap_err();
        assert!(matches!(error, NetError::Tls { .. }), "{name}: {error}");
    }
    let mut expired = CertificateParams::new(["localhost".to_owned()]).unwrap();
    expired.not_after = date_time_ymd(2020, 1, 1);
    let error = status(&client, authority.server_with(expired, rustls::ALL_VERSIONS)).await.unwrap_err();
    assert!(matches!(error, NetError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn tls_1_2_and_1_3_have_forward_secrecy() {
    let authority = Authority::new();
    for version in [&TLS12, &TLS13] {
        assert_eq!(status(&authority.client(), authority.server("localhost", &[version])).await.unwrap(), 202);
    }
    let config = client_config(Some(&authority.roots)).unwrap();
    for suite in &config.crypto_provider().cipher_suites {
        let name = format!("{:?}", suite.suite());
        assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
    }
}

#[tokio::test]
async fn a_plain_server_fails_the_tls_handshake() {
    let plain = Server::http(|_| async { response(202, "") }).await;
    let client = Authority::new().client();
    let error =
        client.post(&plain.secure_url("/"), "text/plain", Bytes::new(), RequestLimits::default()).await.unwrap_err();
    assert!(matches!(error, NetError::Tls { .. }), "{error}");
}

#[test]
fn a_file_without_roots_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roots.pem");
    assert!(matches!(client_config(Some(&path)), Err(TlsError::File { .. })));
    for text in [
        "",
        "nothing",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&path, text).unwrap();
        let error = client_config(Some(&path)).unwrap_err();
        assert!(matches!(error, TlsError::File { .. }), "{text:?}: {error}");
        assert!(error.to_string().contains("roots.pem"), "{error}");
    }
}
