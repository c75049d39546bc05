//! Message type URIs (DIDComm v2.1 "Protocol Identifier URI", "Message Type URI").

/// A message type URI, taken apart: `doc-uri` `protocol` `/` `version` `/` `message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageType<'a> {
    /// What stands before the protocol's name, with its last delimiter.
    pub doc_uri: &'a str,
    /// The protocol's name.
    pub protocol: &'a str,
    /// The version as it stands: `major.minor`, and sometimes a patch.
    pub version: &'a str,
    /// The message's name.
    pub message: &'a str,
}

impl<'a> MessageType<'a> {
    /// Takes a URI apart by the specification's pattern `(.*?)([a-z0-9._-]+)/(\d[^/]*)/([a-z0-9._-]+)$`, case ignored.
    pub fn parse(uri: &'a str) -> Option<Self> {
        let (rest, message) = uri.rsplit_once('/')?;
        let (rest, version) = rest.rsplit_once('/')?;
        let protocol = &rest[rest.trim_end_matches(is_name).len()..];
        let doc_uri = &rest[..rest.len() - protocol.len()];
        let sound = !message.is_empty()
            && message.chars().all(is_name)
            && version.starts_with(|c: char| c.is_ascii_digit())
            && !protocol.is_empty();
        sound.then_some(Self { doc_uri, protocol, version, message })
    }

    /// The number before the first dot of the version.
    pub fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// Whether it is a message of a protocol that we speak: the same document, the same name but for case and
    /// punctuation, and the same major version. A minor version is compatible (semver; patches are not used).
    pub fn is(&self, other: &MessageType<'_>) -> bool {
        self.doc_uri == other.doc_uri
            && same_name(self.protocol, other.protocol)
            && self.major().is_some()
            && self.major() == other.major()
            && same_name(self.message, other.message)
    }
}

/// Whether two names of protocols or messages are one: case and punctuation do not count.
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
    fn taken_apart() {
        let ping = MessageType::parse("https://didcomm.org/trust-ping/2.0/ping-response").unwrap();
        assert_eq!(
            (ping.doc_uri, ping.protocol, ping.version, ping.message),
            ("https://didcomm.org/", "trust-ping", "2.0", "ping-response")
        );
        assert!(ping.is(&MessageType::parse("https://didcomm.org/TrustPing/2.7/PingResponse").unwrap()));
        assert!(!ping.is(&MessageType::parse("https://didcomm.org/trust-ping/3.0/ping-response").unwrap()));
        assert!(!ping.is(&MessageType::parse("https://example.org/trust-ping/2.0/ping-response").unwrap()));
        for bad in ["", "a/b", "a/b/c", "https://didcomm.org/ping/2.0/", "https://didcomm.org//2.0/ping", "p/x1/m"] {
            assert_eq!(MessageType::parse(bad), None, "{bad}");
        }
        assert_eq!(MessageType::parse("é/2.0/ping"), None);
        assert_eq!(MessageType::parse("én/2.0/ping").unwrap().doc_uri, "é");
    }
}
