//! Routing 2.0 as its recipient (DIDComm v2.1 "Routing Protocol 2.0").
//!
//! A forward to ourselves ("Rewrapping") was opened when the message was unpacked. One that comes here is for somebody
//! else, and this agent is no mediator.

use async_trait::async_trait;

use super::{Fault, Protocol, Received, Turn};

/// Drops forwards. It is a one-way protocol: nobody is told.
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

    /// A forward is anonymous by its nature.
    fn reads_anonymous(&self) -> bool {
        true
    }

    async fn handle(&self, received: &Received, _turn: &mut Turn<'_>) -> Result<(), Fault> {
        tracing::info!(ours = received.ours, "a forward for somebody else is dropped: this agent is no mediator");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        agent::protocol::testing::{World, anonymous},
        didcomm::FORWARD,
    };

    #[tokio::test]
    async fn a_forward_is_dropped() {
        let forward = anonymous(FORWARD, json!({"next": "did:example:somebody"}));
        let outcome = World::default().handle(&Routing, &forward).await.unwrap();
        assert!(outcome.sent.is_empty() && !outcome.delivered && outcome.written.is_empty());
    }
}
