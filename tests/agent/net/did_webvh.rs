//! did:webvh from a server's certificate to the document, and the logs of a hostile server: poisoned and
//! oversized documents, SSRF.

use std::sync::{Arc, Mutex};

use claviger::{
    did::{CachedResolver, ResolveError, Resolver, WebvhError, WebvhResolver, webvh::EntryFault},
    net::{AddressGuard, Dialer, HttpClient, HttpOptions, client_config},
};

use crate::{
    net::server::{Authority, Server, ServerResponse, redirect, response},
    webvh_logs::{Log, key},
};

/// A server with a replaceable response, and the log of its DID.
struct Host {
    server: Server,
    authority: Authority,
    response: Arc<Mutex<Box<dyn Fn() -> ServerResponse + Send>>>,
    log: Log,
}

impl Host {
    async fn new() -> Self {
        let authority = Authority::new();
        let current: Arc<Mutex<Box<dyn Fn() -> ServerResponse + Send>>> =
            Arc::new(Mutex::new(Box::new(|| response(404, ""))));
        let served = current.clone();
        let server = Server::https(authority.localhost(), move |request| {
            assert_eq!(request.uri().path(), "/dids/one/did.jsonl");
            let response = served.lock().unwrap()();
            async move { response }
        })
        .await;
        let log = Log::new(&format!("localhost%3A{}:dids:one", server.port), &key(1), |_| {});
        Self { server, authority, response: current, log }
    }

    fn respond_with(&self, response: impl Fn() -> ServerResponse + Send + 'static) {
        *self.response.lock().unwrap() = Box::new(response);
    }

    fn serve_log(&self, log: &Log) {
        let text = log.text();
        self.respond_with(move || response(200, text.clone()));
    }

    fn resolver(&self) -> WebvhResolver<HttpClient> {
        WebvhResolver::new(self.authority.client())
    }
}

#[tokio::test]
async fn a_log_is_found_by_port_and_path() {
    let host = Host::new().await;
    host.serve_log(&host.log);
    let did = host.log.did();
    let document = host.resolver().resolve(&did).await.unwrap();
    assert_eq!(document.as_value(), &host.log.entries[0]["state"]);
    host.serve_log(&host.log.clone().and(&key(1), |it| it["state"]["alsoKnownAs"] = "at:last".into()));
    assert_eq!(host.resolver().resolve(&did).await.unwrap().also_known_as(), ["at:last"]);
}

#[tokio::test]
async fn a_hostile_servers_log_is_refused() {
    use ResolveError::{NotFetched, NotFound, Unavailable, Webvh};
    let host = Host::new().await;
    let did = host.log.did();
    let ask = async || host.resolver().resolve(&did).await.unwrap_err();
    assert!(matches!(ask().await, NotFound(_)));
    host.respond_with(|| response(503, ""));
    assert!(matches!(ask().await, Unavailable { .. }));
    host.respond_with(|| redirect(301, "/dids/one/did.jsonl"));
    let before = host.server.request_count();
    let error = ask().await;
    assert!(matches!(error, NotFetched { .. }) && !error.may_pass(), "{error}");
    assert!(error.to_string().contains("redirects with status 301"), "{error}");
    assert_eq!(host.server.request_count(), before + 1, "the redirect was followed");
    // Larger than the limit, although each line is valid.
    host.respond_with(|| response(200, vec![b'\n'; 1024 * 1024 + 1]));
    assert!(matches!(ask().await, Unavailable { .. }));
    // An attacker who takes over the server has no key that may change the DID, and cannot make another log with
    // its SCID.
    let entry = |error: ResolveError| match error {
        Webvh { source: WebvhError::Entry { number, fault }, .. } => (number, fault),
        other => panic!("{other}"),
    };
    host.serve_log(&host.log.clone().but(1, |it| it["state"]["service"] = "https://mallory.example".into()));
    assert!(matches!(entry(ask().await), (1, EntryFault::Proof(_))));
    host.serve_log(&host.log.clone().and(&key(66), |_| {}));
    assert!(matches!(entry(ask().await), (2, EntryFault::Proof(_))));
    host.serve_log(&Log::new(&format!("localhost%3A{}:dids:one", host.server.port), &key(66), |_| {}));
    assert!(matches!(entry(ask().await), (1, EntryFault::Scid)));
}

#[tokio::test]
async fn private_addresses_are_refused_for_a_log() {
    let host = Host::new().await;
    let tls = client_config(Some(&host.authority.roots)).unwrap();
    let client = HttpClient::new(Dialer::new(AddressGuard::default(), tls), HttpOptions::default());
    let error = WebvhResolver::new(client).resolve(&host.log.did()).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFetched { .. }), "{error}");
    assert_eq!(host.server.connection_count(), 0);
}

/// An existing log and a missing log are each requested once.
#[tokio::test]
async fn logs_are_cached() {
    let host = Host::new().await;
    let cached = CachedResolver::new(host.resolver());
    let did = host.log.did();
    for _ in 0..3 {
        assert!(matches!(cached.resolve(&did).await, Err(ResolveError::NotFound(_))));
    }
    assert_eq!(host.server.request_count(), 1);
    host.serve_log(&host.log);
    cached.forget(&did);
    for _ in 0..3 {
        cached.resolve(&did).await.unwrap();
    }
    assert_eq!(host.server.request_count(), 2);
}
