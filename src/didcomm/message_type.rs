//! Message type URIs (DIDComm v2.1 "Protocol Identifier URI", "Message Type URI").

/// The parts of a message type URI: `doc-uri` `protocol` `/` `version` `/` `message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageType<'a> {
    /// The part before the protocol name, including the delimiter.
    pub doc_uri: &'a str,
    /// The protocol name.
    pub protocol: &'a str,
    /// The version: `major.minor`, sometimes with a patch number.
    pub version: &'a str,
    /// The message name.
    pub message: &'a str,
}

impl<'a> MessageType<'a> {
    /// Parses a URI by the pattern of the specification, `(.*?)([a-z0-9._-]+)/(\d[^/]*)/([a-z0-9._-]+)$`, without
    /// regard to case. `None` if the URI does not match.
    pub fn parse(uri: &'a str) -> Option<Self> {
        let (rest, message) = uri.rsplit_once('/')?;
        let (rest, version) = rest.rsplit_once('/')?;
        let protocol = &rest[rest.trim_end_matches(is_name).len()..];
        let doc_uri = &rest[..rest.len() - protocol.len()];
        let is_valid = !message.is_empty()
            && message.chars().all(is_name)
            && version.starts_with(|c: char| c.is_ascii_digit())
            && !protocol.is_empty();
        is_valid.then_some(Self { doc_uri, protocol, version, message })
    }

    /// The major version: the number before the first dot.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// Whether two types are compatible: the same document URI, the same names without regard to case and punctuation,
    /// and the same major version. Minor versions are compatible (semver).
    pub fn is_compatible_with(&self, other: &MessageType<'_>) -> bool {
        self.doc_uri == other.doc_uri
            && same_name(self.protocol, other.protocol)
            && self.major().is_some()
            && self.major() == other.major()
            && same_name(self.message, other.message)
    }
}

/// Whether two names of protocols or messages are the same, without regard to case and punctuation.
pub fn same_name(a: &str, b: &str) -> bool {
    let letters = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    letters(a) == letters(b)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_parsed_and_compared() {
        let ping = MessageType::parse("https://didcomm.org/trust-ping/2.0/ping-response").unwrap();
        assert_eq!(
            (ping.doc_uri, ping.protocol, ping.version, ping.message),
            ("https://didcomm.org/", "trust-ping", "2.0", "ping-response")
        );
        assert!(
            ping.is_compatible_with(&MessageType::parse("https://didcomm.org/TrustPing/2.7/PingResponse").unwrap())
        );
        assert!(
            !ping.is_compatible_with(&MessageType::parse("https://didcomm.org/trust-ping/3.0/ping-response").unwrap())
        );
        assert!(
            !ping.is_compatible_with(&MessageType::parse("https://example.org/trust-ping/2.0/ping-response").unwrap())
        );
        for bad in ["", "a/b", "a/b/c", "https://didcomm.org/ping/2.0/", "https://didcomm.org//2.0/ping", "p/x1/m"] {
            assert_eq!(MessageType::parse(bad), None, "{bad}");
        }
        assert_eq!(MessageType::parse("é/2.0/ping"), None);
        assert_eq!(MessageType::parse("én/2.0/ping").unwrap().doc_uri, "é");
    }
}
