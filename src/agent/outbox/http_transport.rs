//! The transports over HTTP and WebSocket.

use async_trait::async_trait;
use hyper::body::Bytes;

use super::transport::{SendError, Transport};
use crate::{
    didcomm::ENCRYPTED,
    net::{HttpClient, NetError, RequestLimits, WebSocketClient, is_retryable_status},
};

impl From<NetError> for SendError {
    fn from(error: NetError) -> Self {
        Self { is_retryable: error.is_retryable(), reason: error.to_string(), retry_after: None }
    }
}

#[async_trait]
impl Transport for HttpClient {
    fn schemes(&self) -> &[&str] {
        &["https", "http"]
    }

    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError> {
        let packed = Bytes::copy_from_slice(packed.as_bytes());
        let answer = self.post(uri, ENCRYPTED, packed, RequestLimits::default()).await?;
        if answer.is_success() {
            // A body that is no message is ignored.
            let body = answer.body.ok().and_then(|body| String::from_utf8(body.to_vec()).ok());
            return Ok(body.filter(|text| text.starts_with('{')).into_iter().collect());
        }
        // A server that is not set up yet answers 404, and a misconfigured proxy answers 403. Either may be repaired.
        let is_retryable = is_retryable_status(answer.status) || !matches!(answer.status, 400 | 413 | 415 | 422);
        let reason = format!("{uri} answers with status {}", answer.status);
        Err(SendError { reason, is_retryable, retry_after: answer.retry_after })
    }
}

#[async_trait]
impl Transport for WebSocketClient {
    fn schemes(&self) -> &[&str] {
        &["wss", "ws"]
    }

    /// Opens a WebSocket for one message. DIDComm over WebSocket has no confirmation of a message. Success means that
    /// the message was written, and that the peer closed the WebSocket with a close frame.
    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError> {
        let (sender, mut receiver) = self.connect(uri).await?;
        sender.send(Bytes::copy_from_slice(packed.as_bytes())).await?;
        sender.close().await;
        let mut returned = Vec::new();
        while let Some(message) = receiver.receive().await? {
            returned.extend(String::from_utf8(message.to_vec()));
        }
        Ok(returned)
    }
}
