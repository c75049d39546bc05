//! A webhook: where letters are posted, which ones, and how they are signed. A *letter* is a message of the inbox, or an
//! event.

use std::{fmt, io, path::Path};

use hyper::Uri;
use zeroize::Zeroizing;

use super::{
    access::names_loopback,
    webhook_secret::{InvalidWebhookSecret, WebhookSecret},
};
use crate::{
    agent::{
        clock::Millis,
        event::{EventKind, UnknownEventKind},
        secret_file::read_secret_line,
    },
    net::Target,
};

/// A webhook: the URL that letters are posted to, the secret that signs them, and its options.
pub struct Webhook {
    url: String,
    /// The host of the URL, for the log and the API. The rest of the URL may be a secret.
    host: String,
    pub(super) secret: WebhookSecret,
    pub(super) options: WebhookOptions,
}

/// The options of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookOptions {
    /// The name of the webhook, in the log, in metrics, and in the ids of its dead letters. No two webhooks have the same.
    pub name: String,
    /// The kinds of what is posted: [`MESSAGE`] for messages of the inbox, and names of [`EventKind`].
    pub events: Vec<String>,
    /// The types of the messages that are posted. Empty: all.
    pub types: Vec<String>,
    /// How long a letter waits for a receiver that is away, in milliseconds. 0: for ever.
    pub give_up: Millis,
    /// How often a letter is posted that the receiver refuses; the message of a stranger is posted once.
    pub refused_attempts: u32,
    /// The most dead letters, without messages of strangers. While there are so many, no further letter is set aside.
    pub max_dead_letters: usize,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        Self {
            name: "webhook".to_owned(),
            events: vec![MESSAGE.to_owned()],
            types: Vec::new(),
            give_up: 24 * 60 * 60 * 1000,
            refused_attempts: 5,
            max_dead_letters: 10_000,
        }
    }
}

/// Why a webhook cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The name cannot be used.
    #[error("the name {0:?} is not 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// There are no events of this kind.
    #[error("{0}, and `message`")]
    Event(#[from] UnknownEventKind),
    /// The URL is malformed, or its scheme is neither `https` nor `http`.
    #[error("it is no valid https URL")]
    Malformed,
    /// The URL contains a user name or a password.
    #[error("it contains a user name; a receiver is to verify the signature instead")]
    Credentials,
    /// Messages would be sent over the network in clear text.
    #[error("it is an http URL outside the loopback interface: messages would be sent in clear text")]
    Plaintext,
    /// The secret is invalid.
    #[error(transparent)]
    Secret(#[from] InvalidWebhookSecret),
}

/// The kind of messages of the inbox, among the kinds of events.
pub const MESSAGE: &str = "message";
/// The longest name of a webhook, in bytes.
const MAX_NAME: usize = 64;

impl Webhook {
    /// A webhook with these options that posts to `url`, and signs with `secret`.
    ///
    /// # Errors
    /// If the URL, the secret or an option cannot be used.
    pub fn new(url: &str, secret: Zeroizing<String>, options: WebhookOptions) -> Result<Self, WebhookError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=MAX_NAME).contains(&options.name.len()) || !options.name.bytes().all(is_plain) {
            return Err(WebhookError::Name(options.name));
        }
        for kind in options.event_kinds() {
            kind.parse::<EventKind>()?;
        }
        let uri: Uri = url.parse().map_err(|_| WebhookError::Malformed)?;
        let authority = uri.authority().ok_or(WebhookError::Malformed)?;
        let host = authority.host();
        if host.is_empty() || !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(WebhookError::Malformed);
        }
        if authority.as_str().contains('@') {
            return Err(WebhookError::Credentials);
        }
        if uri.scheme_str() == Some("http") && !names_loopback(host) {
            return Err(WebhookError::Plaintext);
        }
        // The client is stricter, about ports for example. Its errors name the whole URL, so it must not find one later.
        Target::http(url).map_err(|_| WebhookError::Malformed)?;
        Ok(Self { url: url.to_owned(), host: host.to_owned(), secret: WebhookSecret::parse(secret)?, options })
    }

    /// Reads the secret that signs the letters: the first line of a file that only its owner may read.
    ///
    /// # Errors
    /// If the file cannot be read or is readable by others, or the secret has fewer than 32 characters or is invalid.
    pub fn read_secret(path: &Path) -> io::Result<Zeroizing<String>> {
        let secret = read_secret_line(path)?;
        let parsed = WebhookSecret::parse(secret.clone());
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(secret)
    }

    /// The URL that letters are posted to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The host that letters are posted to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The options.
    pub fn options(&self) -> &WebhookOptions {
        &self.options
    }
}

impl WebhookOptions {
    /// Whether messages of this type are posted.
    pub(super) fn wants_message(&self, kind: &str) -> bool {
        self.wants_messages() && (self.types.is_empty() || self.types.iter().any(|it| it == kind))
    }

    /// The kinds of events that are posted, without messages.
    pub fn event_kinds(&self) -> impl Iterator<Item = &str> {
        self.events.iter().map(String::as_str).filter(|kind| *kind != MESSAGE)
    }

    /// Whether messages are posted at all.
    pub(super) fn wants_messages(&self) -> bool {
        self.events.iter().any(|kind| kind == MESSAGE)
    }
}

/// Hides the secret, and the parts of the URL that may be secret.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host).field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, url: &str) -> Result<Webhook, WebhookError> {
        let options = WebhookOptions { name: name.to_owned(), ..WebhookOptions::default() };
        Webhook::new(url, Zeroizing::new("0123456789abcdef0123456789abcdef".to_owned()), options)
    }

    fn webhook(url: &str) -> Result<Webhook, WebhookError> {
        named("webhook", url)
    }

    /// A name is a part of the ids of dead letters, and a label of metrics.
    #[test]
    fn names() {
        for valid in ["a", "crm-2", "Audit.log_1"] {
            assert!(named(valid, "https://example.org").is_ok(), "{valid}");
        }
        for invalid in ["", "a b", "a:b", "a/b", "\u{e4}", "a\"", &"a".repeat(65)] {
            assert!(matches!(named(invalid, "https://example.org"), Err(WebhookError::Name(_))), "{invalid}");
        }
    }

    #[test]
    fn urls() {
        for valid in ["https://example.org", "http://127.0.0.1:1/x?y", "http://[::1]:8080/", "http://localhost/"] {
            assert!(webhook(valid).is_ok(), "{valid}");
        }
        for (invalid, error) in [
            ("http://example.org/", WebhookError::Plaintext),
            ("http://10.0.0.1/", WebhookError::Plaintext),
            ("http://localhost.example.org/", WebhookError::Plaintext),
            ("https://me:word@example.org/", WebhookError::Credentials),
            ("ftp://localhost/", WebhookError::Malformed),
            ("/hook", WebhookError::Malformed),
            ("https://example.org:99999/secret-path", WebhookError::Malformed),
            ("https://example.org:0/", WebhookError::Malformed),
            ("", WebhookError::Malformed),
        ] {
            assert_eq!(webhook(invalid).unwrap_err(), error, "{invalid}");
        }
    }

    #[test]
    fn debug_output_has_no_secret() {
        let shown = format!("{:?}", webhook("https://example.org/secret-path").unwrap());
        assert!(!shown.contains("0123456789") && !shown.contains("secret-path"), "{shown}");
    }
}
