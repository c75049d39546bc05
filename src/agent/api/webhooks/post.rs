//! One attempt to post a letter.

use std::time::Duration;

use hyper::body::Bytes;

use crate::{
    agent::{api::webhook::Webhook, clock::now},
    net::{HttpClient, is_retryable_status},
};

/// Why a receiver did not accept a letter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub fault: Fault,
    /// The HTTP status; none if there was no answer.
    pub status: Option<u16>,
    /// For the log and the API. It names the host of the URL, and no other part.
    pub problem: String,
    /// How long the receiver asks us to wait.
    pub retry_after: Option<Duration>,
}

/// What a failure tells about the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The receiver is away or busy: the letter waits for it.
    Away,
    /// The receiver refuses this letter.
    Refused,
    /// The receiver wants no more letters (Standard Webhooks, "Delivery success and failure": 410).
    Gone,
}

impl Fault {
    /// The name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

impl Failure {
    /// Whether this letter may be at fault: the receiver is there, and not only busy. Many answer 500 to a letter that they do
    /// not understand.
    pub fn may_be_of_letter(&self) -> bool {
        self.fault != Fault::Gone && self.status.is_some_and(|it| !matches!(it, 408 | 425 | 429 | 502..=504))
    }
}

/// The headers of a request (Standard Webhooks, "Webhook headers").
const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";
/// A deprecated header, which is sent for one more release.
const DEPRECATED_SIGNATURE: &str = "claviger-signature";
/// The longest wait that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Posts a letter. Returns once the receiver has accepted it.
pub(super) async fn post(webhook: &Webhook, client: &HttpClient, id: &str, body: Vec<u8>) -> Result<(), Failure> {
    let seconds = now() / 1000;
    let (timestamp, signature) = (seconds.to_string(), webhook.secret.sign(id, seconds, &body));
    let deprecated = webhook.secret.sign_deprecated(seconds, &body);
    let headers = [(ID, id), (TIMESTAMP, &timestamp), (SIGNATURE, &signature), (DEPRECATED_SIGNATURE, &deprecated)];
    let answer = client.post_without_redirects(webhook.url(), "application/json", &headers, Bytes::from(body)).await;
    let head = answer.map_err(|error| Failure {
        fault: Fault::Away,
        status: None,
        problem: error.to_string(),
        retry_after: None,
    })?;
    let fault = match head.status {
        200..=299 => return Ok(()),
        410 => Fault::Gone,
        status if is_retryable_status(status) => Fault::Away,
        _ => Fault::Refused,
    };
    Err(Failure {
        fault,
        status: Some(head.status),
        problem: format!("{} answers with status {}", webhook.host(), head.status),
        retry_after: head.retry_after.map(|wait| wait.min(MAX_RETRY_AFTER)),
    })
}
