//! did:webvh from a server's certificate to the document, and what a hostile server has instead of a log. threats.md, "DID
//! document poisoning", "SSRF", "oversize".

use std::sync::{Arc, Mutex};

use claviger::{
    agent::net::{Dialer, Guard, HttpClient, HttpOptions, client_config},
    did::{Cached, ResolveError, Resolver, WebvhError, WebvhResolver, webvh::EntryFault},
};

use crate::{
    net::server::{Answer, Authority, Server, answer, redirect},
    webvh_logs::{Log, key},
};

/// A server with a log that can be exchanged, and the log of its DID.
struct Host {
    server: Server,
    authority: Authority,
    answer: Arc<Mutex<Box<dyn Fn() -> Answer + Send>>>,
    log: Log,
}

impl Host {
    async fn new() -> Self {
        let authority = Authority::new();
        let says: Arc<Mutex<Box<dyn Fn() -> Answer + Send>>> = Arc::new(Mutex::new(Box::new(|| answer(404, ""))));
        let said = says.clone();
        let server = Server::https(authority.localhost(), move |request| {
            assert_eq!(request.uri().path(), "/dids/one/did.jsonl");
            let answer = said.lock().unwrap()();
            async move { answer }
        })
        .await;
        let log = Log::new(&format!("localhost%3A{}:dids:one", server.port), &key(1), |_| {});
        Self { server, authority, answer: says, log }
    }

    fn says(&self, answer: impl Fn() -> Answer + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    fn has(&self, log: &Log) {
        let text = log.text();
        self.says(move || answer(200, text.clone()));
    }

    fn resolver(&self) -> WebvhResolver<HttpClient> {
        WebvhResolver::new(self.authority.client())
    }
}

#[tokio::test]
async fn a_log_is_found_by_port_and_path() {
    let host = Host::new().await;
    host.has(&host.log);
    let did = host.log.did();
    let document = host.resolver().resolve(&did).await.unwrap();
    assert_eq!(document.as_value(), &host.log.entries[0]["state"]);
    host.has(&host.log.clone().and(&key(1), |it| it["state"]["alsoKnownAs"] = "at:last".into()));
    assert_eq!(host.resolver().resolve(&did).await.unwrap().also_known_as(), ["at:last"]);
}

#[tokio::test]
async fn what_a_hostile_server_has_is_refused() {
    use ResolveError::{NotFetched, NotFound, Unavailable, Webvh};
    let host = Host::new().await;
    let did = host.log.did();
    let ask = async || host.resolver().resolve(&did).await.unwrap_err();
    assert!(matches!(ask().await, NotFound(_)));
    host.says(|| answer(503, ""));
    assert!(matches!(ask().await, Unavailable { .. }));
    host.says(|| redirect(301, "/dids/one/did.jsonl"));
    let asked = host.server.asked();
    assert!(matches!(ask().await, Unavailable { .. }));
    assert_eq!(host.server.asked(), asked + 1, "the redirect was followed");
    // Longer than is read, though each line of it were right.
    host.says(|| answer(200, vec![b'\n'; 1024 * 1024 + 1]));
    assert!(matches!(ask().await, NotFetched { .. }));
    // Who took the server over has neither the key that may change the DID, nor another one with its SCID.
    let entry = |error: ResolveError| match error {
        Webvh { source: WebvhError::Entry { number, fault }, .. } => (number, fault),
        other => panic!("{other}"),
    };
    host.has(&host.log.clone().but(1, |it| it["state"]["service"] = "https://mallory.example".into()));
    assert!(matches!(entry(ask().await), (1, EntryFault::Proof(_))));
    host.has(&host.log.clone().and(&key(66), |_| {}));
    assert!(matches!(entry(ask().await), (2, EntryFault::Proof(_))));
    host.has(&Log::new(&format!("localhost%3A{}:dids:one", host.server.port), &key(66), |_| {}));
    assert!(matches!(entry(ask().await), (1, EntryFault::Scid)));
}

#[tokio::test]
async fn the_inside_is_not_asked_for_a_log() {
    let host = Host::new().await;
    let tls = client_config(Some(&host.authority.roots)).unwrap();
    let client = HttpClient::new(Dialer::new(Guard::default(), tls), HttpOptions::default());
    let error = WebvhResolver::new(client).resolve(&host.log.did()).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFetched { .. }), "{error}");
    assert_eq!(host.server.connected(), 0);
}

/// What was found is asked for once, and so is what was not.
#[tokio::test]
async fn logs_are_remembered() {
    let host = Host::new().await;
    let cached = Cached::new(host.resolver());
    let did = host.log.did();
    for _ in 0..3 {
        assert!(matches!(cached.resolve(&did).await, Err(ResolveError::NotFound(_))));
    }
    assert_eq!(host.server.asked(), 1);
    host.has(&host.log);
    cached.forget(&did);
    for _ in 0..3 {
        cached.resolve(&did).await.unwrap();
    }
    assert_eq!(host.server.asked(), 2);
}
