//! Parsed URLs of servers.

use std::{fmt, net::IpAddr};

use hyper::Uri;

use super::error::NetError;

/// The longest accepted URL, in bytes.
const MAX_URL_BYTES: usize = 4096;

/// A parsed URL of a server: `http`, `https`, `ws` or `wss`, with a host, and without a user name or password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    host: String,
    port: u16,
    protocol: Protocol,
    secure: bool,
}

/// The server of a URL: whether it is contacted with TLS, its host, and its port. Two URLs of one origin lead to the same
/// server. `http` and `ws` are the same origin here, and `https` and `wss`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    is_secure: bool,
    /// A name in lower case without a final dot, or an IP address in its usual form.
    host: String,
    port: u16,
}

/// What the server at a URL speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    WebSocket,
}

impl Target {
    /// Parses the URL of an HTTP server.
    ///
    /// # Errors
    /// [`NetError::Url`] if this is no valid URL of an HTTP server.
    pub fn http(url: &str) -> Result<Self, NetError> {
        match Self::parse(url)? {
            target if target.protocol == Protocol::Http => Ok(target),
            _ => Err(invalid(url, "it is a WebSocket URL")),
        }
    }

    /// Parses the URL of a WebSocket server.
    ///
    /// # Errors
    /// [`NetError::Url`] if this is no valid URL of a WebSocket server.
    pub fn websocket(url: &str) -> Result<Self, NetError> {
        match Self::parse(url)? {
            target if target.protocol == Protocol::WebSocket => Ok(target),
            _ => Err(invalid(url, "it is no WebSocket URL")),
        }
    }

    /// Parses the URL of an HTTP or WebSocket server.
    ///
    /// # Errors
    /// [`NetError::Url`] if this is no valid URL of such a server.
    pub fn parse(url: &str) -> Result<Self, NetError> {
        if url.len() > MAX_URL_BYTES {
            return Err(invalid(url, "it is too long"));
        }
        let uri: Uri = url.parse().map_err(|_| invalid(url, "it is not a URL"))?;
        let (protocol, secure) = match uri.scheme_str() {
            Some("http") => (Protocol::Http, false),
            Some("https") => (Protocol::Http, true),
            Some("ws") => (Protocol::WebSocket, false),
            Some("wss") => (Protocol::WebSocket, true),
            _ => return Err(invalid(url, "its scheme is not http, https, ws or wss")),
        };
        let authority = uri.authority().ok_or_else(|| invalid(url, "it has no host"))?;
        // RFC 9110 section 4.2.4: user information in a URL is likely an attack.
        if authority.as_str().contains('@') {
            return Err(invalid(url, "it contains a user name"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || host.len() > 255 {
            return Err(invalid(url, "it has no host"));
        }
        // For an invalid port, the parser reports that there is no port.
        let port = match (authority.port_u16(), authority.as_str().ends_with(authority.host())) {
            (Some(0), _) | (None, false) => return Err(invalid(url, "its port is invalid")),
            (Some(port), _) => port,
            (None, true) => [80, 443][usize::from(secure)],
        };
        Ok(Self { host, port, protocol, secure, uri })
    }

    /// The host's name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port: that of the URL, or the default port of its scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server is contacted with TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The server of the URL.
    pub fn origin(&self) -> Origin {
        let host = match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => self.host.trim_end_matches('.').to_ascii_lowercase(),
        };
        Origin { is_secure: self.secure, host, port: self.port }
    }

    /// The URL, without a fragment.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Resolves the `Location` of a response from this URL (RFC 3986 section 5.2, without removing dot segments).
    pub(super) fn join(&self, location: &str) -> Result<Self, NetError> {
        let here = self.uri.authority().map_or("", |authority| authority.as_str());
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let path = self.uri.path();
        let has_scheme = location.split_once(':').is_some_and(|(before, _)| !before.contains(['/', '?', '#']));
        Self::http(&match location {
            _ if has_scheme => location.to_owned(),
            _ if location.starts_with("//") => format!("{scheme}:{location}"),
            _ if location.starts_with('/') => format!("{scheme}://{here}{location}"),
            _ if location.starts_with('?') => format!("{scheme}://{here}{path}{location}"),
            _ => format!("{scheme}://{here}{folder}/{location}", folder = path.rsplit_once('/').map_or("", |(f, _)| f)),
        })
    }
}

impl Origin {
    /// The host's name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

fn invalid(url: &str, reason: &'static str) -> NetError {
    NetError::Url { url: url.chars().take(100).collect(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_urls() {
        for (url, host, port, secure) in [
            ("https://example.com", "example.com", 443, true),
            ("http://example.com/a?b=c", "example.com", 80, false),
            ("https://example.com:8443/didcomm#x", "example.com", 8443, true),
            ("http://[::1]:80/", "::1", 80, false),
            ("https://[2606:4700::1]/", "2606:4700::1", 443, true),
        ] {
            let target = Target::http(url).unwrap();
            assert_eq!((target.host(), target.port(), target.is_secure()), (host, port, secure), "{url}");
            assert!(Target::websocket(url).is_err());
        }
        assert_eq!(Target::websocket("wss://example.com/ws").unwrap().port(), 443);
        assert_eq!(Target::websocket("ws://example.com").unwrap().port(), 80);
    }

    #[test]
    fn invalid_urls() {
        for url in [
            "",
            "/path",
            "example.com",
            "example.com/a",
            "did:web:example.com",
            "didcomm:transport/queue",
            "ftp://example.com/",
            "file:///etc/passwd",
            "mailto:a@example.com",
            "http://",
            "http:///a",
            "https://user@example.com/",
            "https://user:password@example.com/",
            "https://good.example@127.0.0.1/",
            "https://@example.com/",
            "https://example.com:0/",
            "https://example.com:99999/",
            "https://example.com:x/",
            "https://example.com:/",
            "https://exa mple.com/",
            "https://example.com/\r\nX: y",
            "https://ex\u{e4}mple.com/",
            "https://[::1/",
            "wss://example.com",
        ] {
            assert!(matches!(Target::http(url), Err(NetError::Url { .. })), "{url}: {:?}", Target::http(url));
        }
        assert!(Target::http(&format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES))).is_err());
    }

    #[test]
    fn urls_of_one_server_have_one_origin() {
        let origin = |url: &str| Target::parse(url).unwrap().origin();
        for (one, other) in [
            ("https://Example.com/a", "https://example.com.:443/b?c"),
            ("http://127.0.0.1:80/", "ws://[::ffff:127.0.0.1]"),
            ("http://[0:0::1]:8080/", "http://[::1]:8080/x"),
        ] {
            assert_eq!(origin(one), origin(other));
        }
        for (one, other) in [
            ("https://example.com/", "http://example.com/"),
            ("https://example.com/", "https://example.com:444/"),
            ("https://example.com/", "https://www.example.com/"),
        ] {
            assert_ne!(origin(one), origin(other));
        }
        assert_eq!(origin("wss://[::1]/x").to_string(), "https://[::1]:443");
    }

    #[test]
    fn redirect_locations() {
        let here = Target::http("https://a.example:1/b/c?d").unwrap();
        for (location, there) in [
            ("https://b.example/x", "https://b.example/x"),
            ("//b.example/x", "https://b.example/x"),
            ("/x:y", "https://a.example:1/x:y"),
            ("x", "https://a.example:1/b/x"),
            ("?x=1:2", "https://a.example:1/b/c?x=1:2"),
            ("http://127.0.0.1/", "http://127.0.0.1/"),
        ] {
            assert_eq!(here.join(location).unwrap().to_string(), there, "{location}");
        }
        for location in ["file:///etc/passwd", "gopher://x/", "//user@b.example/", "data:,x", "ws://b.example/"] {
            assert!(here.join(location).is_err(), "{location}");
        }
    }
}
