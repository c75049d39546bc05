//! The transports over HTTP and WebSocket.

use std::{any::Any, time::Duration};

use async_trait::async_trait;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::transport::{SendError, SendFault, SendLimits, Transport};
use crate::{
    didcomm::ENCRYPTED,
    net::{HttpClient, NetError, RequestLimits, WebSocketClient, is_retryable_status},
};

impl From<NetError> for SendError {
    fn from(error: NetError) -> Self {
        let (reason, is_retryable) = (error.to_string(), error.is_retryable());
        match error {
            NetError::Url { .. } | NetError::Refused { .. } => Self::unusable(reason),
            NetError::WebSocketRefused { .. } | NetError::Redirect { .. } => {
                Self { fault: SendFault::Refused, is_retryable, reason, retry_after: None }
            }
            _ => Self { fault: SendFault::Unreachable, is_retryable, reason, retry_after: None },
        }
    }
}

#[async_trait]
impl Transport for HttpClient {
    fn schemes(&self) -> &[&str] {
        &["https", "http"]
    }

    async fn reach(&self, uri: &str, limit: Duration) -> Result<Box<dyn Any + Send>, SendError> {
        Ok(Box::new(HttpClient::reach(self, uri, limit).await?))
    }

    async fn send(&self, uri: &str, packed: &str, limits: SendLimits) -> Result<Vec<String>, SendError> {
        let packed = Bytes::copy_from_slice(packed.as_bytes());
        let limits = RequestLimits { timeout: limits.time, max_response_bytes: limits.returned_bytes };
        let answer = self.post(uri, ENCRYPTED, packed, limits).await?;
        if answer.is_success() {
            // A body that is no message is ignored.
            let body = answer.body.ok().and_then(|body| String::from_utf8(body.to_vec()).ok());
            return Ok(body.filter(|text| text.starts_with('{')).into_iter().collect());
        }
        // A server that is not set up yet answers 404, and a misconfigured proxy answers 403. Either may be repaired.
        let is_retryable = is_retryable_status(answer.status) || !matches!(answer.status, 400 | 413 | 415 | 422);
        let reason = format!("{uri} answers with status {}", answer.status);
        Err(SendError { reason, is_retryable, fault: SendFault::Refused, retry_after: answer.retry_after })
    }
}

#[async_trait]
impl Transport for WebSocketClient {
    fn schemes(&self) -> &[&str] {
        &["wss", "ws"]
    }

    async fn reach(&self, uri: &str, limit: Duration) -> Result<Box<dyn Any + Send>, SendError> {
        Ok(Box::new(WebSocketClient::reach(self, uri, limit).await?))
    }

    /// Opens a WebSocket for one message. DIDComm over WebSocket has no confirmation of a message. Success means that
    /// the message was written, and that the peer closed the WebSocket with a close frame.
    async fn send(&self, uri: &str, packed: &str, limits: SendLimits) -> Result<Vec<String>, SendError> {
        let SendLimits { time, returned_bytes } = limits;
        let sent = timeout(time, async {
            let (sender, mut receiver) = self.connect(uri).await?;
            sender.send(Bytes::copy_from_slice(packed.as_bytes())).await?;
            sender.close().await;
            let (mut returned, mut room) = (Vec::new(), returned_bytes);
            while let Some(message) = receiver.receive().await? {
                match room.checked_sub(message.len()) {
                    Some(rest) => room = rest,
                    None => continue,
                }
                returned.extend(String::from_utf8(message.to_vec()));
            }
            Ok(returned)
        });
        let reason = || format!("{uri} did not take the message and close the WebSocket within {time:?}");
        sent.await
            .unwrap_or_else(|_| Err(SendError { fault: SendFault::Unreachable, ..SendError::retryable(reason()) }))
    }
}
