//! did:web from a server's certificate to the document, and hostile servers: poisoned and oversized documents, SSRF.

use std::{sync::Arc, time::Duration};

use claviger::{
    did::{
        CachedResolver, Document, DocumentError, LocalResolver, ResolveError, Resolver, ResolverChain, WebError,
        WebResolver,
    },
    net::{AddressGuard, Dialer, HttpClient, HttpOptions, client_config},
};
use hyper::{Request, Response, body::Incoming};
use serde_json::json;

use crate::net::server::{Authority, Server, ServerResponse, loopback_guard, redirect, response};

/// The port in the request's `Host`.
fn port(request: &Request<Incoming>) -> String {
    request.headers()["host"].to_str().unwrap().rsplit_once(':').unwrap().1.to_owned()
}

fn document(id: &str) -> ServerResponse {
    response(200, json!({ "id": id }).to_string())
}

/// A host of many DIDs, most with one fault each.
async fn host(request: Request<Incoming>) -> ServerResponse {
    assert_eq!(request.method(), "GET");
    let did = format!("did:web:localhost%3A{}", port(&request));
    let path = request.uri().path().to_owned();
    let Some(name) = path.strip_suffix("/did.json") else { panic!("{path}") };
    match name {
        "/.well-known" => document(&did),
        "/user/alice" | "/a%20b" => document(&format!("{did}{}", name.replace('/', ":"))),
        "/mallory" => document(&format!("{did}:user:alice")),
        "/typed" => {
            let body = json!({ "id": format!("{did}:typed") }).to_string();
            Response::builder().header("content-type", "text/html").body(body.into()).unwrap()
        }
        "/large" => response(200, json!({ "id": format!("{did}:large"), "x": "a".repeat(64 * 1024) }).to_string()),
        "/text" => response(200, "<html>"),
        "/gone" => response(410, ""),
        "/moved" => redirect(301, "/user/alice/did.json"),
        "/busy" => response(503, ""),
        "/created" => response(201, json!({ "id": format!("{did}:created") }).to_string()),
        _ => response(404, "no"),
    }
}

fn resolver(client: HttpClient) -> ResolverChain {
    ResolverChain::new(LocalResolver::new()).then(WebResolver::new(client))
}

#[tokio::test]
async fn a_document_is_found_by_port_and_path() {
    let authority = Authority::new();
    let server = Server::https(authority.localhost(), host).await;
    let web = resolver(authority.client());
    for rest in ["", ":user:alice", ":a%20b", ":typed"] {
        let did = format!("did:web:localhost%3A{}{rest}", server.port);
        assert_eq!(web.resolve(&did).await.unwrap().id(), did);
    }
}

#[tokio::test]
async fn a_document_of_another_did_is_refused() {
    let authority = Authority::new();
    let server = Server::https(authority.localhost(), host).await;
    let web = resolver(authority.client());
    let ask = async |rest: &str| web.resolve(&format!("did:web:localhost%3A{}:{rest}", server.port)).await.unwrap_err();
    use ResolveError::{Document, NotFetched, NotFound, Unavailable, Web};
    assert!(matches!(ask("mallory").await, Document { source: DocumentError::WrongId { .. }, .. }));
    assert!(matches!(ask("text").await, Document { source: DocumentError::Json { .. }, .. }));
    assert!(matches!(ask("large").await, Unavailable { .. }));
    assert!(matches!(ask("nobody").await, NotFound(_)));
    assert!(matches!(ask("gone").await, NotFound(_)));
    assert!(matches!(ask("busy").await, Unavailable { .. }));
    assert!(matches!(ask("created").await, Unavailable { .. }));
    let before = server.request_count();
    let error = ask("moved").await;
    assert!(matches!(error, NotFetched { .. }) && !error.may_pass(), "{error}");
    assert!(error.to_string().contains("redirects with status 301"), "{error}");
    assert_eq!(server.request_count(), before + 1, "the redirect was followed");
    assert!(matches!(ask("a:..:b").await, Web { source: WebError::Path, .. }));
    assert_eq!(server.request_count(), before + 1);
    // The server's certificate is for another name.
    let other = Server::https(authority.server("example.com", rustls::ALL_VERSIONS), host).await;
    let did = format!("did:web:localhost%3A{}", other.port);
    assert!(matches!(web.resolve(&did).await, Err(Unavailable { .. })));
    assert_eq!(other.request_count(), 0);
}

#[tokio::test]
async fn private_addresses_are_refused() {
    let authority = Authority::new();
    let server = Server::https(authority.localhost(), host).await;
    let tls = client_config(Some(&authority.roots)).unwrap();
    let closed = resolver(HttpClient::new(Dialer::new(AddressGuard::default(), tls), HttpOptions::default()));
    let error = closed.resolve(&format!("did:web:localhost%3A{}", server.port)).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFetched { .. }), "{error}");
    assert!(error.to_string().contains("localhost") && error.to_string().contains("loopback"), "{error}");
    let public = resolver(HttpClient::for_public_servers().unwrap());
    let error = public.resolve(&format!("did:web:localhost%3A{}", server.port)).await.unwrap_err();
    assert!(error.to_string().contains("localhost") && error.to_string().contains("loopback"), "{error}");
    let error = closed.resolve("did:web:127.0.0.1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Web { source: WebError::Host, .. }), "{error}");
    assert_eq!(server.connection_count(), 0);
}

/// Plain HTTP is for hosts that the operator configured, with an allowed private address.
#[tokio::test]
async fn plain_http_is_for_configured_private_hosts() {
    let authority = Authority::new();
    let server = Server::http(host).await;
    let did = format!("did:web:localhost%3A{}:user:alice", server.port);
    let tls = client_config(Some(&authority.roots)).unwrap();
    let client = |guard: AddressGuard, name: &str| {
        let options = HttpOptions { did_web_plain_http_for: vec![name.to_owned()], ..HttpOptions::default() };
        resolver(HttpClient::new(Dialer::new(guard, tls.clone()), options))
    };
    for name in ["localhost".to_owned(), format!("localhost:{}", server.port)] {
        assert_eq!(client(loopback_guard(), &name).resolve(&did).await.unwrap().id(), did);
    }
    let before = server.request_count();
    for name in ["localhos", "localhost:1", "example.com"] {
        assert!(
            matches!(client(loopback_guard(), name).resolve(&did).await, Err(ResolveError::Unavailable { .. })),
            "{name}"
        );
    }
    let elsewhere = AddressGuard::new(vec!["10.0.0.0/8".parse().unwrap()]);
    assert!(matches!(client(elsewhere, "localhost").resolve(&did).await, Err(ResolveError::NotFetched { .. })));
    assert_eq!(server.request_count(), before);
}

#[tokio::test]
async fn a_thousand_concurrent_lookups_send_one_request() {
    let authority = Authority::new();
    let server = Server::https(authority.localhost(), |request| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        host(request).await
    })
    .await;
    let cached = Arc::new(CachedResolver::new(resolver(authority.client())));
    for (rest, found) in [("", true), (":nobody", false)] {
        let before = server.request_count();
        let did: Arc<str> = format!("did:web:localhost%3A{}{rest}", server.port).into();
        let asking: Vec<_> = (0..1000)
            .map(|_| {
                let (cached, did) = (cached.clone(), did.clone());
                tokio::spawn(async move { cached.resolve(&did).await.is_ok() })
            })
            .collect();
        for one in asking {
            assert_eq!(one.await.unwrap(), found);
        }
        assert_eq!(server.request_count(), before + 1);
    }
}

/// A local document takes precedence over the server's. Other methods are not supported.
#[tokio::test]
async fn resolvers_are_tried_in_order() {
    let authority = Authority::new();
    let server = Server::https(authority.localhost(), host).await;
    let did = format!("did:web:localhost%3A{}", server.port);
    let at_hand = Document::from_value(json!({ "id": did, "alsoKnownAs": ["at:hand"] })).unwrap();
    let local = LocalResolver::new().with_documents([at_hand]);
    let methods = ResolverChain::new(local).then(WebResolver::new(authority.client()));
    assert_eq!(methods.resolve(&did).await.unwrap().also_known_as(), ["at:hand"]);
    assert_eq!(server.connection_count(), 0);
    let key = "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc";
    assert_eq!(methods.resolve(key).await.unwrap().id(), key);
    assert!(matches!(methods.resolve("did:key:z6LS").await, Err(ResolveError::Key { .. })));
    assert!(matches!(methods.resolve("did:example:a").await, Err(ResolveError::UnsupportedMethod(_))));
    assert!(matches!(methods.resolve("did:web:a b").await, Err(ResolveError::NotADid(_))));
}
