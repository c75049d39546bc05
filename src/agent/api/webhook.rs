//! The application's messages, brought to it: each is POSTed until it is taken, one after the other in the order they came.
//!
//! There is no list of what is to be brought: it is what waits in the inbox. So a restart changes nothing, what was taken is
//! acknowledged and never brought again, and a message comes at least once: twice, if its answer or the acknowledgement was
//! lost.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use hyper::{Uri, body::Bytes};
use sha2::Sha256;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    access::{names_loopback, secret_line},
    inbox::Delivered,
};
use crate::agent::{
    Agent,
    clock::{full_jitter, now},
    net::HttpClient,
    store::{Delivery, DeliveryQuery, StoreError},
    told_to_end,
};

/// Where messages are brought.
pub struct Webhook {
    url: String,
    /// For the log: of the rest of a URL it is not known whether it is a secret.
    host: String,
    secret: Zeroizing<String>,
    types: Vec<String>,
}

/// A URL that no message is brought to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It is none.
    #[error("it is no URL of https")]
    Malformed,
    /// It has a name and a password.
    #[error("it has a user's name in it: the signature says who brings a message")]
    User,
    /// Messages would go over the network in the clear.
    #[error("it is of http and not of the loopback interface: messages would go over the network in the clear")]
    Clear,
}

const SIGNATURE: &str = "claviger-signature";
/// Between two tries it waits so long at most: after the first failure, and however many there were.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How often the store is looked at even if nothing is heard.
const LOOK: Duration = Duration::from_secs(15);

impl Webhook {
    /// Messages of these types, or of any if there are none, are brought to `url`.
    ///
    /// # Errors
    /// If it is not to be used.
    pub fn new(url: &str, secret: Zeroizing<String>, types: Vec<String>) -> Result<Self, BadUrl> {
        let uri: Uri = url.parse().map_err(|_| BadUrl::Malformed)?;
        let authority = uri.authority().ok_or(BadUrl::Malformed)?;
        let host = authority.host();
        if host.is_empty() || !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err(BadUrl::Malformed);
        }
        if authority.as_str().contains('@') {
            return Err(BadUrl::User);
        }
        if uri.scheme_str() == Some("http") && !names_loopback(host) {
            return Err(BadUrl::Clear);
        }
        Ok(Self { url: url.to_owned(), host: host.to_owned(), secret, types })
    }

    /// The secret under which messages are signed: the first line of a file, which only its owner may read.
    ///
    /// # Errors
    /// If it cannot be read, is readable by others, or is shorter than 32 characters.
    pub fn secret(path: &Path) -> io::Result<Zeroizing<String>> {
        secret_line(path)
    }

    /// The host that messages are brought to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Brings messages until it is told to end.
    pub async fn run(self, agent: Arc<Agent>, client: HttpClient, mut shutdown: watch::Receiver<bool>) {
        let mut heard = agent.events();
        let mut run = Run { webhook: self, agent, client, passed: 0, failures: 0 };
        loop {
            let found = match run.next().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, "the webhook waits for the store");
                    None
                }
            };
            let Some(delivery) = found else {
                tokio::select! {
                    () = told_to_end(&mut shutdown) => return,
                    _ = heard.recv() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            };
            let pause = tokio::select! {
                () = told_to_end(&mut shutdown) => return,
                brought = run.bring(&delivery) => match brought {
                    Ok(()) => None,
                    Err(why) => Some(run.failed(&delivery, &why)),
                },
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = told_to_end(&mut shutdown) => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    /// `t` is the time in seconds, `v1` the HMAC-SHA256 of it, a full stop and the body: so a message that was overheard cannot be
    /// brought again later.
    fn signature(&self, seconds: i64, body: &[u8]) -> String {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(self.secret.as_bytes()).expect("HMAC takes a key of any length");
        mac.update(format!("{seconds}.").as_bytes());
        mac.update(body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={seconds},v1={hex}")
    }
}

/// The secret is not shown, nor what of the URL may be one.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host).field("types", &self.types).finish_non_exhaustive()
    }
}

/// A webhook at work.
struct Run {
    webhook: Webhook,
    agent: Arc<Agent>,
    client: HttpClient,
    /// Up to this cursor there is nothing for the webhook.
    passed: i64,
    failures: u32,
}

impl Run {
    /// The oldest that waits: read again for each try, as an application may have acknowledged it meanwhile.
    async fn next(&mut self) -> Result<Option<Delivery>, StoreError> {
        loop {
            let query = DeliveryQuery { after: self.passed, limit: 1, ..DeliveryQuery::default() };
            let Some(found) = self.agent.store().deliveries(query).await?.pop() else { return Ok(None) };
            if self.webhook.types.is_empty() || self.webhook.types.contains(&found.kind) {
                return Ok(Some(found));
            }
            self.passed = found.cursor;
        }
    }

    /// Tries it once; acknowledged if it is taken.
    async fn bring(&mut self, delivery: &Delivery) -> Result<(), String> {
        let content = self.agent.books.content(delivery).map_err(|error| error.to_string())?;
        let body = serde_json::to_vec(&Delivered::new(delivery.clone(), content)).map_err(|error| error.to_string())?;
        let signature = self.webhook.signature(now() / 1000, &body);
        let headers = [(SIGNATURE, signature.as_str())];
        let status = self.client.post_to_own(&self.webhook.url, "application/json", &headers, Bytes::from(body)).await;
        let status = status.map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("{} answers with status {status}", self.webhook.host));
        }
        self.agent.acknowledge(std::slice::from_ref(&delivery.id)).await.map_err(|error| error.to_string())?;
        if self.failures > 0 {
            tracing::info!(host = self.webhook.host, "the webhook takes messages again");
        }
        self.failures = 0;
        Ok(())
    }

    /// How long it waits. What is said each time is said aloud once.
    fn failed(&mut self, delivery: &Delivery, why: &str) -> Duration {
        self.failures = self.failures.saturating_add(1);
        match self.failures {
            1 => tracing::warn!(id = delivery.id, why, "the webhook has not taken a message, which is tried again"),
            _ => tracing::debug!(id = delivery.id, why, self.failures, "the webhook has not taken a message"),
        }
        full_jitter(FIRST_PAUSE, LONGEST_PAUSE, self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Webhook, BadUrl> {
        Webhook::new(url, Zeroizing::new("0123456789abcdef0123456789abcdef".to_owned()), Vec::new())
    }

    /// By `printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef`.
    #[test]
    fn the_signature() {
        let webhook = of("https://example.org/hook").unwrap();
        assert_eq!(
            webhook.signature(1_700_000_000, b"{}"),
            "t=1700000000,v1=417adf36b901772f658597a76d329694e335e65fc0849d7715c3ca33406309b5"
        );
    }

    #[test]
    fn whereto() {
        for good in ["https://example.org", "http://127.0.0.1:1/x?y", "http://[::1]:8080/", "http://localhost/"] {
            assert!(of(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://example.org/", BadUrl::Clear),
            ("http://10.0.0.1/", BadUrl::Clear),
            ("http://localhost.example.org/", BadUrl::Clear),
            ("https://me:word@example.org/", BadUrl::User),
            ("ftp://localhost/", BadUrl::Malformed),
            ("/hook", BadUrl::Malformed),
            ("", BadUrl::Malformed),
        ] {
            assert_eq!(of(bad).unwrap_err(), why, "{bad}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?}", of("https://example.org/secret-path").unwrap());
        assert!(!shown.contains("0123456789") && !shown.contains("secret-path"), "{shown}");
    }
}
