//! The webhook, which POSTs messages to the application in their order. A message is repeated until the receiver
//! accepts it. Only then is the next message sent.
//!
//! The webhook has no list of its own: it delivers the unacknowledged messages of the inbox. So nothing is lost at a
//! restart, and an accepted message is acknowledged and never delivered again. A message is delivered at least once. It
//! is delivered twice if the response or the acknowledgement was lost.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use hyper::{Uri, body::Bytes};
use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    access::names_loopback,
    delivered::DeliveredMessage,
    secret_file::read_secret_line,
    webhook_secret::{InvalidWebhookSecret, WebhookSecret},
};
use crate::{
    agent::{
        agent::Agent,
        clock::{full_jitter, now},
        store::{Delivery, DeliveryQuery, StoreError},
    },
    net::HttpClient,
};

/// A webhook: the URL that messages are delivered to, the secret that signs them, and their types.
pub struct Webhook {
    url: String,
    /// The host of the URL, for the log. The rest of the URL may be a secret.
    host: String,
    secret: WebhookSecret,
    types: Vec<String>,
}

/// Why a webhook cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The URL is malformed, or its scheme is neither `https` nor `http`.
    #[error("it is no https URL")]
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

/// The headers of a delivery (Standard Webhooks, "Webhook headers").
const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";
/// A deprecated header, which is sent for one more release.
const DEPRECATED_SIGNATURE: &str = "claviger-signature";
/// The upper limit of the pause after the first failure, and of any pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The pause after a failure of the store.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// The interval at which the store is read if there is no event.
const READ_INTERVAL: Duration = Duration::from_secs(15);

impl Webhook {
    /// A webhook that delivers messages of these types, or of all types if there are none, to `url`.
    ///
    /// # Errors
    /// If the URL or the secret cannot be used.
    pub fn new(url: &str, secret: Zeroizing<String>, types: Vec<String>) -> Result<Self, WebhookError> {
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
        Ok(Self { url: url.to_owned(), host: host.to_owned(), secret: WebhookSecret::parse(secret)?, types })
    }

    /// Reads the secret that signs the messages: the first line of a file that only its owner may read.
    ///
    /// # Errors
    /// If the file cannot be read or is readable by others, or the secret has fewer than 32 characters or is invalid.
    pub fn read_secret(path: &Path) -> io::Result<Zeroizing<String>> {
        let secret = read_secret_line(path)?;
        let parsed = WebhookSecret::parse(secret.clone());
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(secret)
    }

    /// The URL that messages are delivered to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The host that messages are delivered to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Delivers messages until `shutdown`.
    pub async fn run(self, agent: Arc<Agent>, client: HttpClient, shutdown: CancellationToken) {
        let mut events = agent.events();
        let mut worker = Worker { webhook: self, agent, client, checked: 0, failures: 0 };
        loop {
            let next = match worker.next().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(%error, "webhook waits for the store");
                    None
                }
            };
            let Some(delivery) = next else {
                select! {
                    () = shutdown.cancelled() => return,
                    _ = events.recv() => {}
                    () = sleep(READ_INTERVAL) => {}
                }
                continue;
            };
            let id = delivery.id.clone();
            let pause = select! {
                () = shutdown.cancelled() => return,
                delivered = worker.deliver(delivery) => match delivered {
                    Ok(()) => None,
                    Err(Failure::Receiver(reason)) => Some(worker.pause_after_failure(&id, &reason)),
                    Err(Failure::Store(error)) => {
                        tracing::debug!(%error, "webhook waits for the store");
                        Some(STORE_PAUSE)
                    }
                },
            };
            if let Some(pause) = pause {
                select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Hides the secret, and the parts of the URL that may be secret.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host).field("types", &self.types).finish_non_exhaustive()
    }
}

/// Why a message was not delivered.
enum Failure {
    /// The receiver cannot be reached, or did not accept the message. The reason is for the log.
    Receiver(String),
    /// Our store is sealed until a token is ready, or does not answer. The receiver is not at fault.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A running webhook.
struct Worker {
    webhook: Webhook,
    agent: Arc<Agent>,
    client: HttpClient,
    /// The cursor of the last skipped message. The webhook delivers no message up to this cursor.
    checked: i64,
    failures: u32,
}

impl Worker {
    /// Returns the oldest message to deliver. The message is read again for each attempt, since an application may have
    /// acknowledged it through the API.
    async fn next(&mut self) -> Result<Option<Delivery>, StoreError> {
        loop {
            let query = DeliveryQuery { after: self.checked, limit: 1, ..DeliveryQuery::default() };
            let Some(delivery) = self.agent.store().deliveries(query).await?.pop() else { return Ok(None) };
            if self.webhook.types.is_empty() || self.webhook.types.contains(&delivery.kind) {
                return Ok(Some(delivery));
            }
            self.checked = delivery.cursor;
        }
    }

    /// Makes one attempt to deliver a message, and acknowledges the message if the receiver accepts it.
    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Failure> {
        let id = delivery.id.clone();
        let content = self.agent.content(&delivery)?;
        let failed = |error: &dyn fmt::Display| Failure::Receiver(error.to_string());
        let body = serde_json::to_vec(&DeliveredMessage::new(delivery, content)).map_err(|error| failed(&error))?;
        let seconds = now() / 1000;
        let (timestamp, signature) = (seconds.to_string(), self.webhook.secret.sign(&id, seconds, &body));
        let deprecated = self.webhook.secret.sign_deprecated(seconds, &body);
        let headers =
            [(ID, id.as_str()), (TIMESTAMP, &timestamp), (SIGNATURE, &signature), (DEPRECATED_SIGNATURE, &deprecated)];
        let url = &self.webhook.url;
        let status = self.client.post_without_redirects(url, "application/json", &headers, Bytes::from(body)).await;
        let status = status.map_err(|error| failed(&error))?;
        if !status.is_success() {
            return Err(failed(&format_args!("{} answers with status {status}", self.webhook.host)));
        }
        self.agent.acknowledge(&[id]).await?;
        if self.failures > 0 {
            tracing::info!(host = self.webhook.host, "webhook accepts messages again");
        }
        self.failures = 0;
        Ok(())
    }

    /// Logs a failure, and returns the pause after it. Only the first failure in a row is a warning.
    fn pause_after_failure(&mut self, id: &str, reason: &str) -> Duration {
        self.failures = self.failures.saturating_add(1);
        match self.failures {
            1 => tracing::warn!(id, reason, "webhook did not accept a message, and is retried"),
            failures => tracing::debug!(id, reason, failures, "webhook did not accept a message, and is retried"),
        }
        full_jitter(FIRST_PAUSE, MAX_PAUSE, self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str) -> Result<Webhook, WebhookError> {
        Webhook::new(url, Zeroizing::new("0123456789abcdef0123456789abcdef".to_owned()), Vec::new())
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
