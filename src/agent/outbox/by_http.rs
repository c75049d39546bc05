//! Messages by HTTP and by WebSocket, as transports of the outbox.

use async_trait::async_trait;
use hyper::body::Bytes;

use super::{SendError, Transport};
use crate::{
    agent::net::{HttpClient, Limits, NetError, WebSocketClient, status_passes},
    didcomm::ENCRYPTED,
};

impl From<NetError> for SendError {
    fn from(error: NetError) -> Self {
        Self { passes: error.passes(), reason: error.to_string(), retry_after: None }
    }
}

#[async_trait]
impl Transport for HttpClient {
    fn schemes(&self) -> &[&str] {
        &["https", "http"]
    }

    async fn send(&self, uri: &str, packed: &str) -> Result<Vec<String>, SendError> {
        let packed = Bytes::copy_from_slice(packed.as_bytes());
        let answer = self.post(uri, ENCRYPTED, packed, Limits::default()).await?;
        if answer.is_success() {
            // What comes back is a message, or nothing that matters.
            let body = answer.body.ok().and_then(|body| String::from_utf8(body.to_vec()).ok());
            return Ok(body.filter(|text| text.starts_with('{')).into_iter().collect());
        }
        // A server that is not set up yet has no such page, and one behind a wrong proxy is forbidden: that passes too.
        let passes = status_passes(answer.status) || !matches!(answer.status, 400 | 413 | 415 | 422);
        let reason = format!("{uri} answers with status {}", answer.status);
        Err(SendError { reason, passes, retry_after: answer.retry_after })
    }
}

#[async_trait]
impl Transport for WebSocketClient {
    fn schemes(&self) -> &[&str] {
        &["wss", "ws"]
    }

    /// One socket for one message. Nothing says that it was taken: it was written, and the peer took leave in order.
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
