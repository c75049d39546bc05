//! Routing 2.0, in the role of the recipient (DIDComm v2.1 "Routing Protocol 2.0").
//!
//! Unpacking opens a forward to one of our own DIDs ("Rewrapping"). A forward that this protocol receives is for
//! another DID, and this agent is no mediator.

use async_trait::async_trait;

use super::{handler::Protocol, problem::HandleError, received::Received, transaction::Transaction};

/// Drops forwards. The protocol is one-way, so the sender gets no report.
#[derive(Debug, Clone, Copy)]
pub struct Routing;

#[async_trait]
impl Protocol for Routing {
    fn piuri(&self) -> &str {
        "https://didcomm.org/routing/2.0"
    }

    fn roles(&self) -> &[&str] {
        &["recipient"]
    }

    /// Forwards are anonymous.
    fn accepts_anonymous(&self) -> bool {
        true
    }

    async fn handle(&self, received: &Received, _tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        tracing::info!(recipient = received.recipient, "forward dropped: this agent is no mediator");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        agent::protocol::testing::{Harness, anonymous},
        didcomm::FORWARD,
    };

    #[tokio::test]
    async fn a_forward_is_dropped() {
        let forward = anonymous(FORWARD, json!({"next": "did:example:somebody"}));
        let outcome = Harness::default().handle(&Routing, &forward).await.unwrap();
        assert!(outcome.sent.is_empty() && !outcome.delivered && outcome.written.is_empty());
    }
}
