//! did:web: a document that its host's web server has (W3C CCG, "did:web Method Specification").

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Document, DocumentError, Fetch, ResolveError, Resolver, document::MAX_BYTES, fetch, is_did, resolver::shortened,
};

/// What is asked for, the specification's own types first; what a server says that it gives is not looked at.
const ACCEPT: &str = "application/did+json, application/did+ld+json, application/json;q=0.9, */*;q=0.1";

/// Why a `did:web` names no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// Its host is no domain name: an address is none.
    #[error("its host is not a domain name")]
    Host,
    /// Its port is none.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Its path has a segment that is empty, `.` or `..`, begins or ends with a space, or hides a separator.
    #[error("its path has a segment that leads elsewhere")]
    Path,
    /// The server has no document there now.
    #[error("its server answers with status {0}")]
    Status(u16),
}

/// Resolves `did:web` by HTTPS.
///
/// The document is believed because the host's certificate is, and is taken only if its `id` is the DID asked for. No
/// redirect is followed, at most 64 KiB are read. It asks at each call: [`Cached`](super::Cached) is put before it.
#[derive(Debug, Clone)]
pub struct WebResolver<F> {
    fetch: F,
}

impl<F: Fetch> WebResolver<F> {
    /// One that fetches by `fetch`.
    pub fn new(fetch: F) -> Self {
        Self { fetch }
    }
}

#[async_trait]
impl<F: Fetch> Resolver for WebResolver<F> {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        if !is_did(did) {
            return Err(ResolveError::not_a_did(did));
        }
        if !did.starts_with("did:web:") {
            return Err(ResolveError::unsupported_method(did));
        }
        let url = url(did).map_err(|source| ResolveError::Web { did: shortened(did), source })?;
        let body = fetch::body(&self.fetch, did, &url, ACCEPT, MAX_BYTES).await?;
        let wrong = |source: DocumentError| ResolveError::document(did, source);
        let document = Document::from_json(&body).and_then(|document| document.of(did)).map_err(wrong)?;
        Ok(Arc::new(document))
    }
}

/// Where the document of a `did:web` is.
///
/// # Errors
/// If the DID is none of this method, or names no place.
pub fn url(did: &str) -> Result<String, WebError> {
    Ok(format!("{}/did.json", folder(did.strip_prefix("did:web:").ok_or(WebError::Host)?)?))
}

/// The folder on a server that a host and a path, as they stand in a DID, lead to.
pub(super) fn folder(place: &str) -> Result<String, WebError> {
    let mut segments = place.split(':');
    let authority = authority(segments.next().unwrap_or_default())?;
    let mut url = format!("https://{authority}");
    let mut has_path = false;
    for segment in segments {
        if !is_plain(segment) {
            return Err(WebError::Path);
        }
        url.extend(["/", segment]);
        has_path = true;
    }
    if !has_path {
        url.push_str("/.well-known");
    }
    Ok(url)
}

/// The path at which the document of a `did:web` is served; none for a DID of another method.
pub fn path(did: &str) -> Option<String> {
    let url = url(did).ok()?;
    let (_, rest) = url.strip_prefix("https://")?.split_once('/')?;
    Some(format!("/{rest}"))
}

/// The `did:web` whose document is served for this host, with its port if it has one, and these segments of a path.
pub fn did(host: &str, segments: &[&str]) -> String {
    let host = host.replace(':', "%3A");
    segments.iter().fold(format!("did:web:{host}"), |did, segment| format!("{did}:{segment}"))
}

/// The host, and the port behind its percent-encoded colon.
fn authority(text: &str) -> Result<String, WebError> {
    let (host, port) = match text.find('%') {
        None => (text, None),
        Some(at) => {
            let (host, rest) = text.split_at(at);
            let port = rest.strip_prefix("%3A").or(rest.strip_prefix("%3a")).ok_or(WebError::Host)?;
            (host, Some(port))
        }
    };
    if !is_domain_name(host) {
        return Err(WebError::Host);
    }
    let Some(port) = port else { return Ok(host.to_owned()) };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    match port.parse::<u16>() {
        Ok(number) if digits => Ok(format!("{host}:{number}")),
        _ => Err(WebError::Port),
    }
}

/// RFC 1123 section 2.1, without the names that the URL standard and systems read as numbers: IPv4 addresses, in any form.
fn is_domain_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    host.len() <= 253 && host.split('.').all(is_label) && !is_number
}

/// Whether a segment of a DID is one of a path, for every server, also one that decodes it first.
fn is_plain(segment: &str) -> bool {
    let Some(decoded) = decoded(segment) else { return false };
    let leads_elsewhere = |byte: &u8| byte.is_ascii_control() || b"/\\".contains(byte);
    // White space around it is refused by did:webvh only, and is nobody's wish in did:web either.
    let is_trimmed = decoded.trim_ascii() == decoded;
    is_trimmed && !matches!(decoded.as_slice(), b"" | b"." | b"..") && !decoded.iter().any(leads_elsewhere)
}

fn decoded(segment: &str) -> Option<Vec<u8>> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        decoded.push(if byte == b'%' { (16 * digit()? + digit()?) as u8 } else { byte });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_document_is() {
        for (did, at) in [
            ("did:web:w3c-ccg.github.io", "https://w3c-ccg.github.io/.well-known/did.json"),
            ("did:web:w3c-ccg.github.io:user:alice", "https://w3c-ccg.github.io/user/alice/did.json"),
            ("did:web:example.com%3A3000", "https://example.com:3000/.well-known/did.json"),
            ("did:web:example.com%3a3000:user:alice", "https://example.com:3000/user/alice/did.json"),
            ("did:web:localhost%3A8080", "https://localhost:8080/.well-known/did.json"),
            ("did:web:example.com:a%20b:...:c_d", "https://example.com/a%20b/.../c_d/did.json"),
            ("did:web:xn--bcher-kva.example", "https://xn--bcher-kva.example/.well-known/did.json"),
            ("did:web:1.2.3.example", "https://1.2.3.example/.well-known/did.json"),
        ] {
            assert!(is_did(did), "{did}");
            assert_eq!(url(did).as_deref(), Ok(at), "{did}");
        }
    }

    #[test]
    fn what_names_no_place() {
        use WebError::{Host, Path, Port};
        let long = "a".repeat(64);
        for (id, error) in [
            ("", Host),
            ("127.0.0.1", Host),
            ("127.1", Host),
            ("2130706433", Host),
            ("0x7f000001", Host),
            ("0x7f.1", Host),
            ("a.0X7F", Host),
            ("127.0.0.1%3A80", Host),
            ("%5B%3A%3A1%5D", Host),
            ("%3A80", Host),
            ("user%40example.com", Host),
            ("example.com%40127.0.0.1", Host),
            ("example.com%2Fa", Host),
            ("example.com%3Fa", Host),
            ("b%C3%BCcher.example", Host),
            ("example..com", Host),
            ("example.com.", Host),
            (".example.com", Host),
            ("-a.example", Host),
            ("a-.example", Host),
            ("a_b.example", Host),
            (&long, Host),
            ("example.com%3A", Port),
            ("example.com%3A0", Port),
            ("example.com%3A080", Port),
            ("example.com%3A65536", Port),
            ("example.com%3A80%3A80", Port),
            ("example.com%3A80%40b", Port),
            ("example.com%3A+80", Port),
            ("example.com:", Path),
            ("example.com::a", Path),
            ("example.com:.", Path),
            ("example.com:a:..:b", Path),
            ("example.com:%2e%2E:b", Path),
            ("example.com:.%2e", Path),
            ("example.com:a%2Fb", Path),
            ("example.com:..%5Cb", Path),
            ("example.com:a%00", Path),
            ("example.com:a%0D%0AX", Path),
        ] {
            assert_eq!(url(&format!("did:web:{id}")), Err(error), "{id}");
        }
        assert_eq!(url(&format!("did:web:{}example", "a.".repeat(130))), Err(Host));
        assert_eq!(url("did:key:z6Mk"), Err(Host));
    }
}
