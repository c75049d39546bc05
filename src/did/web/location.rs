//! The URL of a did:web.

use super::error::WebError;

/// The URL of the document of a `did:web`.
///
/// # Errors
/// If the DID has another method, or an invalid host, port or path.
pub fn url(did: &str) -> Result<String, WebError> {
    Ok(format!("{}/did.json", folder_url(did.strip_prefix("did:web:").ok_or(WebError::Host)?)?))
}

/// The URL of the folder with the document, from the host and the path in a DID.
fn folder_url(host_and_path: &str) -> Result<String, WebError> {
    let mut segments = host_and_path.split(':');
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

/// The path of the URL that [`url()`] returns. A server has to serve the document there. `None` if the DID has another
/// method or is invalid.
pub fn path(did: &str) -> Option<String> {
    let url = url(did).ok()?;
    let (_, rest) = url.strip_prefix("https://")?.split_once('/')?;
    Some(format!("/{rest}"))
}

/// The `did:web` of a host, which may have a port, and of the segments of a path. Neither is checked.
pub fn did(host: &str, segments: &[&str]) -> String {
    let host = host.replace(':', "%3A");
    segments.iter().fold(format!("did:web:{host}"), |did, segment| format!("{did}:{segment}"))
}

/// Returns host and port as a URL has them. In the DID, the colon before the port is percent-encoded.
fn authority(text: &str) -> Result<String, WebError> {
    let (host, port) = match text.find('%') {
        None => (text, None),
        Some(at) => {
            let (host, rest) = text.split_at(at);
            let port = rest.strip_prefix("%3A").or(rest.strip_prefix("%3a")).ok_or(WebError::Host)?;
            (host, Some(port))
        }
    };
    let authority = host_and_port(host, port)?;
    match port {
        Some(port) if port.starts_with('0') => Err(WebError::Port),
        _ => Ok(authority),
    }
}

/// Returns host and port as a URL has them.
pub(in crate::did) fn host_and_port(host: &str, port: Option<&str>) -> Result<String, WebError> {
    if !is_domain_name(host) {
        return Err(WebError::Host);
    }
    let Some(port) = port else { return Ok(host.to_owned()) };
    match port.parse::<u16>() {
        Ok(number @ 1..) if port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(format!("{host}:{number}"))
        }
        _ => Err(WebError::Port),
    }
}

/// Whether a host is a domain name (RFC 1123 section 2.1). A name that URL parsers or operating systems read as an IPv4
/// address, in any form, is not accepted.
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

/// Whether a segment of a DID is one segment of a path for every server, even if the server decodes it first.
fn is_plain(segment: &str) -> bool {
    decoded(segment).is_some_and(|decoded| is_plain_when_decoded(&decoded))
}

/// Whether the decoded value of a segment is one segment of a path.
pub(in crate::did) fn is_plain_when_decoded(decoded: &[u8]) -> bool {
    let is_separator_or_control = |byte: &u8| byte.is_ascii_control() || b"/\\".contains(byte);
    // did:webvh forbids white space around a segment. For did:web it is refused too.
    let is_trimmed = match std::str::from_utf8(decoded) {
        Ok(text) => text.trim() == text,
        Err(_) => decoded.trim_ascii() == decoded,
    };
    is_trimmed && !matches!(decoded, b"" | b"." | b"..") && !decoded.iter().any(is_separator_or_control)
}

/// Decodes percent-encodings, once. `None` if one is malformed.
pub(in crate::did) fn decoded(segment: &str) -> Option<Vec<u8>> {
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
    use crate::did::is_did;

    #[test]
    fn urls_of_valid_dids() {
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
    fn invalid_dids() {
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
