//! did:web (did:web Method Specification): a document on a web server.
//!
//! This module opens no socket: it says where the document is, asks a [`Fetch`] for it, and looks at what comes.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Document, ResolveError, Resolver, is_did};

/// Gets what a URL leads to. It is given hosts that strangers chose.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// The body, of at most `limit` bytes; none if there is nothing at that place.
    ///
    /// # Errors
    /// If it cannot be had now, or is not to be asked for.
    async fn fetch(&self, url: &str, limit: usize) -> Result<Option<Vec<u8>>, Unfetched>;
}

/// Why something was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfetched(pub String);

/// The longest document that is read; white space is no fault.
const LARGEST: usize = 256 * 1024;

/// Resolves did:web.
pub struct WebResolver<F> {
    fetch: F,
    plain: Vec<String>,
}

impl<F: Fetch> WebResolver<F> {
    /// One that asks by HTTPS.
    pub fn new(fetch: F) -> Self {
        Self { fetch, plain: Vec::new() }
    }

    /// Asks these hosts, each with its port if it has one, without TLS. For tests: who is in between chooses the keys.
    #[must_use]
    pub fn plain_http_for(mut self, hosts: Vec<String>) -> Self {
        self.plain = hosts;
        self
    }
}

#[async_trait]
impl<F: Fetch> Resolver for WebResolver<F> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        let place = Place::of(did)?;
        let scheme = if self.plain.contains(&place.host) { "http" } else { "https" };
        let url = format!("{scheme}://{}{}", place.host, place.path);
        let body = self.fetch.fetch(&url, LARGEST).await.map_err(|error| ResolveError::unavailable(did, error))?;
        let body = body.ok_or_else(|| ResolveError::not_found(did))?;
        let document = Document::from_json(&body).and_then(|document| document.of(did));
        document.map(Arc::new).map_err(|error| ResolveError::document(did, error))
    }
}

/// The path at which the document of a did:web is served; none for another DID.
pub fn path(did: &str) -> Option<String> {
    Place::of(did).ok().map(|place| place.path)
}

/// The did:web whose document is served for this host, with its port if it has one, and these segments of a path.
pub fn did(host: &str, segments: &[&str]) -> String {
    let host = host.replace(':', "%3A");
    segments.iter().fold(format!("did:web:{host}"), |did, segment| format!("{did}:{segment}"))
}

/// Where a document is (section 3.2, "Read").
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// With the port, if there is one.
    host: String,
    path: String,
}

impl Place {
    fn of(did: &str) -> Result<Self, ResolveError> {
        let id = did.strip_prefix("did:web:").ok_or_else(|| ResolveError::unsupported_method(did))?;
        let wrong = || ResolveError::not_a_did(did);
        if !is_did(did) {
            return Err(wrong());
        }
        let mut segments = id.split(':');
        let host = segments.next().map(|host| host.replace("%3a", ":").replace("%3A", ":")).ok_or_else(wrong)?;
        let (name, port) = host.split_once(':').map_or((host.as_str(), None), |(name, port)| (name, Some(port)));
        let sound = !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
            && !name.split('.').any(str::is_empty)
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let segments: Vec<&str> = segments.collect();
        // A dot, a slash or a backslash that is percent-encoded would lead elsewhere on some servers.
        let plain = |segment: &&str| {
            !segment.is_empty()
                && !matches!(*segment, "." | "..")
                && !["%2e", "%2f", "%5c", "%00"].iter().any(|odd| segment.to_ascii_lowercase().contains(odd))
        };
        if !sound || !segments.iter().all(plain) {
            return Err(wrong());
        }
        let path = match segments.as_slice() {
            [] => "/.well-known/did.json".to_owned(),
            segments => format!("/{}/did.json", segments.join("/")),
        };
        Ok(Self { host, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(did: &str) -> Option<(String, String)> {
        Place::of(did).ok().map(|place| (place.host, place.path))
    }

    #[test]
    fn where_a_document_is() {
        let at = |host: &str, path: &str| Some((host.to_owned(), path.to_owned()));
        assert_eq!(place("did:web:example.com"), at("example.com", "/.well-known/did.json"));
        assert_eq!(place("did:web:example.com:user:alice"), at("example.com", "/user/alice/did.json"));
        assert_eq!(place("did:web:example.com%3A3000:user:a"), at("example.com:3000", "/user/a/did.json"));
        for not in [
            "did:key:z6Mk",
            "did:web:",
            "did:web:example.com%3A",
            "did:web:example.com%3A99999",
            "did:web:example.com%2Fa",
            "did:web:user%40example.com",
            "did:web:example.com:..:secret",
            "did:web:example.com:%2e%2e:secret",
            "did:web:example.com::a",
            "did:web:.example.com",
            "did:web:example.com%3A80%3A81",
        ] {
            assert_eq!(place(not), None, "{not}");
        }
        assert_eq!(did("example.com:8080", &["a"]), "did:web:example.com%3A8080:a");
    }

    struct Answers(&'static str);

    #[async_trait]
    impl Fetch for Answers {
        async fn fetch(&self, _: &str, _: usize) -> Result<Option<Vec<u8>>, Unfetched> {
            Ok((!self.0.is_empty()).then(|| self.0.as_bytes().to_vec()))
        }
    }

    #[tokio::test]
    async fn a_document_is_of_the_did_that_was_asked_for() {
        let resolve = async |answer| WebResolver::new(Answers(answer)).resolve("did:web:example.com").await;
        assert!(resolve(r#"{"id":"did:web:example.com"}"#).await.is_ok());
        assert!(matches!(resolve(r#"{"id":"did:web:example.org"}"#).await, Err(ResolveError::Document { .. })));
        assert!(matches!(resolve("").await, Err(ResolveError::NotFound(_))));
        assert!(matches!(resolve("<html>").await, Err(ResolveError::Document { .. })));
    }
}
